"""The .proto files, their compiled form and the JSON Schemas agree; messages have the JSON form and the
reasons of the docs."""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet
from google.protobuf.json_format import ParseDict

from schemas.protobuf import json_form, reader
from schemas.protobuf.encode import encode_document
from schemas.protobuf.json_form import OPEN_BYTES, write_json
from schemas.protobuf.layouts import MESSAGES, Layout, load_class, load_layout
from schemas.readers.compiler import Node
from schemas.readers.verdicts import MessageLimits, Rejection
from schemas.registry import load
from tests.builders import report

FOLDER = Path(reader.__file__).parents[1] / "proto"
ROOT = load("kpi_report").root
MIB = 1 << 20
LIMITS = MessageLimits()


def form(payload: bytes, kind: str = "kpi_report", limits: MessageLimits = LIMITS) -> Any:
    """The JSON form as a value, or the Rejection."""
    found = write_json(kind, load(kind).root, payload, limits)
    return found if isinstance(found, Rejection) else json.loads(found)


def judge(payload: bytes, kind: str = "kpi_report", limits: MessageLimits = LIMITS) -> str:
    """The verdict on one payload."""
    payloads = pa.array([payload + b"\n"], pa.large_binary())
    if len(reader.read_block(kind, load(kind).root, payloads, limits).rows):
        return "valid"
    accepted, rejected = reader.read_rows(kind, load(kind).root, payloads, np.array([0]), limits)
    return rejected.rejections[0].reason if rejected.rejections else f"valid {len(accepted.rows)}"


def delimited(number: int, octets: bytes) -> bytes:
    """A field of bytes."""
    return varint(number << 3 | 2) + varint(len(octets)) + octets


def varint(value: int) -> bytes:
    octets = bytearray()
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    return bytes([*octets, value])


def declare(message: DescriptorProto) -> Iterator[tuple[str, str, int]]:
    """The type, as a .proto file writes it, the name and the number of each field."""
    entries = {each.name: each for each in message.nested_type}
    for field in message.field:
        entry = entries.get(field.type_name.rpartition(".")[2])
        if entry is not None:
            key, value = map(name_type, entry.field)
            yield f"map<{key}, {value}>", field.name, field.number
        else:
            label = "optional " if field.proto3_optional else ""
            label = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else label
            yield label + name_type(field), field.name, field.number


def name_type(field: FieldDescriptorProto) -> str:
    if field.type_name:
        return field.type_name.removeprefix(".").removeprefix("kpiflow.v1.")
    names = {getattr(FieldDescriptor, f"TYPE_{name.upper()}"): name for name in
             ("string", "double", "int64", "bool", "bytes")}  # fmt: skip
    return names[field.type]


def test_the_compiled_form_is_that_of_the_proto_files() -> None:
    compiled = FileDescriptorSet.FromString((FOLDER / "kpiflow.v1.binpb").read_bytes())
    files = {file.name: file for file in compiled.file if file.package == "kpiflow.v1"}
    assert sorted(files) == sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.proto"))
    for name, file in files.items():
        text = re.sub(r"//.*", "", (FOLDER / name).read_text(encoding="utf-8"))
        written = {
            message: [
                (" ".join(type_.split()), field, int(number))
                for type_, field, number in re.findall(r"([\w.<>, ]+?) (\w+) = (\d+);", body)
            ]
            for message, body in re.findall(r"message (\w+) \{(.*?)\n\}", text, re.DOTALL)
        }
        assert {message.name: list(declare(message)) for message in file.message_type} == written


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_has_the_properties_of_its_schema(kind: str) -> None:
    def compare(layout: Layout, node: Node) -> None:
        extra = layout.by_name["extra"]
        assert (extra.number, extra.shape) == (16, "struct")
        assert layout.by_name.keys() - {"extra"} == node.by_name.keys()
        for name, child in node.structs.items():
            inner = layout.by_name[name].layout
            assert inner is not None
            compare(inner, child)

    compare(load_layout(kind), load(kind).root)


def test_what_a_producer_writes_with_the_proto_file_is_the_document() -> None:
    document = report(
        1, custom_metrics={"b": 1.5}, error_details={"at": [1, None, "x"]}, network_bytes=7, trace="t"
    )
    typed = {name: value for name, value in document.items() if name != "trace"}
    message = ParseDict(typed, load_class("kpi_report")())
    message.extra["trace"] = "t"
    assert form(message.SerializeToString()) == document
    assert message == load_class("kpi_report").FromString(encode_document("kpi_report", ROOT, document))


def test_fields_that_are_not_known_are_kept_under_their_number() -> None:
    more = varint(100 << 3) + b"\x05" + delimited(101, b"a") + delimited(101, b"b")
    payload = encode_document("kpi_report", ROOT, report()) + more
    assert form(payload) == report() | {"#100": 5, "#101": ["YQ==", "Yg=="]}
    assert judge(payload) == "valid 1"


def test_a_field_of_another_wire_type_is_not_that_field() -> None:
    payload = encode_document("kpi_report", ROOT, report(accuracy=...)) + b"\x25" + struct.pack("<f", 0.5)
    assert form(payload)["#4"] == 0x3F000000
    assert judge(payload) == "schema"


