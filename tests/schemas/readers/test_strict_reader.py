"""The strict reader: limits, the one canonical text, and documents that a float or a quick look would get
wrong."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.readers import strict_reader
from schemas.readers.numbers import dumps, loads
from schemas.readers.strict_reader import decode, explain, is_too_deep, read_columns
from schemas.readers.verdicts import MessageLimits, Rejection
from schemas.registry import load
from tests.builders import report

ROOT = load("kpi_report").root
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reason(payload: bytes, limits: MessageLimits | None = None) -> str | None:
    """Why a payload is no document; None where it is one."""
    read = decode(payload, limits or MessageLimits())
    return read.reason if isinstance(read, Rejection) else None


def nested(depth: int, inside: str = "") -> bytes:
    """An object with `depth` brackets open at once."""
    return ('{"a":' + "[" * (depth - 1) + inside + "]" * (depth - 1) + "}").encode()


def test_a_document_may_be_as_long_as_the_limit_and_no_longer() -> None:
    payload = b'{"a":"xxxxx"}'
    assert reason(payload, MessageLimits(payload_bytes=len(payload))) is None
    assert decode(payload, MessageLimits(payload_bytes=len(payload) - 1)) == Rejection(
        "oversize", "13 bytes are more than 12"
    )


def test_a_document_may_be_as_deep_as_the_limit_and_no_deeper() -> None:
    assert reason(nested(32)) is None
    assert decode(nested(33), MessageLimits()) == Rejection("depth", "nested deeper than 32")
    assert reason(nested(5), MessageLimits(depth=4)) == "depth"


@pytest.mark.parametrize(
    "text", ["[" * 99, "]" * 99, '\\"' + "[" * 99, "\\\\", "{" * 99 + '\\\\\\"' + "[" * 99, "é[" * 50]
)
def test_brackets_inside_of_strings_are_not_depth(text: str) -> None:
    payload = f'{{"a":"{text}","b":[[1]],"{text}":{{}}}}'.encode()
    assert not is_too_deep(payload, MessageLimits(depth=3))
    assert reason(payload, MessageLimits(depth=3)) is None
    assert is_too_deep(payload.replace(b"[[1]]", b"[[[1]]]"), MessageLimits(depth=3))


def test_brackets_that_close_make_room_for_others() -> None:
    assert reason(('{"a":[' + ",".join(["[[]]"] * 50) + "]}").encode(), MessageLimits(depth=4)) is None


@given(JSON)
def test_depth_is_what_walking_through_the_value_gives(value: Any) -> None:
    def depth(each: Any) -> int:
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        return isinstance(each, dict | list) + max(map(depth, inner), default=0)

    payload = json.dumps(value).encode()
    assert not is_too_deep(payload, MessageLimits(depth=depth(value)))
    assert depth(value) == 0 or is_too_deep(payload, MessageLimits(depth=depth(value) - 1))


def test_the_first_reason_of_several_is_given() -> None:
    assert reason(b"\xff" * 9, MessageLimits(payload_bytes=8)) == "oversize"
    assert reason(nested(40, "NaN") + b"\xff") == "depth"
    assert reason(b'{"a":1,"a":NaN\xff}') == "utf8"
    assert reason(b'{"a":1,"a":NaN}') == "json"
    assert reason(b'[{"a":1,"a":1}]') == "duplicate_key"


@pytest.mark.parametrize(
    "text",
    [
        '"a":1,"a":1',
        '"a":1,"a" :2',
        '"a" :1,"a":2',
        '"a":1,"\\u0061":2',
        '"b":{"c":[{"a":1, "a"\t: 2}]}',
        '"":1,"":2',
        '"a:":":","a:":1',
    ],
)
def test_a_name_twice_in_one_object_is_seen_however_it_is_written(text: str) -> None:
    assert reason(f"{{{text}}}".encode()) == "duplicate_key"


@pytest.mark.parametrize(
    "text", ['"a":{"a":[{"a":1},{"a":2}]}', '"a":"\\"a\\":","b":"a:"', '"a" : ":","b":":"', '"A":1,"a":2']
)
def test_a_name_in_several_objects_or_inside_of_a_text_is_no_repetition(text: str) -> None:
    assert reason(f"{{{text}}}".encode()) is None


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**64) - 1, 10**20, 123456789012345678901234567890])
def test_huge_integers_keep_their_digits(number: int) -> None:
    read = decode(f'{{"a":[{number}],"b":{{"c":{number}}}}}'.encode(), MessageLimits())
    assert dumps(read) == f'{{"a":[{number}],"b":{{"c":{number}}}}}'


def test_digits_inside_of_a_text_are_no_number() -> None:
    assert decode(b'{"a":"12345678901234567890","b":1.5}', MessageLimits()) == {
        "a": "12345678901234567890",
        "b": 1.5,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1.50, True, None]}, '{"a":[1.5,true,null],"b":1}'),
        ({"é": "\u2028\n"}, '{"é":"\u2028\\n"}'),
        ({"z": {"b": 1, "a": 2}, "B": 0}, '{"B":0,"z":{"a":2,"b":1}}'),
        (1e300, "1e+300"),
        ("", '""'),
    ],
)
def test_the_canonical_text_sorts_names_and_wastes_no_space(value: Any, text: str) -> None:
    assert dumps(value) == text


@given(JSON)
def test_the_canonical_text_means_the_value_and_depends_on_nothing_else(value: Any) -> None:
    read = loads(json.dumps(value).encode())
    assert json.loads(dumps(read)) == value
    assert dumps(loads(json.dumps(value, indent=3, sort_keys=True).encode())) == dumps(read)


def test_extra_is_what_the_schema_does_not_know_structs_included() -> None:
    context = report()["execution_context"]
    known = report(execution_context=context | {"gpu_info": {"own": 1}}, custom_metrics={"own": 1})
    assert strict_reader.write_extra(ROOT, known) is None
    odd = known | {"zone": None, "execution_context": context | {"rack": [1]}}
    assert strict_reader.write_extra(ROOT, odd) == '{"execution_context":{"rack":[1]},"zone":null}'
    assert strict_reader.write_extra(ROOT, {"execution_context": "no struct"}) is None


def test_each_document_of_a_block_fails_at_its_first_wrong_leaf() -> None:
    read = [
        report(),
        report(accuracy=2, latency_ms=0),
        report(execution_context={}),
        report(execution_context=None),
    ]
    _, failing = strict_reader.read_columns(ROOT, read)
    names = [".".join(ROOT.leaves()[leaf].path) if leaf >= 0 else None for leaf in failing]
    assert names == [None, "latency_ms", "execution_context.hostname", "execution_context.hostname"]


def test_a_rejection_names_the_place_the_rule_and_the_value() -> None:
    hostname = next(leaf for leaf in ROOT.leaves() if leaf.name == "hostname")
    missing = strict_reader.explain(ROOT, report(execution_context={}), hostname)
    assert missing == Rejection(
        "schema", "'hostname' is a required property", "execution_context.hostname", "required"
    )
    no_struct = strict_reader.explain(ROOT, report(execution_context=[]), hostname)
    assert no_struct == Rejection("schema", "[] is not of type 'object'", "execution_context", "type")
    empty = strict_reader.explain(ROOT, report(execution_context={"hostname": ""}), hostname)
    assert (empty.field, empty.rule) == ("execution_context.hostname", "minLength")


def test_a_long_value_does_not_make_a_long_message() -> None:
    source_layer = next(leaf for leaf in ROOT.leaves() if leaf.name == "source_layer")
    rejection = strict_reader.explain(ROOT, report(source_layer="x" * 10_000), source_layer)
    assert (len(rejection.message), rejection.rule) == (400, "maxLength")


@pytest.mark.parametrize(
    "text",
    [
        b"{" * 40 + b'"' + b'\\"' * 400_000,
        b'{"error_details": "' + json.dumps(json.dumps([{"step": 1}] * 60_000)).encode(),
        b"{" * 40 + b'"' * 900_000,
        b"[" * 40 + b'"' + b"\\" * 900_001,
        json.dumps(report(custom_metrics={f"k{i}": 1 for i in range(80_000)} | {"z": "x"})).encode(),
        json.dumps(report(custom_metrics={f"k{i}": "x" for i in range(80_000)})).encode(),
        json.dumps(
            report(
                execution_context=report()["execution_context"] | {"network_interfaces": [""] * 200_000 + [1]}
            )
        ).encode(),
    ],
    ids=["escaped quotes", "cut-off text", "quotes", "backslashes", "last entry", "every entry", "last item"],
)
def test_a_payload_of_a_megabyte_is_refused_within_a_second(text: bytes) -> None:
    start = time.process_time()
    document = decode(text, MessageLimits())
    if not isinstance(document, Rejection):
        _, failing = read_columns(ROOT, [document])
        assert explain(ROOT, document, ROOT.leaves()[failing[0]]).reason == "schema"
    assert time.process_time() - start < 1


def test_the_wrong_element_of_a_container_is_named() -> None:
    def field(document: dict[str, Any]) -> str | None:
        _, failing = read_columns(ROOT, [document])
        return explain(ROOT, document, ROOT.leaves()[failing[0]]).field

    context = report()["execution_context"]
    assert field(report(custom_metrics={"a": 1, "b": "x", "c": None})) == "custom_metrics.b"
    assert field(report(custom_metrics={"a": 1, "x" * 101: 1})) == "custom_metrics"
    many = {f"m{place}": 1 for place in range(100)}
    assert field(report(custom_metrics=many | {"b": "x", "c": None})) == "custom_metrics.b"
    assert field(report(custom_metrics=many | {"x" * 101: 1, "b": "x"})) == "custom_metrics"
    assert field(report(custom_metrics={"x" * 101: 1, "b": "x"})) == "custom_metrics"
    assert (
        field(report(execution_context=context | {"network_interfaces": ["a", 1]}))
        == "execution_context.network_interfaces.1"
    )
