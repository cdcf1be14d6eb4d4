"""Parquet files of envelopes -> messages: a row is a message, with the columns of an envelope.

`message_id` is a string; `received_at` a timestamp (without a zone: in UTC) or an RFC 3339 date-time, or
null; `data`, a string or bytes, the report; `source`, a string, may be missing or null. Other columns are
left alone.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.readers.formats import FIRST_US, LAST_US, parse_date_time
from schemas.tables import TIME
from transforms.core.record_batches import RAW, concat, make_empty
from transforms.envelopes.envelope_lines import ARCHIVE, WRONG_TIME
from transforms.sources.archives.decompression import DamagedError
from transforms.sources.archives.envelope_chunks import (
    REJECTED,
    Decoded,
    end_payloads,
    make_bare_messages,
    reject_messages,
)
from transforms.validation.report_id import compute_line_ids


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        _is_text(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _is_time(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_timestamp(kind) or pa.types.is_null(kind)


COLUMNS: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "source": ("a string", _is_text),
    "message_id": ("a string", _is_text),
    "received_at": ("a timestamp or a string", _is_time),
    "data": ("a string or binary", _is_bytes),
}
"""The columns that are read, and of what types they may be."""
ROWS = 1024
"""Rows that are read at once, at most: each may be as long as a message."""
ROWS_OF_PREFIXES = 16
"""The same of a file with texts that are written as prefixes (DELTA_BYTE_ARRAY): no dictionary says how long
they are."""
_FIXED_BYTES = 40
"""What a row takes beside its texts."""
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def read_rows(
    source: str | BinaryIO, chunk_bytes: int, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, pa.RecordBatch, float]]:
    """The rows with COLUMNS of the row groups that begin at byte `start` of the file or later and before
    `end`, about `chunk_bytes` of them at a time.

    Each batch comes with the number of its first row in the file, from 1, and with the share of the rows that
    are read by then.

    Raises:
        DamagedError: it is no Parquet, corrupt, or lacks a column; after the rows that can be read.
    """
    try:
        with pq.ParquetFile(source) as file:
            meta, names = file.metadata, _find_columns(file.schema_arrow)
            texts = {name for name in names if _is_bytes(file.schema_arrow.field(name).type)}
        groups, row = _find_groups(meta, start, end)
        total = sum(meta.row_group(group).num_rows for group in groups)
        encoded = sorted(texts - _find_prefix_columns(meta))
        with pq.ParquetFile(source, metadata=meta, read_dictionary=encoded) as file:
            at_once = _count_rows_at_once(meta, chunk_bytes)
            done = 0
            for rows in _group_rows(file.iter_batches(at_once, groups, names), chunk_bytes):
                first, done = row + done, done + rows.num_rows
                yield first, rows, done / total
    except MemoryError:
        raise
    except pa.ArrowException as error:
        raise DamagedError(f"no Parquet, or corrupt ({error})") from error


def _find_groups(meta: pq.FileMetaData, start: int, end: int | None) -> tuple[list[int], int]:
    """The row groups that begin in a range of the file's bytes, and the number of their first row."""
    groups, row = [], 1
    starts = [_find_start(meta.row_group(group)) for group in range(meta.num_row_groups)]
    for group, place in enumerate(accumulate(starts, max)):  # so groups in any order are in one range each
        if place < start:
            row += meta.row_group(group).num_rows
        elif end is None or place < end:
            groups.append(group)
    return groups, row


def _find_start(group: pq.RowGroupMetaData) -> int:
    """Where a group of rows begins in its file."""
    columns = [group.column(i) for i in range(group.num_columns)]
    pages = [each.dictionary_page_offset or each.data_page_offset for each in columns]
    return max(0, min(pages))


