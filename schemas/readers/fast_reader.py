"""Many documents at once: Arrow's JSON parser reads a block of them into the columns of a schema's leaves.

This reader only ever *accepts*: a row it returns is valid, its columns are what the strict reader would have made. A row it cannot
vouch for (it may be invalid, ambiguous, or merely written in an unusual way) is left to `schemas.readers.strict_reader`, which decides.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
from numpy.typing import NDArray

from schemas.readers import leaf_columns, object_pattern, strict_reader
from schemas.readers.compiler import Node, make_arrow_fields
from schemas.readers.constraints import choose_column_type
from schemas.readers.verdicts import Limits

_LONG_ROW = 1 << 14
"""Longer rows, in bytes, are left to the strict reader: it is as fast on them, and nothing in them can be a burden to others."""
_MANY_FIELDS = 256
_SAMPLE, _LARGE_SAMPLE = 128, 2048
_STRETCH = 256
_MOST_BREAKS = 16
_QUOTE, _BACKSLASH = b'"\\'
_BACKSLASHES = 8
_ENDS_NAME = np.isin(np.arange(256), list(b": \t\r\n"))
_ODD_SHARE = 8
_MOST_BYTES = 1 << 30
_PARSER_ERRORS = (pa.ArrowException, ValueError)
_ROW = re.compile(r"in row (\d+)$")


@dataclass(frozen=True)
class Accepted:
    """The rows that are valid: int64[m] of their places in the block, a column for each leaf, and their `extra` texts.

    `distinct` is bool[n] over the whole block: rows that were parsed, and so are known to repeat no name.
    """

    rows: NDArray[np.int64]
    columns: list[pa.Array]
    extra: pa.Array
    distinct: NDArray[np.bool_]


def read_block(root: Node, payload: pa.Array, limits: Limits) -> Accepted:
    """The valid rows of a block.

    `payload` is large_binary[n], each one JSON text and a newline: the values buffer is newline-delimited JSON.
    """
    rows = np.flatnonzero(_plain(payload, limits))
    found = list(_parts(root, payload, rows, limits))
    parsed = np.concatenate([rows[:0], *(part for part, *_ in found)])
    valid = [part[ok] for part, _, _, ok in found]
    distinct = np.zeros(len(payload), dtype=bool)
    distinct[parsed] = True
    columns = [
        pa.concat_arrays([pa.array([], type_), *(_kept(each[place], ok) for _, each, _, ok in found)])
        for place, type_ in enumerate(choose_column_type(leaf) for leaf in root.leaves())
    ]
    extra = pa.concat_arrays([pa.array([], pa.string()), *(_kept(texts, ok) for _, _, texts, ok in found)])
    return Accepted(np.concatenate([rows[:0], *valid]), columns, extra, distinct)


_Part = tuple[NDArray[np.int64], list[pa.Array], pa.Array, NDArray[np.bool_]]


def _parts(
    root: Node, payload: pa.Array, rows: NDArray[np.int64], limits: Limits, alike: bool = False
) -> Iterator[_Part]:
    """Parsed rows with their columns, extra texts and whether they are valid.

    All rows at once, if nothing breaks the parser (a sample tells the most broken blocks early); else those that are written
    `alike`, without the rows that break it all the same; else in halves, since it may be that rows do not fit together: what no
    schema describes is a number here, a text there.

    The parser makes a column for each name, as long as the block. So it meets the names of a sample only or, where rows have
    others even than those of a large sample, only rows with the block's most frequent names; the other rows are left out.
    """
    if not len(rows):
        return
    chosen, struct = _as_sampled(root, payload, rows, alike)
    if chosen is not None and struct is None:
        few = _with_few_names(chosen)
        if not few.all():
            rows, chosen = rows[few], chosen.filter(pa.array(few))
        struct = _parsed(root, chosen)
    if chosen is not None and struct is not None:
        yield rows, *leaf_columns.read(root, struct, chosen, limits)
    elif not alike:
        fits = _alike(root, payload, rows)
        yield from _parts(root, payload, rows[fits], limits, alike=True)
        if np.count_nonzero(~fits) > len(rows) // _ODD_SHARE:
            yield from _parts(root, payload, rows[~fits], limits, alike=True)
    else:
        whole = np.delete(rows, np.array(_breaking(root, _some(payload, rows)), dtype=np.int64))
        if len(whole) < len(rows):
            yield from _parts(root, payload, whole, limits, alike=True)
        elif len(rows) > _STRETCH:
            for half in np.array_split(rows, 2):
                yield from _parts(root, payload, half, limits, alike=True)


def _as_sampled(
    root: Node, payload: pa.Array, rows: NDArray[np.int64], alike: bool
) -> tuple[pa.Array | None, pa.StructArray | None]:
    """The rows, if they are worth parsing, and what Arrow reads, if they have no names but those of a sample."""
    chosen = None
    for size in (_SAMPLE, _LARGE_SAMPLE):
        sample = _few_names(root, _sample(payload, rows, size))
        if sample is None and not alike:
            return None, None
        chosen = _some(payload, rows) if chosen is None else chosen
        struct = None if sample is None else _parsed(root, chosen, _widened(sample))
        if sample is None or struct is not None:
            return chosen, struct
    return chosen, None


def _alike(root: Node, payload: pa.Array, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool[m]: which of `rows` are written as most of a sample are."""
    sample = _sample(payload, rows, _SAMPLE)
    known = [strict_reader.decode(text.as_py(), Limits(), distinct_keys=True) for text in sample]
    shaped = object_pattern.build_pattern(
        root, [document for document in known if isinstance(document, dict)]
    )
    return np.asarray(pc.match_substring_regex(payload, shaped))[rows]


