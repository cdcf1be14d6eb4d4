"""Parquet files that are replaced whole, locked by their folder, and sealed: a change of any byte is noticed by `verify`.

The footer's key-value metadata holds `kpiflow.rows`, the number of rows; `kpiflow.digest`, the BLAKE2b-128 of every byte before
the footer; and `kpiflow.footer`, the BLAKE2b-128 of the footer itself with this value as zeros. Digests are 32 hex digits.
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.tables import METRICS
from transforms.batches import concat, empty

ROWS, DIGEST, FOOTER = b"kpiflow.rows", b"kpiflow.digest", b"kpiflow.footer"
TEMPORARY = ".kpiflow"
"""How the names of unfinished files end; they start with a dot. Readers look for `*.parquet` and never see them."""
ROW_GROUP = 1 << 17
"""Rows of a row group: a reader that wants one agent skips the others of a large file."""

REPEATING = ["granularity", "agent_id", "source", "source_layer", "target_agent_type", "execution_context.hostname",
             "execution_context.gpu_info", "reason", "field", "rule", "resolution",
             *(f"{metric}_baseline_state" for metric in METRICS)]  # fmt: skip
"""Leaf columns written with a dictionary: elsewhere it made files of 100k reports 15 % larger and 60 % slower to write."""
SEARCHED = ["agent_id", "recorded_at", "time_window_start", "received_at", "report_id", "task_id", "source", "message_id"]
"""Columns with statistics."""

_BLANK = b"0" * 32
_UNREADABLE = (OSError, pa.ArrowException, ValueError)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class OutputFull(Exception):  # noqa: N818 (an end, not only an error)
    """No space is left where the output lies; the files are as they were."""


class DamagedFile(Exception):  # noqa: N818
    """A file of the output is not as it was written."""


def encode(rows: pa.RecordBatch) -> bytearray:
    """The rows as a sealed Parquet file (zstd, level 1)."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, rows.schema, compression="zstd", compression_level=1, use_dictionary=REPEATING, write_statistics=SEARCHED
    ) as writer:
        writer.write_table(pa.Table.from_batches([rows]), row_group_size=ROW_GROUP)
        writer.add_key_value_metadata({ROWS: str(rows.num_rows), DIGEST: _BLANK, FOOTER: _BLANK})
    data = bytearray(sink.getvalue())
    start = _footer_start(data)
    _fill(data, start, DIGEST, _BLANK, _hash(data, 0, start))
    _fill(data, start, FOOTER, _BLANK, _hash(data, start))
    return data


def verify(path: Path) -> str | None:
    """What is wrong with a file of the output, in words; None when it is exactly as it was written."""
    try:
        data = bytearray(path.read_bytes())
        metadata = pq.read_metadata(pa.BufferReader(data))
    except _UNREADABLE as error:
        return _unreadable(error)
    named = metadata.metadata or {}
    if not {ROWS, DIGEST, FOOTER} <= set(named):
        return "has no digest: it was written by another program"
    start = _footer_start(data)
    if _hash(data, 0, start) != named[DIGEST]:
        return "does not match its digest: its rows were changed after it was written"
    _fill(data, start, FOOTER, named[FOOTER], _BLANK)
    if _hash(data, start) != named[FOOTER] or named[ROWS] != str(metadata.num_rows).encode():
        return "does not match the digest of its footer: it was changed after it was written"
    return None


def read(path: Path, columns: Sequence[str] | None = None) -> pa.RecordBatch:
    """The rows of a file, in all columns it has or in those of `columns` that it has.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is no readable Parquet file.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow.remove_metadata()
            if columns is not None:
                schema = pa.schema([field for field in schema if field.name in columns])
            batches = file.read(schema.names).replace_schema_metadata().combine_chunks().to_batches()
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise damaged(path, _unreadable(error)) from error
    return concat(batches) if batches else empty(schema)


def damaged(path: Path, problem: str) -> DamagedFile:
    """The error of a file with a problem, with its mend."""
    return DamagedFile(f"{path} {problem}; move it away, then run `kpiflow backfill --replace` over the messages of its hour")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for one writer at a time; what a killed writer left behind is removed.

    The lock is on the folder's own descriptor (flock): it ends with the process and leaves no file.
    """
    with _told_when_full(folder):
        _make(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for stale in folder.glob(f".*{TEMPORARY}"):
            stale.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def replace(path: Path, data: bytes | bytearray) -> None:
    """Make `path` hold `data`: after a crash at any point it holds all of the old or all of the new bytes. Hold the folder's lock.

    Raises:
        OutputFull: the disk, or a quota, is full.
    """
    with _told_when_full(path.parent):
        _make(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
        try:
            _write(temporary, data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def remove(path: Path) -> None:
    """Make `path` be gone, after a crash too. Hold the folder's lock."""
    path.unlink(missing_ok=True)
    _sync(path.parent)


def _unreadable(error: Exception) -> str:
    return f"cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _write(path: Path, data: bytes | bytearray) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make(folder: Path) -> None:
    """The folder and its parents, each name safe on disk before anything is put below it."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told_when_full(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OutputFull(
            f"no space left for {folder}: free some and run the same command again; what was written before is whole"
        ) from error


def _footer_start(data: bytearray) -> int:
    """Where the footer begins: before the four bytes of its length and the closing `PAR1`."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def _fill(data: bytearray, start: int, name: bytes, old: bytes, new: bytes) -> None:
    """Put another value, of the same length, into the footer's metadata."""
    place = data.index(old, data.index(name, start))
    data[place : place + len(old)] = new


def _hash(data: bytearray, start: int, end: int | None = None) -> bytes:
    return blake2b(memoryview(data)[start:end], digest_size=16).hexdigest().encode()
