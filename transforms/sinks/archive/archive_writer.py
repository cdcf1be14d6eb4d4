"""The archive of a stream: every entry as an envelope (`transforms.envelopes.envelope_lines`), in a file for each hour of its arrival.

    FOLDER/<source>/2025-10-22T12.ndjson            entries with data
    FOLDER/<source>/2025-10-22T12.refused.ndjson    entries without: `fields` in place of data
    FOLDER/<source>/2025-10-22T12.late.ndjson       entries whose ids were older than some that had been archived

A backfill of the folder gives the rows that the stream gave. Files only grow, in the order of the entries' ids. An entry that does
not come after the last of its kind is looked up in the files of its hour: what a restart reads again is archived once, and what a
stream got after it went back (a failover, a stream made again) is archived beside them, as `late`. Older files may be compressed or
moved away; the newest tells where the archive ends, and what a restart reads again of the others is archived again, as `late`.

Lines are in the files at once, and safe if the process dies. `ArchiveSync` makes them safe against a power cut: the source calls it
before it commits, so what the group's offset covers is always on disk. `may_lack` says whether what came after that may be lost.
"""

import errno
import mmap
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.partitioning import escape_name
from transforms.core.durable_files import lock_folder, replace_file
from transforms.core.errors import DamagedFile, OutputFull
from transforms.core.stage_counters import time_stage
from transforms.envelopes.envelope_lines import envelope_line
from transforms.redis.entry_ids import EntryId
from transforms.sinks.archive.contents import all_ids, archived_id, entry_id, ids_in_order

MESSAGES, REFUSED = ".ndjson", ".refused.ndjson"
"""How the names of the two kinds of files go on after the hour."""
UNKNOWN = "unknown"
"""The hour of entries whose id is no time that a calendar has."""

BOOT = "_boot"
"""The file of a source that tells since which start of the machine its archive is known to be whole."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LATE = ".late"
_HOUR = rf"(?:\d{{4}}-\d\d-\d\dT\d\d|{UNKNOWN})"
_TAIL = 1 << 16
_UNSYNCED = 1 << 28
"""So many bytes at the end of a file may not be on disk yet."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class _End:
    """Where a series of files ended when this process looked last: the newest file, its size, and its last entry."""

    path: Path | None = None
    size: int = 0
    last: EntryId = (-1, -1)


@dataclass
class _Late:
    """A file of late lines as this process knows it: its size, and the ids in it."""

    path: Path
    size: int
    ids: set[EntryId]


