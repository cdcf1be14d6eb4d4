"""Parquet files with a digest: `verify_file` notices a change of any byte.

The footer's key-value metadata holds `kpiflow.rows`, the number of rows; `kpiflow.digest`, the BLAKE2b-128 of
every byte before the footer; and `kpiflow.footer`, the BLAKE2b-128 of the footer itself with zeros in place
of this value. Digests are 32 hex digits.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.tables import METRICS
from transforms.core.errors import DamagedFile
from transforms.core.record_batches import concat, make_empty, narrow_type, split_by_bytes, split_by_rows

ROWS, DIGEST, FOOTER = b"kpiflow.rows", b"kpiflow.digest", b"kpiflow.footer"
ROW_GROUP = 1 << 17
"""Rows of a row group: a reader that wants one agent skips the others of a large file."""

DICTIONARY_COLUMNS = ["granularity", "agent_id", "source", "source_layer", "target_agent_type",
                      "execution_context.hostname", "execution_context.gpu_info", "reason", "field", "rule",
                      "resolution", "dismissed_because", "kind", "agent_type", "state", "status",
                      *(f"{metric}_baseline_state" for metric in METRICS)]  # fmt: skip
"""Leaf columns with a dictionary. On the others it made files of 100k reports 15 % larger and 60 % slower to
write."""
STATISTICS_COLUMNS = ["agent_id", "recorded_at", "time_window_start", "received_at", "report_id", "task_id",
                      "source", "message_id", "effective_at", "created_at", "completed_at"]  # fmt: skip
"""Columns with statistics: those that queries filter by."""

REPLACE = "move it away, then run `kpiflow backfill --replace` over the messages of its hour"
DERIVE = "remove it, then run `kpiflow derive`"
"""What to do about a damaged file: of messages, and of a derived table."""
_BLANK = b"0" * 32
_UNREADABLE = (OSError, pa.ArrowException, ValueError)


def encode_file(rows: pa.RecordBatch, metadata: Mapping[bytes, bytes] | None = None) -> bytearray:
    """The rows as a Parquet file with a digest (zstd, level 1), in types with 32-bit offsets.

    A row group has at most ROW_GROUP rows and PIECE_BYTES, so every reader can hold it, and a page, in plain
    arrays. `metadata` is added to the footer.
    """
    schema = pa.schema([field.with_type(narrow_type(field.type)) for field in rows.schema])
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=DICTIONARY_COLUMNS,
        write_statistics=STATISTICS_COLUMNS,
    ) as writer:
        for part in split_by_rows(rows, ROW_GROUP):
            for piece in split_by_bytes(part, schema):
                writer.write_table(pa.Table.from_batches([piece]), row_group_size=ROW_GROUP)
        writer.add_key_value_metadata(
            {**(metadata or {}), ROWS: str(rows.num_rows), DIGEST: _BLANK, FOOTER: _BLANK}
        )
    data = bytearray(sink.getvalue())
    start = _find_footer(data)
    _fill(data, start, DIGEST, _BLANK, _hash(data, 0, start))
    _fill(data, start, FOOTER, _BLANK, _hash(data, start))
    return data


def verify_file(file: Path | bytes) -> str | None:
    """What is wrong with a file of an output, in words; None if it is exactly as it was written."""
    try:
        data = file.read_bytes() if isinstance(file, Path) else file
        metadata = pq.read_metadata(pa.BufferReader(data))
    except _UNREADABLE as error:
        return _explain_unreadable(error)
    values = metadata.metadata or {}
    if not {ROWS, DIGEST, FOOTER} <= set(values):
        return "has no digest: it was written by another program"
    start = _find_footer(data)
    if _hash(data, 0, start) != values[DIGEST]:
        return "does not match its digest: its rows were changed after it was written"
    footer = bytearray(data[start:])
    _fill(footer, 0, FOOTER, values[FOOTER], _BLANK)
    if _hash(footer, 0) != values[FOOTER] or values[ROWS] != str(metadata.num_rows).encode():
        return "does not match the digest of its footer: it was changed after it was written"
    return None


def read_file(
    file: Path | bytes, columns: Sequence[str] | None = None, name: str = "", fix: str = REPLACE
) -> pa.RecordBatch:
    """The rows of a file, in all its columns or in those of `columns` that it has.

    Columns of more than 2 GiB are wide (`transforms.core.record_batches`). `name`: how to call bytes in an
    error.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is not a readable Parquet file.
    """
    try:
        with pq.ParquetFile(file if isinstance(file, Path) else pa.BufferReader(file)) as parquet:
            schema = parquet.schema_arrow.remove_metadata()
            if columns is not None:
                schema = pa.schema([field for field in schema if field.name in columns])
            groups = (parquet.read_row_group(each, schema.names) for each in range(parquet.num_row_groups))
            batches = [
                batch
                for group in groups
                for batch in group.replace_schema_metadata().combine_chunks().to_batches()
            ]
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        where = file if isinstance(file, Path) else name
        raise describe_damage(where, _explain_unreadable(error), fix) from error
    return concat(batches) if batches else make_empty(schema)


def describe_damage(file: Path | str, problem: str, fix: str = REPLACE) -> DamagedFile:
    """The error to raise for a file with a problem, as `verify_file` says it; with the fix."""
    return DamagedFile(f"{file} {problem}; {fix}")


def _explain_unreadable(error: Exception) -> str:
    return f"cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _find_footer(data: bytes | bytearray) -> int:
    """The offset of the footer: it ends before four bytes with its length and the closing `PAR1`."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def _fill(data: bytearray, start: int, name: bytes, old: bytes, new: bytes) -> None:
    """Replace a value in the footer's metadata by another of the same length."""
    place = data.index(old, data.index(name, start))
    data[place : place + len(old)] = new


def _hash(data: bytes | bytearray, start: int, end: int | None = None) -> bytes:
    return blake2b(memoryview(data)[start:end], digest_size=16).hexdigest().encode()
