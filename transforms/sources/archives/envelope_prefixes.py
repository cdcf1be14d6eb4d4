"""Which lines of a chunk begin as envelopes are written (`transforms.envelopes.envelope_lines.CANONICAL`),
and what they begin with.

The lines of a file are mostly alike: the same keys, ids and times of the same length. So lines are compared,
as rows of a matrix, with one that is known to be canonical; only what has another layout is left to a regular
expression, for the same verdict at three times the cost.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.readers.formats import parse_date_time
from transforms.core.record_batches import concat
from transforms.envelopes.envelope_lines import ARCHIVE, CANONICAL, ONE_CANONICAL

HEAD_BYTES = 200
"""How many bytes of a line are examined."""

LAYOUTS = 8
"""How many lines are taken as samples of a layout, as long as each layout fits a quarter of the lines that
are left."""

_PERHAPS = (
    r'^[ \t\r]*(?:\n?$|\{[ \t\r]*(?:$|"(?:source"|message_id"|received_at"|encoding"|data"|fields"'
    r'|[^"]*\\|[^"]*$)))'
)
"""How every blank line and every envelope begins, and hardly any report."""

_NEWLINE, _RETURN, _OPEN, _CLOSE, _SPACE, _QUOTE, _BACKSLASH, _TILDE = b'\n\r{} "\\~'
_AFTER_A_STRING = np.isin(np.arange(256), list(b",:]} \t\r\n"))
"""Which bytes can follow the quote that ends a string."""
_WORDS = pa.schema([("source", pa.string()), ("message_id", pa.string()), ("received_at", pa.string())])

Positions = NDArray[np.int64]


class Lines(NamedTuple):
    """A chunk's bytes, uint8, and where each of its n lines begins and ends (at its newline), int64[n]."""

    text: NDArray[np.uint8]
    starts: Positions
    ends: Positions

    @staticmethod
    def of(chunk: pa.Buffer | bytes) -> "Lines":
        """The lines of a chunk, each of which ends in a newline."""
        text = np.frombuffer(chunk, np.uint8)
        ends = np.flatnonzero(text == _NEWLINE)
        return Lines(text, np.append(0, ends + 1)[: len(ends)], ends)

    def whole(self, rows: Positions) -> pa.Array:
        """Some lines with their newlines, large_binary; without a copy where these are all lines."""
        if len(rows) == len(self.ends):
            return view_pieces(self.text, np.append(self.starts, len(self.text)))
        return self.cut(self.starts[rows], self.ends[rows] + 1)

    def contents(self, rows: Positions) -> Iterator[memoryview]:
        """The bytes of some lines without their line ends (LF or CR LF), not copied."""
        text, ends = self.text.data, self.ends[rows]
        ends = ends - ((self.text[ends - 1] == _RETURN) & (ends > self.starts[rows]))
        return (text[start:end] for start, end in zip(self.starts[rows].tolist(), ends.tolist()))

    def begins(self, rows: Positions) -> pa.Array:
        """The first HEAD_BYTES of some lines, large_binary."""
        return self.cut(self.starts[rows], np.minimum(self.starts[rows] + HEAD_BYTES, self.ends[rows] + 1))

    def cut(self, starts: Positions, ends: Positions) -> pa.Array:
        """The bytes from each start to its end, ascending and apart, copied side by side: large_binary."""
        edges = np.stack([starts, ends], axis=1).ravel()
        return view_pieces(self.text, edges).take(pa.array(np.arange(0, len(edges), 2)))


