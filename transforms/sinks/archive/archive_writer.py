"""Appending the entries of streams to an archive (`transforms.sinks.archive.archive_files` has its layout).

A backfill of the archive gives the rows that the stream gave. Files only grow, in the order of the entries'
ids. An entry whose id is not above the last one of its kind is looked up in the files of its hour: what a
restart reads again is archived once, and what a stream got after it went back (a failover, a stream made
again) goes to the `late` file. Older files may be compressed or moved away; the newest tells where the
archive ends, and what a restart reads again of the others is archived again, as `late`.

Appended lines are in the files at once and survive the death of the process.
`transforms.sinks.archive.stream_archive` makes them survive a power cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core.durable_files import explain_full, lock_folder, sync_path
from transforms.encryption.key_ring import KeySource
from transforms.redis.entry_ids import EntryId
from transforms.sinks.archive.archive_files import MESSAGES, SourceFiles, format_lines, split_by_hour
from transforms.sinks.archive.archived_ids import find_ids, parse_entry_ids, read_ids, read_last_id
from transforms.sinks.archive.encrypted_lines import EncryptedLines
from transforms.sinks.archive.line_files import LineFiles, PlainLines

_NO_ID: EntryId = (-1, -1)
EntryIds = NDArray[np.uint64]
"""uint64[n, 2]: ids as (milliseconds, sequence)."""


class ArchiveWriter:
    """Appends entries to an archive. Several writers may use one folder: they take turns for each source.

    `keys`: those of the archive, if it is encrypted.
    """

    def __init__(self, folder: Path, keys: KeySource | None = None) -> None:
        self._folder = folder
        self._lines: LineFiles = PlainLines() if keys is None else EncryptedLines(keys)
        self._series: dict[tuple[str, str], _Series] = {}

    def append(self, rows: pa.RecordBatch, kind: str = MESSAGES) -> int:
        """Archive those of the rows that are new; the number of these.

        `rows` has the columns source, message_id, received_at and payload: the data of each entry (RAW) or,
        where `kind` is REFUSED, the line that archives it. The rows of one source are in the order of their
        ids.

        Raises:
            ValueError: a message_id is not an entry's id, or the ids are not in order.
            OutputFull: the disk is full. A part of the rows is archived; a second attempt continues there.
            DamagedFile: the newest file does not end in an envelope.
        """
        sources = rows["source"].dictionary_encode()
        names = sources.dictionary.to_pylist()
        if len(names) == 1:
            return self._append_source(names[0], rows, kind)
        codes = sources.indices.to_numpy()
        return sum(
            self._append_source(name, rows.filter(pa.array(codes == code)), kind)
            for code, name in enumerate(names)
        )

    def find_last(self, source: str, kind: str = MESSAGES) -> str | None:
        """The id of the last archived entry of a source; None if there is none."""
        series = self._find_series(source, kind)
        with lock_folder(series.files.folder):
            series.refresh()
        millis, number = series.last
        return None if series.last == _NO_ID else f"{millis}-{number}"

    def _find_series(self, source: str, kind: str) -> "_Series":
        new = _Series(SourceFiles.of(self._folder, source, self._lines.ending), self._lines, kind)
        return self._series.setdefault((source, kind), new)

    def _append_source(self, source: str, rows: pa.RecordBatch, kind: str) -> int:
        ids = parse_entry_ids(rows["message_id"])
        if not _is_above(ids[1:], ids[:-1]).all():
            fix = "an archive takes one reader for each stream"
            raise ValueError(f"entries of {source} are not in the order of their ids: {fix}")
        series = self._find_series(source, kind)
        with lock_folder(series.files.folder), explain_full(self._folder):
            series.refresh()
            past = 0 if series.last == _NO_ID else int(np.sum(~_is_above(ids, _as_ids([series.last]))))
            late = series.append_late(rows.slice(0, past), _as_tuples(ids[:past])) if past else 0
            series.append_new(rows.slice(past), ids[past:])
        return late + len(ids) - past


@dataclass
class _LateFile:
    """A `late` file as this process knows it: its size, and the ids in it."""

    path: Path
    size: int
    ids: set[EntryId]


@dataclass
class _Series:
    """The files of one source and kind, and where they ended when this process looked last.

    `path`, `size` and `last` are the newest file, its size, and the id of the last entry. Hold the lock of
    the folder to call a method.
    """

    files: SourceFiles
    lines: LineFiles
    kind: str
    path: Path | None = None
    size: int = 0
    last: EntryId = _NO_ID
    late: _LateFile | None = field(default=None, repr=False)

    def refresh(self) -> None:
        """Find out where the files end now. A line that was torn when its writer died is cut off."""
        paths = self.files.list_files(self.kind)
        if not paths:
            self.path, self.size, self.last = None, 0, _NO_ID
            return
        if paths[-1] == self.path and paths[-1].stat().st_size == self.size:
            return
        self.path, self.size, self.last = paths[-1], self.lines.cut_torn_end(paths[-1]), _NO_ID
        for path in reversed(paths):
            if (last := read_last_id(self.lines, path)) is not None:
                self.last = last
                break

    def append_new(self, rows: pa.RecordBatch, ids: EntryIds) -> None:
        """Append rows whose ids are above `last`, hour by hour."""
        for hour, part in split_by_hour(rows):
            lines = format_lines(rows.slice(part.start, part.stop - part.start), self.kind)
            self._append_lines(self.files.name_file(hour, self.kind), lines)
            (self.last,) = _as_tuples(ids[part.stop - 1 : part.stop])

    def append_late(self, rows: pa.RecordBatch, ids: Sequence[EntryId]) -> int:
        """Append those of the rows that the files of their hours do not hold to the `late` files; the number
        of these."""
        added = 0
        for hour, part in split_by_hour(rows):
            late = self._read_late(self.files.name_file(hour, self.kind, late=True))
            path = self.files.name_file(hour, self.kind)
            archived = late.ids | find_ids(self.lines, path, ids[part.start], ids[part.stop - 1])
            missing = [number for number in range(part.start, part.stop) if ids[number] not in archived]
            if missing:
                data = format_lines(rows.take(pa.array(missing)), self.kind)
                late.size = self.lines.append(late.path, late.size, data)
                late.ids.update(ids[number] for number in missing)
                added += len(missing)
        return added

    def _read_late(self, path: Path) -> _LateFile:
        """A `late` file; it is read only if it is not as this process left it."""
        size = path.stat().st_size if path.exists() else 0
        if self.late is None or (self.late.path, self.late.size) != (path, size):
            size = self.lines.cut_torn_end(path) if size else 0
            self.late = _LateFile(path, size, read_ids(self.lines, path))
        return self.late

    def _append_lines(self, path: Path, data: memoryview) -> None:
        """Append whole lines, or leave the file as it was. A file is begun once the one before it is closed
        and safe on disk."""
        before, size = self.path, self.size if path == self.path else 0
        self.path = None  # if this fails, the next call looks again where the files end
        if before is not None and before != path:
            if before.exists():
                self.lines.close(before, self.size)
            sync_if_present(before)
            sync_if_present(before.parent)
        self.path, self.size = path, self.lines.append(path, size, data)


def _is_above(ids: EntryIds, others: EntryIds) -> NDArray[np.bool_]:
    """bool[n]: whether each id is above the other one."""
    millis, other = ids[:, 0], others[:, 0]
    return (millis > other) | ((millis == other) & (ids[:, 1] > others[:, 1]))


def _as_ids(ids: Sequence[EntryId]) -> EntryIds:
    return np.array(ids, np.uint64).reshape(-1, 2)


def _as_tuples(ids: EntryIds) -> list[EntryId]:
    return [(millis, number) for millis, number in ids.tolist()]


def sync_if_present(path: Path) -> None:
    """fsync a file; nothing if it is gone: compressed, or moved away."""
    try:
        sync_path(path)
    except FileNotFoundError:
        return