class ArchiveWriter:
    """Appends entries to an archive. Several may write into one folder: they take turns for each source."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends: dict[tuple[str, str], _End] = {}
        self._lates: dict[tuple[Path, str], _Late] = {}

    def append(self, rows: pa.RecordBatch, kind: str = MESSAGES) -> int:
        """Archive the rows that are new, and say how many those are.

        `rows` has the columns source, message_id, received_at and payload: the report of each (RAW) or, where `kind` is REFUSED,
        the line that archives it. The rows of one source are in the order of their ids. The lines are in the files, and safe
        there if this process dies; `ArchiveSync` makes them safe on disk.

        Raises:
            ValueError: a message_id is no entry's id, or the ids are not in order.
            transforms.sinks.parquet.sealed_files.OutputFull: the disk is full; a part of the rows is archived, and a second attempt goes on there.
            transforms.sinks.parquet.sealed_files.DamagedFile: the newest file does not end in an envelope.
        """
        sources = rows["source"].dictionary_encode()
        names = sources.dictionary.to_pylist()
        if len(names) == 1:
            return self._append(names[0], rows, kind)
        codes = sources.indices.to_numpy()
        return sum(
            self._append(name, rows.filter(pa.array(codes == code)), kind) for code, name in enumerate(names)
        )

    def last(self, source: str, kind: str = MESSAGES) -> str | None:
        """The id of the last entry that is archived of a source."""
        with lock_folder(self._folder / escape_name(source)):
            millis, number = self._end(source, kind).last
        return None if millis < 0 else f"{millis}-{number}"

    def _append(self, source: str, rows: pa.RecordBatch, kind: str) -> int:
        folder = self._folder / escape_name(source)
        ids = [entry_id(text) for text in rows["message_id"].to_pylist()]
        if any(after <= before for before, after in zip(ids, ids[1:])):
            raise ValueError(
                f"entries of {source} are not in the order of their ids: an archive takes one reader for each stream"
            )
        with lock_folder(folder):
            end = self._end(source, kind)
            known = int(np.sum([each <= end.last for each in ids]))
            late = self._append_late(folder, rows.slice(0, known), ids[:known], kind)
            rows, ids = rows.slice(known), ids[known:]
            first = 0
            for name, of_hour in groupby(_hours(rows)):
                stop = first + sum(1 for _ in of_hour)
                self._put(end, folder / f"{name}{kind}", _lines(rows.slice(first, stop - first), kind))
                end.last = ids[stop - 1]
                first = stop
        return late + len(ids)

    def _append_late(self, folder: Path, rows: pa.RecordBatch, ids: list[EntryId], kind: str) -> int:
        """Archive those of the rows that the files of their hours do not have, and say how many those are."""
        added = first = 0
        for name, of_hour in groupby(_hours(rows)):
            stop = first + sum(1 for _ in of_hour)
            late = self._late(folder, f"{name}{_LATE}{kind}", kind)
            held = ids_in_order(folder / f"{name}{kind}", ids[first], ids[stop - 1])
            missing = [
                number
                for number in range(first, stop)
                if ids[number] not in held and ids[number] not in late.ids
            ]
            first = stop
            if missing:
                data = _lines(rows.take(pa.array(missing)), kind)
                try:
                    _write(late.path, late.size, data)
                except OSError as error:
                    raise _explained(error, self._folder) from error
                late.size += len(data)
                late.ids.update(ids[number] for number in missing)
                added += len(missing)
        return added

    def _late(self, folder: Path, name: str, kind: str) -> _Late:
        """A file of late lines, read only where it is not as this process left it. Hold the folder's lock."""
        path = folder / name
        size = path.stat().st_size if path.exists() else 0
        known = self._lates.get((folder, kind))
        if known is None or (known.path, known.size) != (path, size):
            size = _whole_lines(path) if size else 0
            known = self._lates[folder, kind] = _Late(path, size, all_ids(path))
        return known

    def _put(self, end: _End, path: Path, data: bytes) -> None:
        """Append whole lines to a file, or leave it as it was. A file is begun when the one before it is safe on disk."""
        before, end.path = end.path, None  # until the lines are written, nothing is known
        size = end.size if path == before else 0
        try:
            if before not in (None, path):
                _sync(before)
                _sync(before.parent)
            _write(path, size, data)
        except OSError as error:
            raise _explained(error, self._folder) from error
        end.path, end.size = path, size + len(data)

    def _end(self, source: str, kind: str) -> _End:
        """Where the files end now; a line that was torn when its writer died is cut off. Hold the folder's lock."""
        end = self._ends.setdefault((source, kind), _End())
        paths = _files(self._folder / escape_name(source), kind)
        if not paths or (paths[-1] == end.path and paths[-1].stat().st_size == end.size):
            if not paths:
                end.path, end.size, end.last = None, 0, (-1, -1)
            return end
        end.path, end.size, end.last = paths[-1], _whole_lines(paths[-1]), (-1, -1)
        for path in reversed(paths):
            if (last := _last_line(path)) is not None:
                end.last = _archived_id(path, last)
                break
        return end


