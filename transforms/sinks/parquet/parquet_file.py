"""Parquet files with a digest, or encrypted: `verify_file` notices a change of any byte.

The footer's key-value metadata holds `kpiflow.rows`, the number of rows; `kpiflow.digest`, the BLAKE2b-128 of
every byte before the footer; and `kpiflow.footer`, the BLAKE2b-128 of the footer itself with zeros in place
of this value. Digests are 32 hex digits. An encrypted file has no digests: the tags of AES-GCM take their
place (`transforms.encryption.file_key`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from mmap import ACCESS_READ, mmap
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from schemas.tables import METRICS
from transforms.core.errors import DamagedFile
from transforms.core.key_wrapping import MonthKey
from transforms.core.record_batches import concat, make_empty, narrow_type, split_by_bytes, split_by_rows
from transforms.core.time_range import Span, keep_within
from transforms.encryption.file_key import MAGIC, Source, make_decryption, make_encryption
from transforms.sinks.parquet.row_groups import list_row_groups

ROWS, DIGEST, FOOTER = b"kpiflow.rows", b"kpiflow.digest", b"kpiflow.footer"
ROW_GROUP = 1 << 17
"""Rows of a row group: a reader that wants one agent skips the others of a large file."""

DICTIONARY_COLUMNS = ["granularity", "agent_id", "source", "source_layer", "target_agent_type",
                      "execution_context.hostname", "execution_context.gpu_info", "reason", "field", "rule",
                      "resolution", "dismissed_because", "kind", "encoding", "agent_type", "state", "status",
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
BLANK_DIGESTS = {DIGEST: _BLANK, FOOTER: _BLANK}
_FIRST_BYTES = "was changed after it was written: its first bytes are others"
_UNREADABLE = (OSError, pa.ArrowException, ValueError)


def encode_file(
    rows: pa.RecordBatch, metadata: Mapping[bytes, bytes] | None = None, key: MonthKey | None = None
) -> bytearray:
    """The rows as a Parquet file with a digest (zstd, level 1), in types with 32-bit offsets.

    A row group has at most ROW_GROUP rows and PIECE_BYTES, so every reader can hold it, and a page, in plain
    arrays. `metadata` is added to the footer. With a `key` the file is encrypted.
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
        encryption_properties=make_encryption(key) if key else None,
    ) as writer:
        for part in split_by_rows(rows, ROW_GROUP):
            for piece in split_by_bytes(part, schema):
                writer.write_table(pa.Table.from_batches([piece]), row_group_size=ROW_GROUP)
        digests = {} if key else BLANK_DIGESTS
        writer.add_key_value_metadata({**(metadata or {}), ROWS: str(rows.num_rows), **digests})
    data = bytearray(sink.getvalue())
    if key:
        return data
    fill_digests(data)
    return data


def fill_digests(data: bytearray | mmap) -> None:
    """Put the digests into a file that was written with BLANK_DIGESTS in its metadata."""
    start = _find_footer(data)
    _fill(data, start, DIGEST, _BLANK, _hash(data, 0, start))
    _fill(data, start, FOOTER, _BLANK, _hash(data, start))


def verify_file(file: Path | bytes, must_be_encrypted: bool = False) -> str | None:
    """What is wrong with a file of an output, in words; None if it is exactly as it was written.

    `must_be_encrypted`: as all files of its output are.

    Raises:
        KeyRefused: it is encrypted, and its key is not available.
    """
    try:
        data = map_file(file) if isinstance(file, Path) else file
        if data[-4:] == MAGIC:
            return _verify_encrypted(data, file)
        if must_be_encrypted and len(data):
            return "is not encrypted, as the files of this output are: kpiflow did not write it there"
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


def _verify_encrypted(data: bytes | mmap, file: Path | bytes) -> str | None:
    """As `verify_file`: reads all that is in the file, since reading checks every tag."""
    if data[:4] != MAGIC:
        return _FIRST_BYTES
    with open_parquet(file) as parquet:
        values, rows = parquet.metadata.metadata or {}, 0
        for number in range(parquet.num_row_groups):
            rows += parquet.read_row_group(number).num_rows
    return None if values.get(ROWS) == str(rows).encode() else "does not have as many rows as it says"


def open_parquet(file: Source) -> pq.ParquetFile:
    """A file for reading, whether it is encrypted or not.

    Raises:
        KeyRefused: it is encrypted, and its key is not available.
        OSError, ValueError, pa.ArrowException: it is not there, or not readable.
    """
    source = pa.BufferReader(file) if isinstance(file, bytes | bytearray) else file
    try:
        return pq.ParquetFile(source)
    except FileNotFoundError:
        raise
    except OSError:
        # Only now, so that a plain file costs nothing more. The file is opened once: others may replace it.
        if isinstance(file, Path):
            source = pa.OSFile(str(file))
        decryption = make_decryption(file if isinstance(file, bytes | bytearray) else source, file)
        if decryption is None:
            raise
        return pq.ParquetFile(source, decryption_properties=decryption)


