"""The Arrow record batches of the graph: their schemas, and how batches are made, joined and split.

Free of Beam; `transforms.core.arrow_coder` carries batches between its stages.

An array of strings or binaries holds less than 2 GiB (TEXT_BYTES), because its offsets have 32 bits. One
message or one block is far below that; many together may not be. `concat` then gives that column its *wide*
type, with offsets of 64 bits. `split_by_bytes` splits such rows into batches of the plain types again.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import numpy as np
import pyarrow as pa

from schemas.tables import BASELINE, MESSAGE, REPORT

RAW = pa.schema([*MESSAGE, ("payload", pa.large_binary())])
"""A RawBatch: messages as they were read. Every payload ends in one newline that the source adds, so that the
values buffer of a block is newline-delimited JSON and can be parsed without a copy; `payload` is otherwise
the original bytes."""

REPORT_BATCH = pa.schema([*REPORT, ("context", pa.bool_())])
"""A ReportBatch: valid reports. `context` marks stored ones that only feed baselines and are not written."""

BASELINED = pa.schema([*REPORT, ("revision", pa.int64()), *BASELINE])
"""Reports after history: each once, with its agent's baseline. Later steps append columns."""


TEXT_BYTES = (1 << 31) - 1
"""Most bytes of an array of strings or binaries."""
PIECE_BYTES = 1 << 28
"""Most bytes of a batch of `split_by_bytes`, unless it is a single row."""


def concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """All rows of one or more batches of one schema, in order, as one batch.

    Columns of more than TEXT_BYTES are wide.

    Raises:
        pyarrow.ArrowInvalid: the batches have different columns.
    """
    if len(batches) == 1:
        return batches[0]
    try:
        return pa.concat_batches(batches)
    except pa.ArrowInvalid:  # an overflow, or some of the columns are wide already
        names = batches[0].schema.names
        if any(batch.schema.names != names for batch in batches):
            raise
        columns = [_concat_arrays([batch.column(place) for batch in batches]) for place in range(len(names))]
        return pa.RecordBatch.from_arrays(columns, names=names)


def _concat_arrays(parts: Sequence[pa.Array]) -> pa.Array:
    """The parts as one array, wide if they differ in width or hold more than TEXT_BYTES."""
    if len({part.type for part in parts}) == 1 and sum(part.nbytes for part in parts) <= TEXT_BYTES:
        return pa.concat_arrays(parts)
    return pa.concat_arrays([_cast(part, widen_type(part.type)) for part in parts])


@cache
def widen_type(kind: pa.DataType) -> pa.DataType:
    """The type with offsets of 64 bits for every string and binary in it."""
    return _replace_types(kind, {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()})


@cache
def narrow_type(kind: pa.DataType) -> pa.DataType:
    """The type with offsets of 32 bits for every string and binary in it."""
    return _replace_types(kind, {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()})


def _replace_types(kind: pa.DataType, others: dict[pa.DataType, pa.DataType]) -> pa.DataType:
    """The type with each plain type in it, however deep, as `others` says."""

    def replace_in(field: pa.Field) -> pa.Field:
        return pa.field(field.name, _replace_types(field.type, others), field.nullable)

    if pa.types.is_struct(kind):
        return pa.struct([replace_in(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(replace_in(kind.key_field), replace_in(kind.item_field))
    if pa.types.is_list(kind):
        return pa.list_(replace_in(kind.value_field))
    return others.get(kind, kind)


def fit_column(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column as `kind`; unchanged if it is wide and holds more than TEXT_BYTES.

    Raises:
        pyarrow.ArrowInvalid: it does not fit the type.
    """
    return column if column.type == widen_type(kind) and column.nbytes > TEXT_BYTES else _cast(column, kind)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    if column.type == widen_type(kind) or pa.types.is_map(column.type):
        # A copy's offsets begin at 0: those of a slice may not fit, and Arrow's cast of some slices of maps
        # aborts the process.
        column = column.take(pa.array(np.arange(len(column))))
    if not (pa.types.is_map(kind) and pa.types.is_map(column.type)):
        return column.cast(kind)
    keys, items = column.keys.cast(kind.key_type), column.items.cast(kind.item_type)
    return pa.MapArray.from_arrays(column.offsets, keys, items, kind, mask=column.is_null())


def join_columns(columns: Sequence[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    """The columns as a batch of the fields of `schema`; wide columns stay wide."""
    fields = [
        f.with_type(c.type) if c.type == widen_type(f.type) else f
        for f, c in zip(schema, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch in the columns of `schema`, whatever their order.

    A missing column is null, a further one is left out.

    A column that is too large for its type stays wide.

    Raises:
        pyarrow.ArrowInvalid: a column does not fit its type.
    """
    if batch.schema.equals(schema):
        return batch
    names = set(batch.schema.names)
    columns = [
        fit_column(batch[field.name], field.type)
        if field.name in names
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return join_columns(columns, schema)


def conform_table(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    """The rows of a table in these columns, as `conform` gives them."""
    return pa.Table.from_batches([conform(batch, columns) for batch in rows.to_batches()], columns)


def split_by_bytes(rows: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows, in order, as batches of `schema` of at most PIECE_BYTES; the columns may be wide."""
    if rows.nbytes > PIECE_BYTES and rows.num_rows > 1:
        half = rows.num_rows // 2
        yield from split_by_bytes(rows.slice(0, half), schema)
        yield from split_by_bytes(rows.slice(half), schema)
    elif rows.schema.equals(schema):
        yield rows
    else:
        columns = [_cast(column, field.type) for column, field in zip(rows.columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def group_batches(
    batches: Iterable[pa.RecordBatch], octets: int, rows: int | None = None
) -> Iterator[list[pa.RecordBatch]]:
    """The batches, in order, in groups of at most `octets` bytes.

    A group also ends once it has `rows` rows. A batch is never cut: one that is larger is a group of its own.
    """
    group: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if group and (
            size + batch.nbytes > octets
            or (rows is not None and sum(part.num_rows for part in group) >= rows)
        ):
            yield group
            group, size = [], 0
        group.append(batch)
        size += batch.nbytes
    if group:
        yield group


def split_by_rows(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    """The batch, in order, in parts of at most `rows` rows; no part of an empty batch."""
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


@cache
def make_empty(schema: pa.Schema) -> pa.RecordBatch:
    """A batch of `schema` without rows."""
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def build_batch(columns: dict[str, pa.Array], schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """The columns as a batch of `schema` with `rows` rows; a missing column is null."""
    return join_columns(
        [columns[f.name] if f.name in columns else pa.nulls(rows, f.type) for f in schema], schema
    )


def append_columns(batch: pa.RecordBatch, columns: Iterable[tuple[pa.Field, pa.Array]]) -> pa.RecordBatch:
    """The batch with more columns at its end."""
    added = list(columns)
    schema = pa.schema([*batch.schema, *(field for field, _ in added)])
    return pa.RecordBatch.from_arrays([*batch.columns, *(array for _, array in added)], schema=schema)