class ArchiveSync:
    """Syncs an archive to disk; what it has synced before and has not grown since is left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._synced: dict[Path, int] = {}

    def __call__(self, sources: Iterable[str]) -> None:
        """Make all that is archived of the sources safe on disk, whichever process wrote it.

        Raises:
            OSError: it cannot be synced.
        """
        for source in sources:
            self._sync(self._folder / escape_name(source))

    def _sync(self, folder: Path) -> None:
        sizes = _sizes(folder)
        grown = {path: size for path, size in sizes.items() if self._synced.get(path) != size}
        for path in grown:
            _sync(path)
        if grown.keys() - self._synced.keys():
            _sync(folder)
            _sync(self._folder)
        self._synced.update(grown)


def keep_boot(folder: Path, sources: Iterable[str]) -> None:
    """Note that the machine has run since what is in the archive of the sources was read, or read again. A reader that knows its
    archive to be whole calls it when it commits.

    Raises:
        OSError: it cannot be written.
        transforms.sinks.parquet.sealed_files.OutputFull: the disk is full.
    """
    boot = _boot_id()
    for source in sources:
        path = folder / escape_name(source) / BOOT
        with lock_folder(path.parent):
            if _read_boot(path) != boot:
                replace_file(path, boot)


def may_lack(folder: Path, source: str, message_id: str) -> bool:
    """Whether lines of entries of a source up to an id may not be in the archive, though they were appended.

    That is so if the machine was started, or is another one, since a reader called `keep_boot`: then the end of any file may be
    lost. It is so too if the archive ends before the id, or has no file that could tell.
    """
    boot = _boot_id()
    if not boot or _read_boot(folder / escape_name(source) / BOOT) != boot:
        return True
    writer = ArchiveWriter(folder)
    ends = [entry_id(last) for kind in (MESSAGES, REFUSED) if (last := writer.last(source, kind))]
    return not ends or max(ends) < entry_id(message_id)


def _boot_id() -> bytes:
    """What tells this start of this machine from any other; empty where the system does not say."""
    return _read_boot(_BOOT_ID)


def _read_boot(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        return b""


def _sizes(folder: Path) -> dict[Path, int]:
    """The files of a source and their sizes; none where there is no folder."""
    if not folder.is_dir():
        return {}
    pattern = re.compile(f"{_HOUR}(?:{re.escape(_LATE)})?(?:{re.escape(MESSAGES)}|{re.escape(REFUSED)})")
    with os.scandir(folder) as found:
        return {Path(entry.path): entry.stat().st_size for entry in found if pattern.fullmatch(entry.name)}


def _files(folder: Path, kind: str) -> list[Path]:
    pattern = re.compile(_HOUR + re.escape(kind))
    return [folder / name for name in sorted(os.listdir(folder)) if pattern.fullmatch(name)]


def _hours(rows: pa.RecordBatch) -> Iterable[str]:
    return pc.strftime(rows["received_at"], "%Y-%m-%dT%H").fill_null(UNKNOWN).to_pylist()


def _lines(rows: pa.RecordBatch, kind: str) -> bytes:
    """The lines of the rows, each with its newline. orjson, row by row, escapes three times as fast as Arrow does."""
    if kind == REFUSED:
        lines = rows["payload"].to_pylist()
    else:
        times = pc.strftime(rows["received_at"], "%Y-%m-%dT%H:%M:%SZ").to_pylist()
        payloads = pc.binary_slice(rows["payload"], 0, -1).to_pylist()
        lines = list(
            map(envelope_line, rows["source"].to_pylist(), rows["message_id"].to_pylist(), times, payloads)
        )
    return b"\n".join([*lines, b""])


def _whole_lines(path: Path) -> int:
    """Cut the file after its last whole line; the bytes that are left.

    A killed writer can leave a torn line, a power cut also zeros in place of lines: what follows them is not committed either.
    """
    with path.open("r+b") as file:
        size = end = _before_zeros(file)
        while end:
            start = max(0, end - _TAIL)
            file.seek(start)
            if newline := file.read(end - start).rfind(b"\n") + 1:
                end = start + newline
                break
            end = start
        if end < max(size, file.seek(0, os.SEEK_END)):
            file.truncate(end)
    return end


def _before_zeros(file: BinaryIO) -> int:
    """Where the first zero byte is among the newest bytes of a file; its size if there is none."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        found = octets.find(b"\0", max(0, size - _UNSYNCED))
    return size if found < 0 else found


def _last_line(path: Path) -> bytes | None:
    """The last line of a file of whole lines, None if it has none."""
    with path.open("rb") as file:
        start = size = file.seek(0, os.SEEK_END)
        tail = b""
        while start and tail.count(b"\n") < 2:
            start = max(0, start - _TAIL)
            file.seek(start)
            tail = file.read(size - start)
    return tail.splitlines()[-1] if tail else None


def _archived_id(path: Path, line: bytes) -> EntryId:
    if (found := archived_id(line)) is not None:
        return found
    raise DamagedFile(
        f"{path} does not end in an entry's envelope, so where the archive ends is unknown; move the file away"
    )


def _write(path: Path, size: int, data: bytes) -> None:
    """Write at the end of the file, at `size`; when that fails it has its old size again."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    except BaseException:
        os.ftruncate(descriptor, size)
        raise
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # compressed, or moved away
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError, folder: Path) -> Exception:
    if error.errno not in _FULL:
        return error
    return OutputFull(
        f"no space left for {folder}: free some and run the same command again; what was archived before is whole"
    )


class WriteArchive(beam.PTransform):
    """(messages (RAW), refused entries (QUARANTINE)) of Redis streams -> an archive in `folder`, one writer for each stream.

    Put it beside the source, before anything that regroups: the entries of a stream must come in the order of their ids. Tell the
    source of it (`ReadFromRedisStreams(archive=folder)`): it then commits nothing that is not synced.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def expand(
        self, read: tuple[beam.PCollection, beam.PCollection]
    ) -> tuple[beam.PCollection, beam.PCollection]:
        messages, refused = read
        written = messages | "Messages" >> beam.ParDo(_Append(self.folder, MESSAGES))
        return written, refused | "Refused" >> beam.ParDo(_Append(self.folder, REFUSED))


class _Append(beam.DoFn):
    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind

    def setup(self) -> None:
        self.writer = ArchiveWriter(self.folder)

    def process(self, rows: pa.RecordBatch) -> None:
        with time_stage("archive", rows.num_rows):
            self.writer.append(rows, self.kind)