def is_encrypted(file: Path | bytes) -> bool:
    """Whether a file is encrypted, by its first bytes."""
    if isinstance(file, bytes):
        return file[: len(MAGIC)] == MAGIC
    with file.open("rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC


def open_dataset(files: Sequence[Path | bytes], schema: pa.Schema) -> ds.Dataset:
    """The rows of files of one output in the columns of a schema; a column that a file lacks is null.

    For DuckDB too, which cannot read encrypted files itself. Rows are read when they are asked for; the files
    must stay as they are until then.

    Raises:
        KeyRefused: the key of a file is not available.
        DamagedFile: the key of a file does not open, or is unknown.
    """
    plain, encrypted = ds.ParquetFileFormat(), is_encrypted(files[0])
    fragments = [_make_fragment(file, _choose_format(file) if encrypted else plain) for file in files]
    return ds.FileSystemDataset(fragments, schema, plain)


def _make_fragment(file: Path | bytes, form: ds.ParquetFileFormat) -> ds.Fragment:
    if isinstance(file, Path):
        return form.make_fragment(str(file), filesystem=LocalFileSystem())
    return form.make_fragment(pa.BufferReader(file))


def _choose_format(file: Path | bytes) -> ds.ParquetFileFormat:
    try:
        decryption = make_decryption(file, file)
    except _UNREADABLE as error:
        where = file if isinstance(file, Path) else "a file"
        raise describe_damage(where, _explain_unreadable(error)) from error
    options = ds.ParquetFragmentScanOptions(decryption_properties=decryption) if decryption else None
    return ds.ParquetFileFormat(default_fragment_scan_options=options)


def read_file(
    file: Path | bytes, columns: Sequence[str] | None = None, name: str = "", fix: str = REPLACE
) -> pa.RecordBatch:
    """The rows of a file, in all its columns or in those of `columns` that it has.

    Columns of more than 2 GiB are wide (`transforms.core.record_batches`). `name`: how to call bytes in an
    error.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is not a readable Parquet file.
        KeyRefused: it is encrypted, and its key is not available.
    """
    try:
        with open_parquet(file) as parquet:
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


def read_whole(data: bytes, name: str) -> pa.RecordBatch:
    """The rows of a file that is exactly as it was written. `name`: how to call it in an error.

    Raises:
        DamagedFile: it is not.
        KeyRefused: it is encrypted, and its key is not available.
    """
    # To read an encrypted file is to verify it: once is enough.
    if data[-4:] != MAGIC and (problem := verify_file(data)):
        raise describe_damage(name, problem)
    if data[-4:] == MAGIC != data[:4]:
        raise describe_damage(name, _FIRST_BYTES)
    return read_file(data, name=name)


def read_span(data: bytes, column: str, span: Span, name: str = "") -> Iterator[pa.RecordBatch]:
    """The rows of a file whose time is within the span, in all columns, by row group. Row groups that cannot
    have any, by their statistics, are not read.

    Raises: as `read_file`.
    """
    try:
        with open_parquet(data) as parquet:
            for number, within in enumerate(list_row_groups(parquet, column)):
                if not within.overlaps(span):
                    continue
                times = parquet.read_row_group(number, [column]).column(0).combine_chunks()
                if span.contains(times).any():
                    group = parquet.read_row_group(number).replace_schema_metadata().combine_chunks()
                    for batch in group.to_batches():
                        yield from keep_within(batch, span, column)
    except _UNREADABLE as error:
        raise describe_damage(name, _explain_unreadable(error)) from error


def describe_damage(file: Path | str, problem: str, fix: str = REPLACE) -> DamagedFile:
    """The error to raise for a file with a problem, as `verify_file` says it; with the fix."""
    return DamagedFile(f"{file} {problem}; {fix}")


def read_footer(data: bytes | mmap) -> bytes:
    """The footer of a file. It has the digest of all the rest: files of the same footer are equal."""
    return bytes(data[_find_footer(data) :])


def map_file(path: Path) -> bytes | mmap:
    """The bytes of a file; those of a large one need not be in memory."""
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ) if os.fstat(file.fileno()).st_size else b""


def _explain_unreadable(error: Exception) -> str:
    return f"cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _find_footer(data: bytes | bytearray | mmap) -> int:
    """The offset of the footer: it ends before four bytes with its length and the closing `PAR1`."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def _fill(data: bytearray | mmap, start: int, name: bytes, old: bytes, new: bytes) -> None:
    """Replace a value in the footer's metadata by another of the same length."""
    place = data.find(old, data.find(name, start))
    data[place : place + len(old)] = new


def _hash(data: bytes | bytearray | mmap, start: int, end: int | None = None) -> bytes:
    return blake2b(memoryview(data)[start:end], digest_size=16).hexdigest().encode()