def view_pieces(text: NDArray[np.uint8] | pa.Buffer, edges: Positions) -> pa.Array:
    """The bytes between each two edges as large_binary, without a copy."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(edges)), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.large_binary(), max(len(edges) - 1, 0), buffers)


class Heads(NamedTuple):
    """Lines that begin as envelopes are written, whose time is one, and that close with `}`.

    `origins` holds the columns source, message_id and received_at (timestamp[us, UTC]) of each of the `rows`;
    in the chunk, its data begins at `data`, and at `close` is the `}`. `encoded`: whether it names one.
    """

    rows: Positions
    origins: pa.RecordBatch
    data: Positions
    close: Positions
    encoded: NDArray[np.bool_]

    def where(self, chosen: NDArray[np.bool_]) -> "Heads":
        """The chosen ones of them."""
        if chosen.all():
            return self
        return Heads(
            self.rows[chosen],
            self.origins.filter(pa.array(chosen)),
            self.data[chosen],
            self.close[chosen],
            self.encoded[chosen],
        )


class _Found(NamedTuple):
    """Rows that are CANONICAL, where the data of each begins in the chunk, its values as they are written
    (_WORDS), and whether it names an encoding."""

    rows: Positions
    data: Positions
    words: pa.RecordBatch
    encoded: NDArray[np.bool_]


def find_heads(lines: Lines) -> tuple[Heads, Positions]:
    """The lines that begin as envelopes are written, and the rows that are surely bare. The other rows are
    open."""
    undecided = np.ones(len(lines.ends), bool)
    rest = np.flatnonzero(undecided)
    found: list[_Found] = []
    for attempt in range(LAYOUTS):
        sample = _match_canonical(lines, rest[len(rest) * attempt // LAYOUTS]) if len(rest) else None
        if sample is not None:
            before = len(rest)
            found.append(_match_layout(lines, rest, sample))
            undecided[found[-1].rows] = False
            rest = np.flatnonzero(undecided)
            if (before - len(rest)) * 4 < before:
                break
    begins = lines.begins(rest)
    perhaps = pc.match_substring_regex(begins, _PERHAPS)
    found.append(_match_pattern(lines, rest[np.asarray(perhaps)], begins.filter(perhaps)))
    return _check_close_and_time(lines, _merge_in_order(found)), rest[~np.asarray(perhaps)]


def find_single_objects(lines: Lines, written: Heads) -> NDArray[np.bool_]:
    """bool[n]: where the data, which begins with `{`, surely is one object that ends where the envelope does.

    Braces are counted, in strings too: those of an object in a string balance each other. Another `{` in a
    string is known by what follows it: neither `}` nor a name. There, and where the braces do not balance,
    the answer is no. It is exact where the line is JSON.
    """
    text = lines.text
    braces = np.flatnonzero((text - np.uint8(_OPEN)) & np.uint8(253) == 0)
    opens = text[braces] == _OPEN
    depth = np.append(0, np.cumsum(np.where(opens, 1, -1)))
    inside = braces[opens] + 1
    follows = text[inside]
    named = (follows == _QUOTE) & ~_AFTER_A_STRING[text[np.minimum(inside + 1, len(text) - 1)]]
    odd = np.zeros(len(braces) + 1, np.int64)
    odd[1:][opens] = ~named & (follows != _CLOSE)
    odd = np.cumsum(odd)
    first, after = np.searchsorted(braces, written.data), np.searchsorted(braces, written.close)
    lowest = (
        np.minimum.reduceat(depth, np.stack([first + 1, after], axis=1).ravel())[::2]
        if len(first)
        else depth[:0]
    )
    whole = (lowest > depth[first]) & (depth[after] == depth[first]) & (odd[after] == odd[first])
    return whole & (braces[after - 1] == written.close - 1)


def _match_canonical(lines: Lines, row: int) -> re.Match[bytes] | None:
    """How the line begins, if it is canonical."""
    begin = lines.starts[row]
    return ONE_CANONICAL.match(lines.text[begin : min(begin + HEAD_BYTES, lines.ends[row])].tobytes())


def _match_layout(lines: Lines, rows: Positions, sample: re.Match[bytes]) -> _Found:
    """Those of the rows that are canonical because they have the layout of one that is."""
    width = sample.end()
    rows = rows[lines.ends[rows] - lines.starts[rows] >= width]
    octets = lines.cut(lines.starts[rows], lines.starts[rows] + width).buffers()[2]
    chars = np.frombuffer(octets, np.uint8, len(rows) * width).reshape(-1, width)
    spans = [sample.span(name) for name in _WORDS.names]
    alike = _match_sample(chars, np.frombuffer(sample[0], np.uint8), spans)
    if not alike.all():
        rows, chars = rows[alike], chars[alike]
    words = [_take_column(chars, *span) for span in spans]
    return _Found(
        rows,
        lines.starts[rows] + sample.start("data"),
        pa.RecordBatch.from_arrays(words, schema=_WORDS),
        np.full(len(rows), sample["encoding"] is not None),
    )


def _match_sample(
    chars: NDArray[np.uint8], sample: NDArray[np.uint8], spans: list[tuple[int, int]]
) -> NDArray[np.bool_]:
    """bool[n]: which rows of uint8[n, width] equal the sample outside the spans, and are plain characters
    within them."""
    varies = np.zeros(len(sample), bool)
    for begin, end in spans:
        varies[max(begin, 0) : max(end, 0)] = True
    alike = np.bitwise_or.reduce((chars ^ sample) & np.where(varies, 0, 255).astype(np.uint8), axis=1) == 0
    values = chars[:, varies]
    odd = (values - np.uint8(_SPACE) > _TILDE - _SPACE) | (values == _QUOTE) | (values == _BACKSLASH)
    return alike & ~odd.any(axis=1) if odd.any() else alike


def _take_column(chars: NDArray[np.uint8], begin: int, end: int) -> pa.Array:
    """Columns `begin` to `end` of uint8[n, width] as string[n]; nulls where `begin` is -1."""
    if begin < 0:
        return pa.nulls(len(chars), pa.string())
    edges = np.arange(len(chars) + 1) * (end - begin)
    return view_pieces(np.ascontiguousarray(chars[:, begin:end]), edges).cast(pa.string())


def _match_pattern(lines: Lines, rows: Positions, begins: pa.Array) -> _Found:
    """Those of the rows that are canonical because their first bytes, `begins`, match the pattern."""
    spans = pc.extract_regex_span(begins, CANONICAL)
    canonical = np.flatnonzero(np.asarray(spans.is_valid()))
    rows, spans = rows[canonical], spans.take(pa.array(canonical))
    found = {field.name: spans.field(i) for i, field in enumerate(spans.type)}
    edges = {name: _find_edges(span, lines.starts[rows]) for name, span in found.items()}
    texts = [lines.cut(*edges[name]).cast(pa.string()) for name in _WORDS.names]
    words = [pc.if_else(found[name].is_valid(), text, None) for name, text in zip(_WORDS.names, texts)]
    encoded = np.diff(edges["encoding"], axis=0)[0] > 0
    return _Found(rows, edges["data"][0], pa.RecordBatch.from_arrays(words, schema=_WORDS), encoded)


def _find_edges(spans: pa.Array, starts: Positions) -> tuple[Positions, Positions]:
    """Where a group begins and ends in the chunk, given (begin, length) within each line; an absent one is
    empty."""
    pairs = spans.values.fill_null(0).to_numpy().reshape(-1, 2)
    begins = starts + pairs[:, 0]
    return begins, begins + pairs[:, 1]


def _merge_in_order(found: list[_Found]) -> _Found:
    """All that was found, in the order of the rows."""
    some = [each for each in found if len(each.rows)] or found[-1:]
    if len(some) == 1:
        return some[0]
    rows, data = (np.concatenate([each[i] for each in some]) for i in range(2))
    encoded = np.concatenate([each.encoded for each in some])
    order = np.argsort(rows)
    words = concat([each.words for each in some]).take(pa.array(order))
    return _Found(rows[order], data[order], words, encoded[order])


def _check_close_and_time(lines: Lines, found: _Found) -> Heads:
    close = lines.ends[found.rows] - 1
    close -= lines.text[close] == _RETURN
    source, message_id, received_at = found.words.columns
    times = parse_date_time(received_at)
    origins = pa.RecordBatch.from_arrays([source.fill_null(ARCHIVE), message_id, times], names=_WORDS.names)
    timed = np.asarray(pc.or_(times.is_valid(), received_at.is_null()))
    return Heads(found.rows, origins, found.data, close, found.encoded).where(
        timed & (lines.text[close] == _CLOSE)
    )
