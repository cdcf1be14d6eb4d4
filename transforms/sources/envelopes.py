"""Lines of an archive -> messages: the rule of `transforms.sources.lines` for a whole block at once.

Most lines are decided by a regular expression over their first bytes. What it leaves open goes through `read_line`, one by one,
with the same verdict: a message depends on its line alone, never on the block that the line lies in.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.formats import parse_date_time
from transforms.batches import RAW, concat, empty, extended, filled
from transforms.sources.lines import ARCHIVE, CANONICAL, WRONG_TIME, Envelope, is_blank, read_line, read_string

BAD = pa.schema([*RAW, ("message", pa.string())])
"""Envelopes that break the rule: the whole line, under its place in the file, and what is wrong with it."""

HEAD_BYTES = 200
"""How much of a line the regular expressions see."""

_PERHAPS = r'^[ \t\r]*(?:\n?$|\{[ \t\r]*(?:$|"(?:source"|message_id"|received_at"|data"|[^"]*\\|[^"]*$)))'
"""How every blank line and every envelope begins, and hardly any report."""

_NEWLINE, _RETURN, _OPEN, _CLOSE, _QUOTE = b'\n\r{}"'
_NOTHING, _LINE_END = (pa.scalar(octets, pa.large_binary()) for octets in (b"", b"\n"))

Positions = NDArray[np.int64]
Part = tuple[Positions, pa.RecordBatch]
"""Some rows of a block, ascending, and their messages (RAW)."""


class Decoded(NamedTuple):
    """The messages of a block in the order of its lines, `raw` (RAW) and `bad` (BAD), and how many lines it has."""

    raw: pa.RecordBatch
    bad: pa.RecordBatch
    lines: int


class _Block(NamedTuple):
    """A block's bytes, where each line begins and ends (at its newline), and the place of the first in its file."""

    text: NDArray[np.uint8]
    starts: Positions
    ends: Positions
    name: str
    first_line: int

    def unnamed(self, rows: Positions, payload: pa.Array) -> pa.RecordBatch:
        """Messages (RAW) that are known by their line's place alone, `<file name>:<line number>`."""
        places = pc.binary_join_element_wise(self.name, pa.array(rows + self.first_line).cast(pa.string()), ":")
        return filled({"source": pa.repeat(ARCHIVE, len(rows)), "message_id": places, "payload": payload}, RAW, len(rows))


class _Heads(NamedTuple):
    """The rows that begin as CANONICAL says: source, message_id and received_at, where data begins, and the last `}`."""

    rows: Positions
    origins: pa.RecordBatch
    data: Positions
    close: Positions

    def where(self, chosen: NDArray[np.bool_]) -> "_Heads":
        """The chosen ones of them."""
        if chosen.all():
            return self
        return _Heads(self.rows[chosen], self.origins.filter(pa.array(chosen)), self.data[chosen], self.close[chosen])

    def with_payload(self, payload: pa.Array) -> Part:
        """Their messages."""
        return self.rows, pa.RecordBatch.from_arrays([*self.origins.columns, payload], schema=RAW)


def decode(text: pa.Buffer | bytes, name: str, first_line: int = 1) -> Decoded:
    """The messages of `text`: lines that each end in a newline, the first of them line `first_line` of the file `name`.

    A bare line is the message `<name>:<line number>` of the source `archive`, without a time. A blank line is none.
    """
    block = _block(text, name, first_line)
    count = len(block.ends)
    if not count:
        return Decoded(empty(RAW), empty(BAD), 0)
    lines = _pieces(block.text, np.append(block.starts, len(block.text)))
    begins = pc.binary_slice(lines, 0, HEAD_BYTES)
    heads = _heads(block, begins)
    first, last = block.text[heads.data], block.text[heads.close - 1]
    objects = _objects(block, heads.where(first == _OPEN))
    strings = _strings(block, heads.where((first == _QUOTE) & (last == _QUOTE) & (heads.data < heads.close - 1)))
    others = _others(count, objects[0], strings[0])
    perhaps = np.asarray(pc.match_substring_regex(begins.take(pa.array(others)), _PERHAPS))
    bare = others[~perhaps]
    payload = lines if len(bare) == count else _cut(block.text, block.starts[bare], block.ends[bare] + 1)
    exact, bad = _one_by_one(block, others[perhaps])
    return Decoded(_in_order([objects, strings, (bare, block.unnamed(bare, payload)), exact]), bad, count)


def _block(text: pa.Buffer | bytes, name: str, first_line: int) -> _Block:
    octets = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(octets == _NEWLINE)
    return _Block(octets, np.append(0, ends + 1)[: len(ends)], ends, name, first_line)


