"""The fast reader: many documents at once, read by Arrow's JSON parser. It only ever *accepts*.

A row that it returns is valid, and its columns are what the strict reader would have made. Every other row
(it may be invalid, ambiguous, or merely written in an unusual way) is left to
`schemas.readers.strict_reader`, which decides.

    payloads of a block
        |  parse: here, all rows at once or in few parts
    leaf_columns.read_leaves: columns, rules checked
        |
    raw_text.cut_texts: what no schema describes
        |
    Accepted
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from schemas.readers import object_pattern
from schemas.readers.compiler import Node, make_arrow_fields
from schemas.readers.leaf_columns import read_leaves
from schemas.readers.parser_guards import find_bounds, find_few_names, find_plain
from schemas.readers.raw_text import cut_texts
from schemas.readers.verdicts import Accepted, Mask, MessageLimits, Rows, join_accepted

_SAMPLES = (128, 2048)
"""Rows from which the names and types of a block are taken; more if the first sample missed some names."""
_STRETCH = 256
"""Rows that are parsed again behind a row that breaks the parser, at most."""
_MOST_BREAKS = 16
"""Breaking rows of a stretch that are found one by one."""
_ODD_SHARE = 8
"""Rows that are not written as most are get their own parse if they are more than this part of a block."""
_MOST_BYTES = 1 << 30
_PARSER_ERRORS = (pa.ArrowException, ValueError)
_BREAKING_ROW = re.compile(r"in row (\d+)$")


class FastReading(NamedTuple):
    """The valid rows of a block, and bool[n]: the rows that Arrow parsed, which therefore repeat no name."""

    accepted: Accepted
    distinct: Mask


def read_block(root: Node, payload: pa.Array, limits: MessageLimits) -> FastReading:
    """The rows of a block that are valid for certain.

    `payload` is large_binary[n], each a JSON text and a newline: its values buffer is newline-delimited JSON.
    """
    distinct = np.zeros(len(payload), dtype=bool)
    accepted = []
    plain = np.flatnonzero(find_plain(payload, limits))
    if root.depth > limits.depth:  # Arrow does not count brackets: all rows are left to the strict reader
        plain = plain[:0]
    for part in _parse_parts(root, payload, plain):
        distinct[part.rows] = True
        columns, extra, valid = cut_texts(root, read_leaves(root, part.struct, part.payload), limits)
        accepted.append(Accepted(part.rows, columns, extra).filter(valid))
    return FastReading(join_accepted(root, accepted), distinct)


class _Part(NamedTuple):
    """Rows that Arrow parsed together: their places in the block, their bytes, and what it made of them."""

    rows: Rows
    payload: pa.Array
    struct: pa.StructArray


def _parse_parts(root: Node, payload: pa.Array, rows: Rows) -> Iterator[_Part]:
    """The rows as Arrow parses them: all at once, if nothing breaks the parser.

    If something does, the rows that are written as most are go first, and the others only if they are many.
    """
    if not len(rows):
        return
    part = _parse_as_one(root, payload, rows, broken_sample=False)
    if part is not None:
        yield part
        return
    usual = _find_usual(root, payload, rows)
    yield from _parse_usual(root, payload, rows[usual])
    if np.count_nonzero(~usual) > len(rows) // _ODD_SHARE:
        yield from _parse_usual(root, payload, rows[~usual])


def _parse_usual(root: Node, payload: pa.Array, rows: Rows) -> Iterator[_Part]:
    """The rows as Arrow parses them, without those that break it.

    If no single row breaks it, the rows do not fit together (what no schema describes is a number here, a
    text there): they are parsed in halves.
    """
    if not len(rows):
        return
    part = _parse_as_one(root, payload, rows, broken_sample=True)
    if part is not None:
        yield part
        return
    broken = np.array(_find_breaking(root, _take_rows(payload, rows)), dtype=np.int64)
    if len(broken):
        yield from _parse_usual(root, payload, np.delete(rows, broken))
    elif len(rows) > _STRETCH:
        for half in np.array_split(rows, 2):
            yield from _parse_usual(root, payload, half)


def _parse_as_one(root: Node, payload: pa.Array, rows: Rows, broken_sample: bool) -> _Part | None:
    """All rows in one parse; None if something breaks the parser.

    A sample is parsed first. If that breaks the parser, the answer is None at once, unless `broken_sample`.
    Arrow's parser makes a column for each name, as long as the block. So it is given the names of a sample
    only. Where rows have names beyond those of the large sample, it gets the rows that have only the most
    frequent names of the block, and the other rows are left out.
    """
    for size in _SAMPLES:
        type_ = _infer_type(root, _take_sample(payload, rows, size))
        if type_ is None and not broken_sample:
            return None
        if type_ is None:
            break
        chosen = _take_rows(payload, rows)
        struct = _parse(root, chosen, _widen_type(type_))
        if struct is not None:
            return _Part(rows, chosen, struct)
    chosen = _take_rows(payload, rows)
    few = find_few_names(chosen)
    if not few.all():
        rows, chosen = rows[few], chosen.filter(pa.array(few))
    struct = _parse(root, chosen)
    return None if struct is None else _Part(rows, chosen, struct)


def _find_usual(root: Node, payload: pa.Array, rows: Rows) -> Mask:
    """bool[m]: which of `rows` are written as most of a sample are, and so will hardly break the parser."""
    documents = [_read_object(text) for text in _take_sample(payload, rows, _SAMPLES[0]).to_pylist()]
    pattern = object_pattern.build_pattern(root, [each for each in documents if each is not None])
    return np.asarray(pc.match_substring_regex(payload, pattern))[rows]


def _read_object(text: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _take_sample(payload: pa.Array, rows: Rows, size: int) -> pa.Array:
    """At most `size` of the rows, spread over all."""
    return payload.take(pa.array(rows[:: max(1, len(rows) // size)][:size]))


def _take_rows(payload: pa.Array, rows: Rows) -> pa.Array:
    return payload.take(pa.array(rows)) if len(rows) < len(payload) else payload


def _infer_type(root: Node, sample: pa.Array) -> pa.StructType | None:
    """The type of the rows of a sample that have few names; None if a row breaks the parser."""
    struct = _parse(root, sample.filter(pa.array(find_few_names(sample))))
    return None if struct is None else struct.type


def _widen_type(type_: pa.DataType) -> pa.DataType:
    """The type with float64 for integers and strings for times: other rows may have such values."""
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_widen_type(field.type)) for field in type_])
    if pa.types.is_list(type_):
        return pa.list_(_widen_type(type_.value_type))
    if pa.types.is_integer(type_):
        return pa.float64()
    return pa.string() if pa.types.is_temporal(type_) else type_


def _parse(root: Node, payload: pa.Array, type_: pa.StructType | None = None) -> pa.StructArray | None:
    """What Arrow reads, if it reads one object for each row, else None.

    A row cannot hold less than one object, since it starts and ends with a brace.
    With a type, None also if a row has a name that the type does not have.
    """
    try:
        struct = _parse_json(root, payload, type_)
    except _PARSER_ERRORS:
        return None
    return struct if len(struct) == len(payload) else None


def _parse_json(root: Node, payload: pa.Array, type_: pa.StructType | None = None) -> pa.StructArray:
    if not len(payload):
        return pa.array([], pa.struct(make_arrow_fields(root)))
    fields, others = (make_arrow_fields(root), "infer") if type_ is None else (list(type_), "error")
    _, starts, ends = find_bounds(payload)
    length = int(ends[-1] - starts[0])
    table = pa.json.read_json(
        pa.BufferReader(payload.buffers()[2].slice(int(starts[0]), length)),
        read_options=pa.json.ReadOptions(use_threads=False, block_size=min(length + 1, _MOST_BYTES)),
        parse_options=pa.json.ParseOptions(
            explicit_schema=pa.schema(fields), unexpected_field_behavior=others
        ),
    )
    struct = table.to_struct_array()
    return struct.chunk(0) if struct.num_chunks == 1 else struct.combine_chunks()


def _find_breaking(root: Node, payload: pa.Array) -> list[int]:
    """Rows at which the parser stops: each is found by going on behind the one before, in short stretches.

    What follows _MOST_BREAKS of them in a stretch is given up with them: parsing it again and again costs
    more than reading it row by row. So is a whole stretch in which some row holds two objects, since the
    parser's row numbers are then wrong.
    """
    stretches = range(0, len(payload), _STRETCH)
    return [row for start in stretches for row in _find_breaking_in(root, payload, start)]


def _find_breaking_in(root: Node, payload: pa.Array, start: int) -> Iterator[int]:
    end = min(start + _STRETCH, len(payload))
    for _ in range(_MOST_BREAKS):
        rest = payload[start:end]
        try:
            place = len(rest) if len(_parse_json(root, rest)) == len(rest) else -1
        except _PARSER_ERRORS as error:
            named = _BREAKING_ROW.search(str(error))
            place = int(named.group(1)) if named else -1
        if not 0 <= place <= len(rest):
            break
        if place < len(rest):
            yield start + place
        start += place + 1
        if start >= end:
            return
    yield from range(start, end)
