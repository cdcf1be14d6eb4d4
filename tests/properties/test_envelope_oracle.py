"""Envelopes in any order of keys, spacing and spelling: the two readers of lines agree with `json.loads`."""

import json
from typing import Any

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.readers.formats import parse_date_time
from tests.builders import line_id
from transforms.envelopes.envelope_lines import Envelope, read_line
from transforms.sources.archives.envelope_chunks import decode_lines

texts = st.sampled_from(
    ["", "s", "1-0", "ü", 'a"b', "\\", "{", "}", "{}", '{"', ": {", "},", " {", "]", '{ "x']
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=6,
)
objects = st.dictionaries(texts, values, max_size=3)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "source": texts | values,
    "message_id": texts | values,
    "received_at": st.sampled_from(["2026-01-01T00:00:00Z", "noon", None]) | values,
    "data": objects | objects.map(json.dumps) | values,
    "fields": objects,
    "more": objects | values,
}
GOOD = {
    "source": texts,
    "message_id": texts,
    "received_at": st.sampled_from(["2026-01-01T00:00:00Z", None]),
    "data": objects | objects.map(json.dumps),
}


@st.composite
def spelt_name(draw: st.DrawFn, name: str) -> str:
    """A name as JSON, sometimes with one letter escaped."""
    at = draw(st.sampled_from([None, None, 0, len(name) - 1]))
    return f'"{name}"' if at is None else f'"{name[:at]}\\u{ord(name[at]):04x}{name[at + 1 :]}"'


@st.composite
def written(draw: st.DrawFn, members: list[tuple[str, Any]]) -> bytes:
    """An object with these members in this order, in some spelling."""
    space = st.sampled_from(["", "", " ", "  ", "\t"])
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    spelt = [
        f"{draw(space)}{draw(spelt_name(name))}{draw(space)}:{draw(space)}"
        + json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators)
        + draw(space)
        for name, value in members
    ]
    return f"{draw(space)}{{{','.join(spelt)}}}{draw(space)}".encode()


@st.composite
def envelopes(draw: st.DrawFn) -> bytes:
    """A valid envelope with its keys in any order."""
    names = draw(st.permutations([*GOOD]).map(lambda order: [*order]))
    if draw(st.booleans()):
        names.remove("source")
    return draw(written([(name, draw(GOOD[name])) for name in names]))


@st.composite
def near_envelopes(draw: st.DrawFn) -> bytes:
    """An object with an envelope's keys; some are missing, repeated, of another type; others are added."""
    head = draw(
        st.sampled_from(
            [[], ["message_id", "received_at", "data"], ["source", "message_id", "received_at", "data"]]
        )
    )
    names = head + draw(st.lists(st.sampled_from([*KINDS]), max_size=4))
    kinds = {name: draw(st.sampled_from([GOOD.get(name, KINDS[name]), KINDS[name]])) for name in KINDS}
    return draw(written([(name, draw(kinds[name])) for name in names]))


HELD = ("data", "fields")


def oracle(line: bytes) -> Envelope | str | None:
    """The envelope of a JSON line, by `json.loads` alone: None for a bare line, a text for a broken rule."""
    said = json.loads(line)
    if not isinstance(said, dict) or said.keys() - {"source"} not in [
        {"message_id", "received_at", held} for held in HELD
    ]:
        return None
    if not isinstance(said.get("source", ""), str) or not isinstance(said["message_id"], str):
        return "a wrong name"
    if not isinstance(said["received_at"], str | None):
        return "a wrong time"
    if "fields" in said or not isinstance(said["data"], str | dict):
        return "no data"
    return Envelope(said.get("source", "archive"), said["message_id"], said["received_at"], said["data"])


def check_line(line: bytes) -> None:
    """That `read_line` says what the oracle says."""
    expected, found = oracle(line), read_line(line)
    if isinstance(expected, Envelope):
        assert found is not None
        assert not found.problem
        assert found[:3] == expected[:3]
        data = found.data if isinstance(expected.data, dict) else json.dumps(found.data.decode())
        assert json.loads(data) == expected.data
    else:
        assert (found is None) == (expected is None)
        assert found is None or found.problem


def check_block(line: bytes) -> None:
    """That `decode` says what the oracle says."""
    expected, (good, bad, _) = oracle(line), decode_lines(line + b"\n")
    if isinstance(expected, Envelope):
        time = expected.received_at and parse_date_time(pa.array([expected.received_at]))[0].as_py()
        if expected.received_at and not time:
            assert (good.num_rows, bad["message_id"].to_pylist()) == (0, [line_id(1, line)])
            return
        (row,) = good.to_pylist()
        assert (row["source"], row["message_id"], row["received_at"]) == (
            expected.source,
            expected.message_id,
            time,
        )
        data = row["payload"][:-1].decode()
        assert json.loads(data if isinstance(expected.data, dict) else json.dumps(data)) == expected.data
    elif expected is None:
        assert good.to_pylist() == [
            {
                "source": "archive",
                "message_id": line_id(1, line),
                "received_at": None,
                "payload": line + b"\n",
            }
        ]
    else:
        assert (good.num_rows, bad.num_rows) == (0, 1)


@given(envelopes())
@example(b'{"message_id":"1-0","received_at":null,"data":{"a":{}},"source":"s"}')
@example(b'{"message_id":"1-0","received_at":null,"data":{"a":{}},"source":"}"}')
def test_a_valid_envelope_is_the_same_message_in_any_order_of_its_keys(line: bytes) -> None:
    assert isinstance(oracle(line), Envelope)
    check_line(line)
    check_block(line)


@given(near_envelopes())
@example(b'{"message_id":"1-0","received_at":null,"data":{},"data":{"a":1}}')
@example(b'{"message_id":"1-0","received_at":null,"data":{"a":"{"},"source":{"b":"}"}}')
@example(b'{"message_id":"1-0","received_at":null,"data":{"a":": {"},"more":{"b":"},"}}')
@example(b'{"message_id":"1-0","received_at":null,"data":{},"more":{}}')
def test_what_is_nearly_an_envelope_is_judged_as_json_says(line: bytes) -> None:
    check_line(line)
    check_block(line)