def _heads(block: _Block, begins: pa.Array) -> _Heads:
    """The lines whose first bytes, `begins`, are CANONICAL, whose time is one, and whose last byte is `}`."""
    spans = pc.extract_regex_span(begins, CANONICAL)
    rows = np.flatnonzero(np.asarray(spans.is_valid()))
    close = block.ends[rows] - 1
    close -= block.text[close] == _RETURN
    closed = block.text[close] == _CLOSE
    rows, close = rows[closed], close[closed]
    if len(rows) < len(begins):
        spans = spans.take(pa.array(rows))
    source, message_id, received_at, data = (_span(spans.field(i), block.starts[rows]) for i in range(4))
    sources = _cut(block.text, *source).cast(pa.string())
    times = parse_date_time(_cut(block.text, *received_at).cast(pa.string()))
    origins = pa.RecordBatch.from_arrays(
        [pc.if_else(pc.equal(sources, ""), ARCHIVE, sources), _cut(block.text, *message_id).cast(pa.string()), times],
        names=RAW.names[:3],
    )
    absent = received_at[0] == received_at[1]
    return _Heads(rows, origins, data[0], close).where(absent | np.asarray(times.is_valid()))


def _span(spans: pa.Array, starts: Positions) -> tuple[Positions, Positions]:
    """Where a group of CANONICAL begins and ends in the block, given (begin, length) within each line; absent is empty."""
    pairs = spans.values.fill_null(0).to_numpy().reshape(-1, 2)
    begins = starts + pairs[:, 0]
    return begins, begins + pairs[:, 1]


def _objects(block: _Block, heads: _Heads) -> Part:
    """Envelopes whose data is an object: a payload is its bytes and, side by side with them, the line's newline."""
    newlines = block.ends[heads.rows]
    starts = np.stack([heads.data, newlines], axis=1).ravel()
    ends = np.stack([heads.close, newlines + 1], axis=1).ravel()
    _, edges, text = _cut(block.text, starts, ends).buffers()
    return heads.with_payload(_pieces(text, np.frombuffer(edges, np.int64)[: len(starts) + 1 : 2]))


def _strings(block: _Block, heads: _Heads) -> Part:
    """Envelopes whose data is a string: what it unescapes to, and a newline, is the payload. Broken strings are left out.

    orjson is as fast string by string as with all of them in one list.
    """
    texts = _cut(block.text, heads.data, heads.close).to_pylist()
    strings = pa.array([read_string(text) for text in texts], pa.large_string())
    whole = heads.where(np.asarray(strings.is_valid()))
    return whole.with_payload(pc.binary_join_element_wise(strings.drop_null().cast(pa.large_binary()), _NOTHING, _LINE_END))


def _others(count: int, *decided: Positions) -> Positions:
    """The rows below `count` that are none of the decided."""
    undecided = np.ones(count, bool)
    for rows in decided:
        undecided[rows] = False
    return np.flatnonzero(undecided)


def _one_by_one(block: _Block, rows: Positions) -> tuple[Part, pa.RecordBatch]:
    """The rows that only `read_line` can tell: their messages, and the envelopes that break the rule (BAD)."""
    found = [(row, block.text[block.starts[row] : block.ends[row]].tobytes()) for row in rows.tolist()]
    found = [(row, text) for row, text in found if not is_blank(text)]
    rows = np.array([row for row, _ in found], np.int64)
    bare = block.unnamed(rows, pa.array([text + b"\n" for _, text in found], pa.large_binary()))
    places = bare["message_id"].to_pylist()
    read = [read_line(text) or Envelope(message_id=place, data=text) for place, (_, text) in zip(places, found)]
    times = parse_date_time(pa.array([line.received_at for line in read], pa.string()))
    untimed = [line.received_at is not None and not valid for line, valid in zip(read, times.is_valid().to_pylist())]
    problems = pa.array([line.problem or wrong * WRONG_TIME for line, wrong in zip(read, untimed)], pa.string())
    columns = [
        pa.array([line.source for line in read], pa.string()),
        pa.array([line.message_id for line in read], pa.string()),
        times,
        pa.array([line.data + b"\n" for line in read], pa.large_binary()),
    ]
    good = pc.equal(problems, "")
    bad = extended(bare, [(BAD.field("message"), problems)]).filter(pc.invert(good))
    return (rows[np.asarray(good)], pa.RecordBatch.from_arrays(columns, schema=RAW).filter(good)), bad


def _in_order(parts: list[Part]) -> pa.RecordBatch:
    """The messages of all parts, in the order of their rows."""
    filled_parts = [part for part in parts if len(part[0])]
    if not filled_parts:
        return empty(RAW)
    batch = concat([messages for _, messages in filled_parts])
    if len(filled_parts) == 1:
        return batch
    return batch.take(pa.array(np.argsort(np.concatenate([rows for rows, _ in filled_parts]))))


def _cut(text: NDArray[np.uint8], starts: Positions, ends: Positions) -> pa.Array:
    """The bytes from each start to its end, ascending and apart, copied side by side: large_binary[n]."""
    edges = np.stack([starts, ends], axis=1).ravel()
    return _pieces(text, edges).take(pa.array(np.arange(0, len(edges), 2)))


def _pieces(text: NDArray[np.uint8] | pa.Buffer, edges: Positions) -> pa.Array:
    """The bytes between each two edges as large_binary[n - 1], without a copy."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(edges)), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.large_binary(), max(len(edges) - 1, 0), buffers)
