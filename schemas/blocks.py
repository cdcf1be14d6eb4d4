"""Many documents at once: Arrow's JSON parser reads a block of them into the columns of a schema's leaves.

This reader only ever *accepts*: a row it returns is valid, its columns are what the strict reader would have made. A row it cannot
vouch for (it may be invalid, ambiguous, or merely written in an unusual way) is left to `schemas.documents`, which decides.
"""

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.json
from numpy.typing import NDArray

from schemas import documents, leaves
from schemas.compiler import Node, arrow_fields

_LONG_ROW = 4096
_MANY_BRACKETS = 256
_MANY_FIELDS = 256
_SAMPLE = 64
_STRETCH = 256
_THREADED_BYTES = 1 << 21
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


def read(root: Node, payload: pa.Array, limits: documents.Limits) -> Accepted:
    """The valid rows of a block.

    `payload` is large_binary[n], each one JSON text and a newline: the values buffer is newline-delimited JSON.
    """
    parsed, struct = _parse(root, payload, np.flatnonzero(_plain(payload, limits)))
    distinct = np.zeros(len(payload), dtype=bool)
    distinct[parsed] = True
    columns, extra, ok = leaves.read(root, struct, _some(payload, parsed), limits)
    if not ok.all():
        keep = pa.array(ok)
        columns, extra = [column.filter(keep) for column in columns], extra.filter(keep)
    return Accepted(parsed[ok], columns, extra, distinct)


def _plain(payload: pa.Array, limits: documents.Limits) -> NDArray[np.bool_]:
    """bool[n]: rows that look like one object and cannot overwhelm the parser."""
    text, starts, ends = bounds(payload)
    lengths = ends - starts - 1
    last = np.maximum(ends - 2, 0)
    ok = (lengths >= 2) & (lengths <= limits.payload_bytes) & (text[np.minimum(starts, len(text) - 1)] == ord("{"))
    ok &= text[last] == ord("}")
    for row in np.flatnonzero(ok & (lengths > _LONG_ROW)):
        body = text[starts[row] : ends[row]]
        ok[row] = np.count_nonzero((body | 0x20) == ord("{")) <= _MANY_BRACKETS
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


def _parse(root: Node, payload: pa.Array, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], pa.StructArray]:
    """Which of `rows` could be parsed, and what they hold; rows that break the parser are left out.

    Where as many objects as rows come out, each row is one object: none holds less, since each starts and ends with a brace.
    """
    for _ in range(3):
        if not len(rows) or _explodes(root, payload, rows):
            break
        chosen = _some(payload, rows)
        try:
            struct = _arrow(root, chosen)
        except ValueError:
            rows = np.delete(rows, _breaking(root, chosen))
            continue
        if len(struct) != len(rows):
            break
        return rows, struct
    return np.zeros(0, dtype=np.int64), pa.array([], pa.struct(arrow_fields(root)))


def _arrow(root: Node, payload: pa.Array, threads: bool = True) -> pa.StructArray:
    _, starts, ends = bounds(payload)
    length = int(ends[-1] - starts[0])
    buffer = payload.buffers()[2].slice(int(starts[0]), length)
    threads = threads and length > _THREADED_BYTES
    table = pa.json.read_json(
        pa.BufferReader(buffer),
        read_options=pa.json.ReadOptions(use_threads=threads, block_size=_THREADED_BYTES if threads else length + 1),
        parse_options=pa.json.ParseOptions(explicit_schema=pa.schema(arrow_fields(root)), unexpected_field_behavior="infer"),
    )
    return table.to_struct_array().combine_chunks()


def _breaking(root: Node, payload: pa.Array) -> list[int]:
    """Rows at which the parser stops, each found by going on behind the one before, a short stretch of the block at a time."""
    found: list[int] = []
    start = 0
    while start < len(payload):
        stretch = payload[start : start + _STRETCH]
        try:
            _arrow(root, stretch, threads=False)
            start += len(stretch)
        except ValueError as error:
            place = _ROW.search(str(error))
            if place is None:
                return list(range(len(payload)))
            start += int(place.group(1)) + 1
            found.append(start - 1)
    return found


def _explodes(root: Node, payload: pa.Array, rows: NDArray[np.int64]) -> bool:
    """Whether rows spread over the block have so many names between them that a column for each would be ruinous."""
    sample = payload.take(pa.array(rows[:: max(1, len(rows) // _SAMPLE)][:_SAMPLE]))
    try:
        return _width(_arrow(root, sample, threads=False).type) > _MANY_FIELDS
    except ValueError:
        return False


def _width(type_: pa.DataType) -> int:
    return sum(_width(field.type) for field in type_) if pa.types.is_struct(type_) else 1
