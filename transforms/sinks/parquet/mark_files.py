"""The marks of an output: a file for each month in which some were made, `_marks/YYYY-MM.parquet`.

A mark is added by replacing the file of its month whole, under the lock of the folder. So after a crash the
file has the mark or does not have it, and several services may write to one output. The files are encrypted
where those of the output are. No job reads or changes them.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.marks import MARKS
from transforms.core.durable_files import lock_folder, replace_file
from transforms.core.record_batches import concat, conform, make_empty
from transforms.encryption.key_ring import find_writing_key
from transforms.sinks.parquet.output_files import OutputFile
from transforms.sinks.parquet.parquet_file import describe_damage, encode_file, read_file, verify_file
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage

FOLDER = "_marks"
_NAME = re.compile(r"\d{4}-\d\d\.parquet")
_MICROSECOND = timedelta(microseconds=1)
_KEY, _SAID = ("report_id", "column"), ("verdict", "note", "marked_by")


def list_mark_files(storage: Storage) -> list[OutputFile]:
    """The files of marks, oldest first."""
    names = sorted(filter(_NAME.fullmatch, storage.list_names(FOLDER)))
    return [OutputFile(f"{FOLDER}/{name}", storage) for name in names]


def add_mark(output: Path, mark: Mapping[str, Any], now: datetime) -> tuple[dict[str, Any], bool]:
    """Keep a mark, safe on disk. Returns it as it is kept, and whether it is new.

    It is not new if the newest mark of its value says the same, of the same subject: a request that is sent
    again, since its answer was lost, adds nothing. `mark`: the columns of MARKS but marked_at and replaces.
    marked_at is `now`, or later: after every other mark, also if the clock was set back.

    Raises:
        OutputFull: the disk is full.
        OSError: the folder cannot be written.
        DamagedFile: the file of the month is not as it was written.
        KeyRefused: the output is encrypted, and its key is not available.
    """
    storage = LocalFolder(output)
    with lock_folder(output / FOLDER):
        names = [file.name for file in list_mark_files(storage)]
        before = _find_newest([output / name for name in reversed(names)], mark)
        if before is not None and all(before[name] == mark[name] for name in _SAID):
            return before, False
        month = max([f"{FOLDER}/{now:%Y-%m}.parquet", *names[-1:]])
        rows = _read(output / month)
        newest = rows["marked_at"][-1].as_py() if rows.num_rows else now - _MICROSECOND
        kept = {
            **mark,
            "marked_at": max(now, newest + _MICROSECOND),
            "replaces": None if before is None else before["marked_at"],
        }
        added = pa.RecordBatch.from_pylist([kept], schema=MARKS.schema)
        replace_file(output / month, encode_file(concat([rows, added]), key=find_writing_key(storage)))
    return kept, True


def _find_newest(paths: Sequence[Path], mark: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest mark of the same value, in files of which the newest is the first."""
    for path in paths:
        rows = _read(path)
        same = [pc.equal(rows[name], mark[name]) for name in _KEY]
        if found := rows.filter(pc.and_(*same)).to_pylist():
            return found[-1]
    return None


def _read(path: Path) -> pa.RecordBatch:
    """The rows of a file, oldest first; none if there is no file."""
    if not path.exists():
        return make_empty(MARKS.schema)
    if problem := verify_file(path):
        raise describe_damage(path, problem, "put it back from a copy")
    return conform(read_file(path), MARKS.schema)
