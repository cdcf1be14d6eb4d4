"""The compiled checks and the jsonschema library come to the same verdict on every document."""

import json
import re
from base64 import b64decode
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from schemas.readers import fast_reader, strict_reader
from schemas.readers.verdicts import MessageLimits, Rejection
from schemas.registry import list_versions, load

MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)

independent = FormatChecker(formats=())


@independent.checks("uuid")
def is_uuid(value: object) -> bool:
    if not isinstance(value, str):
        return True
    return (
        re.fullmatch(r"[0-9a-fA-F-]{36}", value) is not None and str(UUID(value)) == value.lower()
        if _hyphens(value)
        else False
    )


def _hyphens(value: str) -> bool:
    return (
        len(value) == 36
        and [i for i, c in enumerate(value) if c == "-"] == [8, 13, 18, 23]
        and value.replace("-", "").isalnum()
    )


@independent.checks("base64", raises=ValueError)
def is_base64(value: object) -> bool:
    if not isinstance(value, str):
        return True
    b64decode(value, validate=True)
    return True


@independent.checks("date-time", raises=(ValueError, OverflowError))
def is_date_time(value: object) -> bool:
    if not isinstance(value, str):
        return True
    match = MOMENT.fullmatch(value)
    if match is None:
        return False
    date, time, _, zone = match.groups()
    return datetime.fromisoformat(f"{date}T{time}{zone.upper().replace('Z', '+00:00')}").astimezone(
        tz=None
    ) is not None and _utc_year(date, time, zone)


def _utc_year(date: str, time: str, zone: str) -> bool:
    moment = datetime.fromisoformat(f"{date}T{time}{zone.upper().replace('Z', '+00:00')}")
    offset = moment.utcoffset()
    assert offset is not None
    return bool(moment.replace(tzinfo=None) - offset)