def _count_rows_at_once(meta: pq.FileMetaData, chunk_bytes: int) -> int:
    """How many rows to read at a time: at most ROWS, fewer where a file holds more than a chunk in as
    many."""
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    total = sum(group.total_byte_size for group in groups)
    most = ROWS_OF_PREFIXES if _find_prefix_columns(meta) else ROWS
    return max(1, min(most, chunk_bytes * meta.num_rows // max(total, 1)))


def _find_prefix_columns(meta: pq.FileMetaData) -> set[str]:
    """The columns in which a text can be written as the beginning of the one before; they cannot be read as
    dictionaries."""
    places = ((group, i) for group in range(meta.num_row_groups) for i in range(meta.num_columns))
    columns = (meta.row_group(group).column(i) for group, i in places)
    return {column.path_in_schema for column in columns if "DELTA_BYTE_ARRAY" in column.encodings}


def _group_rows(batches: Iterable[pa.RecordBatch], chunk_bytes: int) -> Iterator[pa.RecordBatch]:
    """The rows, decoded, in batches of about `chunk_bytes` or of one row.

    Their texts come as dictionaries, so that one that many rows share is not repeated before it is known how
    long it is.
    """
    parts: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        before = np.concatenate([[0], np.cumsum(_count_row_bytes(batch))])
        start = 0
        while start < batch.num_rows:
            limit = before[start] + max(chunk_bytes - size, 0)
            end = max(start + 1, int(np.searchsorted(before, limit, side="right")) - 1)
            part = batch.slice(start, end - start)
            parts.append(
                pa.RecordBatch.from_arrays(list(map(_decode_column, part.columns)), names=part.schema.names)
            )
            size += int(before[end] - before[start])
            start = end
            if size >= chunk_bytes or start < batch.num_rows:
                yield concat(parts)
                parts, size = [], 0
    if parts:
        yield concat(parts)


def _count_row_bytes(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """int64[n]: how many bytes each row's texts have."""
    total = np.full(batch.num_rows, _FIXED_BYTES, dtype=np.int64)
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            lengths = (
                pc.binary_length(column.dictionary.cast(pa.large_binary())).fill_null(0).take(column.indices)
            )
        elif _is_bytes(column.type):
            lengths = pc.binary_length(column.cast(pa.large_binary()))
        else:
            continue
        total += np.asarray(lengths.fill_null(0), dtype=np.int64)
    return total


def _find_columns(schema: pa.Schema) -> list[str]:
    """The names of COLUMNS that the file has."""
    for name, (wanted, fits) in COLUMNS.items():
        kind = schema.field(name).type if name in schema.names else None
        if kind is None and name != "source":
            raise DamagedError(
                f"no column {name}; an archive has message_id, received_at, data and perhaps source"
            )
        if kind is not None and not fits(kind.value_type if pa.types.is_dictionary(kind) else kind):
            raise DamagedError(f"column {name} is {kind}; it must be {wanted}")
    return [name for name in COLUMNS if name in schema.names]


def decode_rows(batch: pa.RecordBatch, first_row: int = 1) -> Decoded:
    """The messages of a batch with COLUMNS, the first of them row `first_row` of its file.

    A row without an id or data, or with a wrong time, is bad: it is known by its number and by what its
    columns hold.
    """
    rows = batch.num_rows
    found = {each: _decode_column(batch[each]) for each in batch.schema.names}
    source, garbled_source = _decode_texts(found.get("source", pa.nulls(rows, pa.string())))
    message_id, garbled_id = _decode_texts(found["message_id"])
    times = _parse_times(found["received_at"])
    payload = end_payloads(found["data"])
    wrong = pc.and_(found["received_at"].is_valid(), times.is_null())
    problems = pc.if_else(wrong, WRONG_TIME, "")
    problems = pc.if_else(found["data"].is_null(), "data must not be null", problems)
    problems = pc.if_else(message_id.is_null(), "message_id must not be null", problems)
    problems = pc.if_else(pc.or_(garbled_id, garbled_source), "message_id and source must be UTF-8", problems)
    raw = pa.RecordBatch.from_arrays([source.fill_null(ARCHIVE), message_id, times, payload], schema=RAW)
    good = pc.equal(problems, "")
    if pc.all(good).as_py():
        return Decoded(raw, make_empty(REJECTED), rows)
    wrong_rows = np.flatnonzero(~np.asarray(good))
    plain = {each: _plain(column.take(pa.array(wrong_rows))) for each, column in found.items()}
    written = pa.RecordBatch.from_pydict(plain).to_pylist()
    unnamed = make_bare_messages(
        payload.take(pa.array(wrong_rows)), compute_line_ids(wrong_rows + first_row, map(_row_text, written))
    )
    return Decoded(raw.filter(good), reject_messages(unnamed, problems.filter(pc.invert(good))), rows)


def _row_text(row: dict[str, Any]) -> bytes:
    """What the columns of a row hold, as one text: the same whether they are text or bytes, plain or
    dictionaries."""
    return repr([row.get(name) for name in COLUMNS]).encode()


def _plain(array: pa.Array) -> pa.Array:
    """Text as its bytes, UTF-8 or not, and times as numbers, in the calendar or not."""
    return array.cast(pa.large_binary() if _is_bytes(array.type) else pa.int64())


def _decode_column(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _parse_times(column: pa.Array) -> pa.Array:
    """received_at as timestamp[us, UTC]; nanoseconds are cut, and a time outside of the years 1 to 9999 is
    null."""
    if _is_text(column.type):
        return parse_date_time(column)
    if pa.types.is_timestamp(column.type):
        per_second = _PER_SECOND[column.type.unit]
        first, last = (moment // 1_000_000 * per_second for moment in (FIRST_US, LAST_US + 1))
        ticks = column.cast(pa.int64())
        inside = pc.and_(pc.greater_equal(ticks, first), pc.less(ticks, last)) if per_second < 10**9 else True
        column = pc.if_else(inside, column, pa.scalar(None, column.type))
    return column.cast(TIME, safe=False)


def _decode_texts(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Texts as string[n], null where they are not UTF-8; and bool[n], where that is so."""
    data = column.cast(pa.large_binary())
    try:
        return data.cast(pa.string()), pa.repeat(False, len(data))
    except pa.ArrowInvalid:
        texts = pa.array(
            [None if each is None else _decode_text(each) for each in data.to_pylist()], pa.string()
        )
        return texts, pc.and_(data.is_valid(), texts.is_null())


def _decode_text(octets: bytes) -> str | None:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return None
