"""Chunks of lines -> messages: the same messages as line by line, wherever chunks are cut."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from schemas.readers.formats import parse_date_time
from tests.builders import line_id
from transforms.core.record_batches import RAW, build_batch
from transforms.envelopes.envelope_lines import NO_DATA, is_blank, read_line
from transforms.sources.archives.envelope_chunks import REJECTED, decode_lines
from transforms.sources.archives.envelope_prefixes import HEAD_BYTES

TIME = "2026-01-01T00:00:00.000001Z"
AT = datetime(2026, 1, 1, microsecond=1, tzinfo=UTC)
ENVELOPE = b'{"source":"s","message_id":"1-0","received_at":"2026-01-01T00:00:00.000001Z","data":%b}\n'
STRING = b'{"message_id":"2-0","received_at":null,"data":"%b"}\n'
BARE = b'{"task_id":"t"}\n'


def raw(rows: Sequence[tuple[str, str, datetime | None, bytes]]) -> pa.RecordBatch:
    columns = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(RAW.types)]
    return pa.RecordBatch.from_arrays(columns, schema=RAW)


def bad(rows: Sequence[tuple[str, bytes, str]]) -> pa.RecordBatch:
    return refused([("archive", place, None, line, problem) for place, line, problem in rows])


def refused(messages: Sequence[tuple[str, str, datetime | None, bytes, str]]) -> pa.RecordBatch:
    columns = [
        pa.array([message[i] for message in messages], kind) for i, kind in enumerate(REJECTED.types[:-2])
    ]
    return build_batch(dict(zip(REJECTED.names, columns)), REJECTED, len(messages))


def one_by_one(chunk: bytes) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """The rule of a line, applied to each."""
    good, broken = [], []
    for number, line in enumerate(chunk.split(b"\n")[:-1], 1):
        as_bare, envelope = line_id(number, line), read_line(line)
        if is_blank(line):
            continue
        if envelope is None:
            good.append(("archive", as_bare, None, line + b"\n"))
            continue
        at = (
            None
            if envelope.received_at is None
            else parse_date_time(pa.array([envelope.received_at]))[0].as_py()
        )
        problem = envelope.problem
        if envelope.received_at is not None and at is None:
            problem = "received_at must be an RFC 3339 date-time or null"
        if problem:
            origin = (
                (envelope.source, envelope.message_id, at)
                if problem == NO_DATA
                else ("archive", as_bare, None)
            )
            broken.append((*origin, line + b"\n", problem))
        else:
            good.append((envelope.source, envelope.message_id, at, envelope.data + b"\n"))
    return raw(good), refused(broken)


def test_every_kind_of_line_becomes_its_message_in_the_order_of_the_file() -> None:
    lines = [
        BARE,
        ENVELOPE % b'{"a":1}',
        b"  \r\n",
        STRING % b'{\\"a\\":2}',
        b'{"data":{"a":3},"message_id":"3-0","received_at":null}\n',
        b'{"message_id":4,"received_at":null,"data":{}}\n',
        b'{"message_id":"5-0","received_at":"noon","data":{}}\n',
        b"no JSON \x00\xff\r\n",
        ENVELOPE.replace(b"\n", b"\r\n") % b'{"a":6}',
    ]
    decoded = decode_lines(b"".join(lines), 11)
    assert decoded.messages == raw(
        [
            ("archive", line_id(11, BARE), None, BARE),
            ("s", "1-0", AT, b'{"a":1}\n'),
            ("archive", "2-0", None, b'{"a":2}\n'),
            ("archive", "3-0", None, b'{"a":3}\n'),
            ("archive", line_id(18, lines[7]), None, b"no JSON \x00\xff\r\n"),
            ("s", "1-0", AT, b'{"a":6}\n'),
        ]
    )
    assert decoded.rejected == bad(
        [
            (line_id(16, lines[5]), lines[5], "message_id must be a string"),
            (line_id(17, lines[6]), lines[6], "received_at must be an RFC 3339 date-time or null"),
        ]
    )
    assert decoded.lines == 9


def test_no_lines_are_no_messages() -> None:
    decoded = decode_lines(b"")
    assert (decoded.messages, decoded.rejected, decoded.lines) == (raw([]), bad([]), 0)


def test_blank_lines_are_no_messages_but_count() -> None:
    assert decode_lines(b"\n \n" + BARE).messages == raw([("archive", line_id(3, BARE), None, BARE)])


def test_the_end_of_a_line_is_no_part_of_what_it_is_known_by() -> None:
    ids = [
        decode_lines(line, 7).messages["message_id"].to_pylist()
        for line in (BARE, BARE.replace(b"\n", b"\r\n"))
    ]
    assert ids == [[line_id(7, BARE)]] * 2


def test_the_payloads_of_bare_lines_are_the_chunk_itself() -> None:
    chunk = pa.py_buffer(BARE * 3)
    payload = decode_lines(chunk).messages["payload"]
    assert payload.buffers()[2].address == chunk.address


def test_the_chunk_is_left_as_it_was() -> None:
    chunk = bytearray(ENVELOPE % b"{}" + BARE)
    decode_lines(chunk)
    assert chunk == ENVELOPE % b"{}" + BARE


def test_one_broken_string_leaves_its_neighbours_alone() -> None:
    texts = [b"a", b"\\ud800", b'x","y', b'x",["y', b"\\udcff", b"z"]
    decoded = decode_lines(b"".join(STRING % text for text in texts))
    assert decoded.messages["payload"].to_pylist()[0] == b"a\n"
    assert (decoded.messages, decoded.rejected) == one_by_one(b"".join(STRING % text for text in texts))


def test_lines_of_several_layouts_keep_their_order() -> None:
    objects = [ENVELOPE % b"{}", ENVELOPE.replace(b'"s"', b'"long"') % b'{"a":1}']
    strings = [STRING % b"", STRING.replace(b":", b": ") % b"x"]
    for lines in (objects, strings, objects + strings):
        chunk = b"".join(lines * 3 + lines[::-1] * 3)
        assert decode_lines(chunk).messages == one_by_one(chunk)[0]


def test_an_entry_without_data_is_bad_under_its_own_name() -> None:
    entry = b'{"source":"s","message_id":"1-0","received_at":"2026-01-01T00:00:00.000001Z","fields":%b}\n'
    lines = [entry % b'{"a":"b"}', entry % b'"x"', entry.replace(b"01T", b"99T") % b"{}"]
    places = [("s", "1-0", AT), *(("archive", line_id(number, lines[number - 1]), None) for number in (2, 3))]
    problems = [NO_DATA, "fields must be an object", "received_at must be an RFC 3339 date-time or null"]
    told = [(*place, line, problem) for place, line, problem in zip(places, lines, problems)]
    assert decode_lines(b"".join(lines)).rejected == refused(told)


def test_a_line_of_megabytes_is_one_message() -> None:
    data = b'{"a":"%b"}' % (b"x" * 5_000_000)
    said = [("s", "1-0", AT, data + b"\n"), ("archive", line_id(2, BARE), None, BARE)]
    assert decode_lines(ENVELOPE % data + BARE).messages == raw(said)


def test_a_long_head_is_read_like_a_short_one() -> None:
    for length in range(HEAD_BYTES - 100, HEAD_BYTES + 20):
        line = ENVELOPE.replace(b'"1-0"', b'"%b"' % (b"i" * length)) % b"{}"
        assert decode_lines(line).messages == raw([("s", "i" * length, AT, b"{}\n")])


printable = st.text(
    st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), max_size=120
)
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)
objects = st.dictionaries(
    st.text(max_size=5), st.none() | st.floats() | st.text(max_size=9) | st.just({"a": [{}]}), max_size=3
)


@st.composite
def written(draw: st.DrawFn, at: datetime) -> str:
    """A moment as a date-time with some offset."""
    minutes = draw(st.integers(-1439, 1439))
    local = (at + timedelta(minutes=minutes)).replace(tzinfo=None).isoformat(sep=draw(st.sampled_from("Tt")))
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    return local + (zone if minutes else draw(st.sampled_from(["Z", "z"])))


@st.composite
def canonical(draw: st.DrawFn) -> tuple[bytes, tuple[str, str, datetime | None, bytes]]:
    """A line as envelopes are written, and what it says."""
    source, message_id, at = draw(st.none() | printable), draw(printable), draw(st.none() | moments)
    time = "null" if at is None else f'"{draw(written(at))}"'
    data = json.dumps(draw(objects), ensure_ascii=draw(st.booleans())).encode()
    space = [draw(st.sampled_from(["", " "])) for _ in range(9)]
    parts = [] if source is None else [f'"source":{space[0]}"{source}",{space[1]}']
    parts.append(f'"message_id":{space[2]}"{message_id}",{space[3]}"received_at":{space[4]}')
    parts.append(f'{time},{space[5]}"data":{space[6]}')
    end = draw(st.sampled_from([b"", b"\r", b" ", b" \t\r"]))
    text = data if draw(st.booleans()) else json.dumps(data.decode()).encode()
    line = b"{%b%b%b}%b\n" % (space[7].encode(), "".join(parts).encode(), text, end)
    return line, ("archive" if source is None else source, message_id, at, data + b"\n")


@given(st.lists(canonical(), max_size=12))
def test_canonical_envelopes_say_what_was_written(lines: list[tuple[bytes, Any]]) -> None:
    decoded = decode_lines(b"".join(line for line, _ in lines))
    assert (decoded.messages, decoded.rejected, decoded.lines) == (
        raw([said for _, said in lines]),
        bad([]),
        len(lines),
    )


fragments = st.sampled_from(
    [
        *(b"%c" % mark for mark in b'{}[]":, \r\\1\xff'),
        *(
            b"null",
            b"\\u0061",
            b'"source"',
            b'"message_id"',
            b'"received_at"',
            b'"data"',
            b'"fields"',
            b'"x"',
            b'"{\\"a\\":1}"',
        ),
        b'{"message_id":"m","received_at":null,"data":',
        b'{"source":"s","message_id":"m","received_at":"2026-01-01T00:00:00z","data":',
        b'"received_at":"never"',
    ]
)
pieces = st.lists(fragments, max_size=10).map(b"".join)
shuffled = st.permutations(
    [b'"source":"s"', b'"mess\\u0061ge_id":"\xc3\xbc"', b'"received_at":null', b'"data":{"a":"}"}']
)
octets = st.sampled_from([b"\\", b'"', b"}", b" ", b"a"]) | st.binary(min_size=1, max_size=1)
said = [b'"source":1', b'"message_id":"m"', b'"received_at":"x"', b'"data":[]', b'"fields":{}', b'"x":1']
members = st.lists(st.sampled_from(said))
objects_of_members = (shuffled | members).map(lambda inner: b"{%b}" % b",".join(inner))
hostile = pieces | objects_of_members | canonical().map(lambda pair: pair[0][:-1])


@given(st.lists(hostile, max_size=12))
def test_a_chunk_is_read_as_its_lines_one_by_one_are(lines: list[bytes]) -> None:
    chunk = b"".join(line + b"\n" for line in lines)
    decoded = decode_lines(chunk)
    assert (decoded.messages, decoded.rejected) == one_by_one(chunk)
    assert decoded.lines == len(lines)


@given(canonical(), st.lists(st.tuples(st.integers(0, 150), octets), min_size=1, max_size=9))
def test_lines_that_differ_in_one_byte_are_judged_each_for_itself(
    said: tuple[bytes, Any], changes: list[Any]
) -> None:
    line = said[0]
    changed = [line[: at % len(line)] + byte + line[at % len(line) + 1 :] for at, byte in changes]
    chunk = b"".join([line, line, *changed]).removesuffix(b"\n") + b"\n"
    decoded = decode_lines(chunk)
    assert (decoded.messages, decoded.rejected) == one_by_one(chunk)


@given(st.lists(hostile, min_size=1, max_size=8), st.integers(0, 8))
def test_where_a_chunk_is_cut_makes_no_difference(lines: list[bytes], cut: int) -> None:
    ended = [line + b"\n" for line in lines]
    whole = decode_lines(b"".join(ended))
    first = decode_lines(b"".join(ended[:cut]))
    second = decode_lines(b"".join(ended[cut:]), first.lines + 1)
    assert pa.concat_batches([first.messages, second.messages]) == whole.messages
    assert pa.concat_batches([first.rejected, second.rejected]) == whole.rejected