def test_zero_is_not_absent_and_a_required_map_may_be_empty() -> None:
    health = {"status": "ok", "active_agents": 0, "uptime_seconds": 0.0, "resource_utilization": {}}
    payload = encode_document("system_health", load("system_health").root, health)
    assert form(payload, "system_health") == health
    assert judge(payload, "system_health") == "valid"
    assert judge(b"") == "schema"


DEEP = b""
for _ in range(300):
    DEEP = delimited(6, delimited(1, DEEP))
VALID = encode_document("kpi_report", ROOT, report())
TWICE = 2 * delimited(1, delimited(1, b"a"))
"""A Struct that has a name twice."""
REASONS = {
    "cut": (VALID[:-3], "protobuf"),
    "random": (b"\xff\xfe", "protobuf"),
    "JSON": (json.dumps(report()).encode(), "protobuf"),
    "not a number": (VALID + b"\x21" + struct.pack("<d", float("nan")), "json"),
    "an infinity in a Value": (VALID + delimited(12, b"\x11" + struct.pack("<d", float("inf"))), "json"),
    "no UTF-8": (VALID + delimited(13, b"\xff"), "utf8"),
    "no UTF-8 in a name": (VALID + delimited(8, delimited(1, b"\xff") + b"\x11" + bytes(8)), "utf8"),
    "a name twice": (VALID + 2 * delimited(8, delimited(1, b"a") + b"\x11" + bytes(8)), "duplicate_key"),
    "a name twice in a Value": (VALID + delimited(12, delimited(5, TWICE)), "duplicate_key"),
    "a name twice in a Struct": (
        encode_document("kpi_report", ROOT, report(execution_context=...))
        + delimited(10, delimited(1, b"h") + b"\x10\x01\x19" + struct.pack("<d", 1) + delimited(4, TWICE)),
        "duplicate_key",
    ),
    "a name twice deep in extra": (
        VALID + delimited(16, delimited(1, delimited(1, b"t") + delimited(2, delimited(5, TWICE)))),
        "duplicate_key",
    ),
    "a field in extra": (
        VALID + delimited(16, delimited(1, delimited(1, b"accuracy") + delimited(2, b""))), "duplicate_key"
    ),
    "a broken Struct": (VALID + delimited(16, b"\xff"), "protobuf"),
    "a deep Value": (VALID + delimited(12, DEEP), "depth"),
    "too long": (bytes(MIB + 1), "oversize"),
}  # fmt: skip


@pytest.mark.parametrize("case", REASONS)
def test_each_reason(case: str) -> None:
    payload, reason = REASONS[case]
    assert judge(payload) == reason


def test_text_that_looks_like_json_is_said_to() -> None:
    found = form(b' {"task_id": 1}')
    assert "looks like JSON; leave out --encoding" in found.message
    assert "looks like JSON" not in form(b"\xff").message


def test_the_deepest_value_that_settings_allow_is_read() -> None:
    value = b""
    for _ in range(511):
        value = delimited(6, delimited(1, value))
    deepest = MessageLimits(depth=512)
    text = write_json("kpi_report", ROOT, delimited(12, value), deepest)
    assert isinstance(text, bytes)
    assert text.count(b"[") == 511
    assert form(delimited(12, delimited(6, delimited(1, value))), limits=deepest).reason == "depth"


HOSTILE = {
    "empty Values": ("kpi_report", delimited(12, delimited(6, b"\x0a\x00" * (MIB // 8 - 20)))),
    "empty entries": ("kpi_report", b"\x42\x00" * (MIB // 8)),
    "fields that are not known": ("kpi_report", b"\xf8\x01\x00" * (MIB // 12)),
    "groups": ("kpi_report", b"\xfb\x01" * (MIB // 2)),
    "one field again and again": ("kpi_report", b"\x0a\x00" * (MIB // 2)),
    "16M capabilities": ("agent", b"\x22\x00" * (16 * MIB)),
    "stats of 32 MiB": ("agent", delimited(5, b"\x0a\x00" * (16 * MIB - 20))),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_message_gets_a_reason(case: str) -> None:
    kind, payload = HOSTILE[case]
    limits = MessageLimits(32 * MIB if kind == "agent" else MIB)
    wanted = {"oversize"} if kind == "agent" else {"schema", "duplicate_key", "protobuf"}
    assert judge(payload, kind, limits) in wanted


def test_an_agent_may_have_a_long_program_but_not_a_long_rest() -> None:
    agent = {"id": report()["agent_id"], "agent_type": "t", "state": "s"}
    octets = encode_document("agent", load("agent").root, agent) + delimited(7, bytes(3 * OPEN_BYTES))
    limits = MessageLimits(32 * MIB)
    assert judge(octets, "agent", limits) == "valid 1"
    assert judge(octets + delimited(2, bytes(OPEN_BYTES + 1)), "agent", limits) == "oversize"
    assert json_form.exceeds_open_bytes(load_layout("agent"), octets + b"\x80") is False
