"""What flows: Arrow record batches. Free of Beam; `transforms.coder` carries them between its stages."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import pyarrow as pa

from schemas.tables import BASELINE, MESSAGE, REPORT

RAW = pa.schema([*MESSAGE, ("payload", pa.large_binary())])
"""A RawBatch: messages as they were read. Every payload ends in one newline that the source adds, so that the values
buffer of a block is newline-delimited JSON and can be parsed without a copy; `payload` is otherwise the original bytes."""

REPORT_BATCH = pa.schema([*REPORT, ("context", pa.bool_())])
"""A ReportBatch: valid reports. `context` marks a stored report that only feeds baselines and is never written."""

BASELINED = pa.schema([*REPORT, ("revision", pa.int64()), *BASELINE])
"""What leaves history: each report once, with its agent's baseline; flags and enrichment add their columns at the end."""


def concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """All rows of one or more batches of one schema, in order, as one batch."""
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def portions(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    """The batch, in order, in parts of at most `rows` rows; none of an empty one."""
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


@cache
def empty(schema: pa.Schema) -> pa.RecordBatch:
    """No rows of `schema`."""
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def filled(columns: dict[str, pa.Array], schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """The columns as a batch of `schema`; a column that is not given is null."""
    arrays = [columns[f.name] if f.name in columns else pa.nulls(rows, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def extended(batch: pa.RecordBatch, columns: Iterable[tuple[pa.Field, pa.Array]]) -> pa.RecordBatch:
    """The batch with further columns at its end."""
    added = list(columns)
    schema = pa.schema([*batch.schema, *(field for field, _ in added)])
    return pa.RecordBatch.from_arrays([*batch.columns, *(array for _, array in added)], schema=schema)