def _sample(payload: pa.Array, rows: NDArray[np.int64], size: int) -> pa.Array:
    """At most `size` of the rows, spread over all."""
    return payload.take(pa.array(rows[:: max(1, len(rows) // size)][:size]))


def _few_names(root: Node, sample: pa.Array) -> pa.StructType | None:
    """The type of the rows of a sample that have few names; None where some row breaks the parser."""
    struct = _parsed(root, sample.filter(pa.array(_with_few_names(sample))))
    return None if struct is None else struct.type


def _kept(column: pa.Array, ok: NDArray[np.bool_]) -> pa.Array:
    return column if ok.all() else column.filter(pa.array(ok))


def _plain(payload: pa.Array, limits: Limits) -> NDArray[np.bool_]:
    """bool[n]: rows that look like one object and cannot overwhelm the parser."""
    text, starts, ends = bounds(payload)
    lengths = ends - starts - 1
    last = np.maximum(ends - 2, 0)
    ok = (
        (lengths >= 2)
        & (lengths <= min(limits.payload_bytes, _LONG_ROW))
        & (text[np.minimum(starts, len(text) - 1)] == ord("{"))
    )
    ok &= text[last] == ord("}")
    try:
        payload.cast(pa.large_string())
    except pa.ArrowInvalid:
        for row in np.flatnonzero(ok):
            try:
                payload[row].as_py().decode()
            except UnicodeDecodeError:
                ok[row] = False
    return ok


def bounds(payload: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The bytes under a large_binary array, and where each value starts and ends."""
    _, offsets, values = payload.buffers()
    ends = np.frombuffer(offsets, np.int64)[payload.offset : payload.offset + len(payload) + 1]
    text = np.frombuffer(values, np.uint8) if values is not None and values.size else np.zeros(1, np.uint8)
    return text, ends[:-1], ends[1:]


def _some(payload: pa.Array, rows: NDArray[np.int64]) -> pa.Array:
    return payload.take(pa.array(rows)) if len(rows) < len(payload) else payload


def _parsed(root: Node, payload: pa.Array, type_: pa.StructType | None = None) -> pa.StructArray | None:
    """What Arrow reads, if it reads an object for each row: none holds less than one, since each starts and ends with a brace.

    With a type, None also where a row has a name that the type does not have.
    """
    try:
        struct = _arrow(root, payload, type_)
    except _PARSER_ERRORS:
        return None
    return struct if len(struct) == len(payload) else None


def _arrow(root: Node, payload: pa.Array, type_: pa.StructType | None = None) -> pa.StructArray:
    if not len(payload):
        return pa.array([], pa.struct(make_arrow_fields(root)))
    fields, others = (make_arrow_fields(root), "infer") if type_ is None else (list(type_), "error")
    _, starts, ends = bounds(payload)
    length = int(ends[-1] - starts[0])
    buffer = payload.buffers()[2].slice(int(starts[0]), length)
    table = pa.json.read_json(
        pa.BufferReader(buffer),
        read_options=pa.json.ReadOptions(use_threads=False, block_size=min(length + 1, _MOST_BYTES)),
        parse_options=pa.json.ParseOptions(
            explicit_schema=pa.schema(fields), unexpected_field_behavior=others
        ),
    )
    struct = table.to_struct_array()
    return struct.chunk(0) if struct.num_chunks == 1 else struct.combine_chunks()


def _breaking(root: Node, payload: pa.Array) -> list[int]:
    """Rows at which the parser stops, each found by going on behind the one before, a short stretch of the block at a time.

    What follows _MOST_BREAKS of them in a stretch is given up with them: to parse it again and again costs more than to read it row
    by row. So is a whole stretch in which some row holds two objects, since places in it cannot be told.
    """
    return [row for start in range(0, len(payload), _STRETCH) for row in _breaking_in(root, payload, start)]


def _breaking_in(root: Node, payload: pa.Array, start: int) -> Iterator[int]:
    end = min(start + _STRETCH, len(payload))
    for _ in range(_MOST_BREAKS):
        rest = payload[start:end]
        try:
            place = len(rest) if len(_arrow(root, rest)) == len(rest) else -1
        except _PARSER_ERRORS as error:
            named = _ROW.search(str(error))
            place = int(named.group(1)) if named else -1
        if not 0 <= place <= len(rest):
            break
        if place < len(rest):
            yield start + place
        start += place + 1
        if start >= end:
            return
    yield from range(start, end)


def _widened(type_: pa.DataType) -> pa.DataType:
    """The type with float64 for integers and strings for times, for the values of rows that it was not inferred from."""
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_widened(field.type)) for field in type_])
    if pa.types.is_list(type_):
        return pa.list_(_widened(type_.value_type))
    if pa.types.is_integer(type_):
        return pa.float64()
    return pa.string() if pa.types.is_temporal(type_) else type_


def _with_few_names(payload: pa.Array) -> NDArray[np.bool_]:
    """bool[n]: the rows all of whose names are among the most frequent _MANY_FIELDS of them all.

    What lies between two quotes before a colon or a space is taken for a name, so a text may be taken for one too. Rows
    with a quote behind _BACKSLASHES of them, which may be escaped or not, do not count.
    """
    text, starts, ends = bounds(payload)
    start = int(starts[0]) if len(starts) else 0
    text = text[start : int(ends[-1])] if len(ends) else text[:0]
    quotes, doubtful = _unescaped(text, np.flatnonzero(text == _QUOTE))
    before = np.flatnonzero(_ENDS_NAME[text[np.minimum(quotes[1:] + 1, len(text) - 1)]])
    pieces = [None, pa.py_buffer(np.append(quotes, len(text))), pa.py_buffer(np.ascontiguousarray(text))]
    names = (
        pa.Array.from_buffers(pa.large_binary(), len(quotes), pieces)
        .take(pa.array(before))
        .dictionary_encode()
    )
    few = np.ones(len(payload), dtype=bool)
    if len(names.dictionary) > _MANY_FIELDS or len(doubtful):
        codes = names.indices.to_numpy()
        known = np.zeros(len(names.dictionary), dtype=bool)
        known[np.argsort(-np.bincount(codes, minlength=len(known)), kind="stable")[:_MANY_FIELDS]] = True
        few[
            np.searchsorted(ends - start, np.append(quotes[before][~known[codes]], doubtful), side="right")
        ] = False
    return few


def _unescaped(
    text: NDArray[np.uint8], quotes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of quotes that are not escaped, and of those behind _BACKSLASHES backslashes, which may be."""
    after = np.minimum(np.flatnonzero(text == _BACKSLASH) + 1, len(text) - 1)
    behind = np.searchsorted(quotes, after[text[after] == _QUOTE])
    escaped = np.zeros(len(quotes), dtype=bool)
    for distance in range(1, _BACKSLASHES + 1):
        behind = behind[text[np.maximum(quotes[behind] - distance, 0)] == _BACKSLASH]
        escaped[behind] ^= True
    return quotes[~escaped], quotes[behind]
