"""The file of a sealed day, written part by part: no more than a part is in memory.

Against a file of hours it has smaller row groups, so that a reader decodes less to find one row; a Bloom
filter on each id, so that a reader skips the row groups without it; and a stronger compression.

Its rows are in blocks of BLOCK_HOURS, each in the order of the table, which begins with the agent for reports
and windows. So a reader of one hour skips the other blocks, and a reader of one agent most of each block.
"""

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.tables import Table
from transforms.core.key_wrapping import MonthKey
from transforms.core.record_batches import concat, narrow_type, split_by_bytes, split_by_rows
from transforms.core.time_units import HOUR_US
from transforms.encryption.file_key import make_encryption
from transforms.sinks.parquet.parquet_file import (
    BLANK_DIGESTS,
    DICTIONARY_COLUMNS,
    ROWS,
    STATISTICS_COLUMNS,
    fill_digests,
)

ROW_GROUP = 1 << 15
BLOCK_HOURS = 6
"""With 1, an agent is in every row group; with 24, an hour is (docs/maintenance.md has the figures)."""
LEVEL = 6
"""Of zstd. Higher ones took much more time for little (docs/maintenance.md has the figures)."""
FILTERED_COLUMNS = ("task_id", "report_id")
_FALSE_POSITIVES = 0.01


def write_day_file(
    path: Path,
    schema: pa.Schema,
    parts: Iterable[pa.RecordBatch],
    expected: int,
    key: MonthKey | None = None,
    metadata: Mapping[bytes, bytes] = MappingProxyType({}),
) -> int:
    """Write rows as one Parquet file with a digest, safe on disk; returns how many there were.

    `schema`: that of the parts, whose columns may be wide. `expected`: how many rows there should be; the
    filters are made for so many. With a `key` the file is encrypted. `metadata` goes into the footer.
    """
    narrow = pa.schema([field.with_type(narrow_type(field.type)) for field in schema])
    filters = {"ndv": max(1, min(ROW_GROUP, expected)), "fpp": _FALSE_POSITIVES}
    filtered = (
        () if key else FILTERED_COLUMNS
    )  # reading checks every byte of an encrypted file, not of filters
    rows = 0
    with pq.ParquetWriter(
        path,
        narrow,
        compression="zstd",
        compression_level=LEVEL,
        use_dictionary=DICTIONARY_COLUMNS,
        write_statistics=STATISTICS_COLUMNS,
        bloom_filter_options={name: filters for name in filtered if name in schema.names},
        encryption_properties=make_encryption(key) if key else None,
    ) as writer:
        for part in _gather(parts):
            rows += part.num_rows
            for piece in split_by_bytes(part, narrow):
                writer.write_table(pa.Table.from_batches([piece]), row_group_size=ROW_GROUP)
        writer.add_key_value_metadata({**metadata, ROWS: str(rows), **({} if key else BLANK_DIGESTS)})
    with path.open("r+b") as file:
        if not key:
            with mmap.mmap(file.fileno(), 0) as data:
                fill_digests(data)
                data.flush()
        os.fsync(file.fileno())
    return rows


def encode_day_file(
    table: Table,
    rows: pa.RecordBatch,
    key: MonthKey | None = None,
    metadata: Mapping[bytes, bytes] = MappingProxyType({}),
) -> bytes:
    """The bytes of the file of a sealed day with these rows, which are in the order of the table."""
    blocks = rows[table.time].cast(pa.int64()).to_numpy() // (BLOCK_HOURS * HOUR_US)
    rows = rows.take(pa.array(np.argsort(blocks, kind="stable")))
    with TemporaryDirectory(prefix="kpiflow-") as work:
        path = Path(work) / "day.parquet"
        parts = split_by_rows(rows, ROW_GROUP)
        write_day_file(path, rows.schema, parts, rows.num_rows, key, metadata)
        return path.read_bytes()


def _gather(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows of parts in order, small ones together: each batch begins a row group."""
    waiting: list[pa.RecordBatch] = []
    for part in parts:
        if waiting and sum(each.num_rows for each in waiting) + part.num_rows > ROW_GROUP:
            yield concat(waiting)
            waiting = []
        waiting.append(part)
    if waiting:
        yield concat(waiting)