UUIDS = st.uuids().map(str) | st.uuids().map(lambda each: str(each).upper())
MOMENTS = st.builds(
    lambda moment, fraction, zone: moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + fraction + zone,
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    st.sampled_from(["", ".5", ".123456", ".123456789"]),
    st.sampled_from(["Z", "z", "+00:00", "-23:59", "+05:30"]),
)
NASTY_TEXT = st.sampled_from(
    [
        "",
        "\u0000",
        "é" * 300,
        "2023-02-29T00:00:00Z",
        "2025-01-01 00:00:00Z",
        "2025-01-01T24:00:00Z",
        "x" * 101,
    ]
)
NUMBERS = st.sampled_from(
    [0, 1, -1, 0.5, 1.5, 8, 8.0, 8.5, 50, 1e12, 3e5, 2**53, 2**53 + 1, 2**63, 10**30, -0.0, 5e-324, 1.7e308]
)
SCALARS = (
    st.none()
    | st.booleans()
    | NUMBERS
    | st.floats(allow_nan=False, allow_infinity=False)
    | NASTY_TEXT
    | UUIDS
    | MOMENTS
)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that mostly satisfy a schema."""
    types = schema.get("type", "any")
    named = types if isinstance(types, list) else [types]
    one = st.one_of([value_of(name, schema) for name in named])
    return one if named != ["any"] else ANY


def value_of(name: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if name == "object" and "properties" in schema:
        required = {
            key: values(inner)
            for key, inner in schema["properties"].items()
            if key in schema.get("required", ())
        }
        optional = {key: values(inner) for key, inner in schema["properties"].items() if key not in required}
        return st.fixed_dictionaries(required, optional=optional)
    if name == "object":
        return st.dictionaries(
            st.text(max_size=5), values(schema.get("additionalProperties", {})), max_size=3
        )
    if "enum" in schema and name != "null":
        return st.sampled_from([value for value in schema["enum"] if value is not None])
    return {
        "number": lambda: st.floats(
            schema.get("exclusiveMinimum", 0), min(schema.get("maximum", 1e3), 1e3), exclude_min=True
        ),
        "integer": lambda: st.integers(int(schema.get("minimum", 0)), 1000) | st.just(1.0),
        "string": lambda: {"uuid": UUIDS, "date-time": MOMENTS}.get(
            schema.get("format", ""), st.text(min_size=1, max_size=20)
        ),
        "boolean": st.booleans,
        "array": lambda: st.lists(values(schema["items"]), max_size=3),
        "null": st.none,
        "any": lambda: ANY,
    }[name]()


@st.composite
def texts(draw: st.DrawFn, schema: dict[str, Any]) -> bytes:
    """A document as bytes: valid, or mutated in one place, or broken as text."""
    document = draw(values(schema))
    if draw(st.booleans()):
        mutate(draw, document)
    text = json.dumps(
        document,
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", " : ")])),
    )
    breakage = draw(
        st.sampled_from(["", "", "", "", "cut", "nan", "twice", "garbage", "two", "deep", "list"])
    )
    broken = {
        "cut": text[: len(text) // 2],
        "nan": text.replace("}", ', "odd": NaN}', 1),
        "twice": text.replace("{", '{"same": 1, "same": 1, ', 1),
        "garbage": text + " x",
        "two": text + text,
        "deep": text.replace("{", '{"deep": ' + "[" * 40 + "]" * 40 + ", ", 1),
        "list": f"[{text}]",
    }
    return broken.get(breakage, text).encode("utf-8", "surrogatepass")


def mutate(draw: st.DrawFn, document: dict[str, Any]) -> None:
    target = document
    inner = [value for value in document.values() if isinstance(value, dict)]
    if inner and draw(st.booleans()):
        target = draw(st.sampled_from(inner))
    name = draw(st.sampled_from([*target, "unknown", "custom_metrics"]))
    if draw(st.booleans()):
        target.pop(name, None)
    else:
        target[name] = draw(ANY)


def oracle(schema: dict[str, Any], text: bytes) -> set[tuple[str, str]] | None:
    """None for a valid document, else the (field, rule) of every error jsonschema finds; empty where there is
    no such document.
    """
    try:
        document = json.loads(
            text.decode(), parse_constant=fail, parse_float=finite, object_pairs_hook=distinct
        )
        text.decode().encode()
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return set()
    if not isinstance(document, dict) or depth(document) > 32:
        return set()
    errors = list(Draft202012Validator(schema, format_checker=independent).iter_errors(document))
    return {(field(error), str(error.validator)) for error in errors} or None


def field(error: Any) -> str:
    path = ".".join(map(str, error.absolute_path))
    if error.validator != "required":
        return path
    return ".".join(filter(None, [path, error.message.split("'")[1]]))


def fail(token: str) -> None:
    raise ValueError(token)


def finite(token: str) -> float:
    value = float(token)
    if not np.isfinite(value):
        raise ValueError(token)
    return value


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("twice")
    return dict(pairs)


def depth(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return (1 if isinstance(value, dict | list) else 0) + max((depth(each) for each in inner), default=0)


def verdicts(name: str, lines: list[bytes]) -> list[Rejection | None]:
    """What the two readers say together, as Validate uses them."""
    root = load(name).root
    payload = pa.array([line + b"\n" for line in lines], pa.large_binary())
    accepted, distinct = fast_reader.read_block(root, payload, MessageLimits())
    found: list[Rejection | None] = [Rejection("undecided", "")] * len(lines)
    for row in accepted.rows.tolist():
        found[row] = None
    for row in set(range(len(lines))) - set(accepted.rows.tolist()):
        document = strict_reader.decode(lines[row], MessageLimits(), bool(distinct[row]))
        if isinstance(document, Rejection):
            found[row] = document
            continue
        _, failing = strict_reader.read_columns(root, [document])
        found[row] = (
            strict_reader.explain(root, document, root.leaves()[failing[0]]) if failing[0] >= 0 else None
        )
    return found


@pytest.mark.parametrize("name", list_versions())
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_compiled_checks_and_jsonschema_agree_on_every_document(name: str, data: st.DataObject) -> None:
    schema = load(name).document
    lines = data.draw(st.lists(texts(schema), min_size=1, max_size=12))
    for line, verdict in zip(lines, verdicts(name, lines)):
        expected = oracle(schema, line)
        assert (verdict is None) == (expected is None), (line, verdict, expected)
        if verdict is not None and verdict.reason == "schema":
            assert expected is not None
            assert (verdict.field, verdict.rule) in expected, (line, verdict, expected)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_both_readers_make_the_same_columns_of_a_valid_document(data: st.DataObject) -> None:
    schema = load("kpi_report")
    lines = data.draw(st.lists(texts(schema.document), min_size=1, max_size=8))
    payload = pa.array([line + b"\n" for line in lines], pa.large_binary())
    accepted, _ = fast_reader.read_block(schema.root, payload, MessageLimits())
    kept = [strict_reader.decode(lines[row], MessageLimits()) for row in accepted.rows.tolist()]
    strict, failing = strict_reader.read_columns(schema.root, kept)  # type: ignore[arg-type]
    assert (failing == -1).all()
    assert [column.to_pylist() for column in accepted.columns] == [column.to_pylist() for column in strict]
    assert accepted.extra.to_pylist() == [
        strict_reader.write_extra(schema.root, document) for document in kept
    ]  # type: ignore[arg-type]
