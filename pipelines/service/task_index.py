"""Which files of kpi_reports may have rows of a task: an index in memory, so that a lookup opens one or two.

It keeps a hash of the task of each row, 8 bytes, by hour. A query sees every file as it is when it asks: the
folder of an hour is listed again when its time of change says that files were added or replaced, and only
those are read. A file that the ledger names, of a sealed day, is a group of its own.
"""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.queries.query import Input, Value
from schemas.tables import REPORTS
from transforms.core.errors import Refused
from transforms.core.time_range import Span
from transforms.derived.task_sets import hash_tasks
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import open_parquet

_FILE_BITS = np.uint64(32)
_HOUR = timedelta(hours=1)
_SETTLED_NS = 100_000_000
"""A folder that was listed sooner after it changed may have changed again in the same tick of the clock."""
Version = tuple[int, int, int]
Hashes = NDArray[np.uint32]


@dataclass
class _Group:
    """Some files: `keys`, uint64[n] in order, has a task's hash and the number of the file for each row."""

    changed: int = -1
    files: list[OutputFile] = field(default_factory=list)
    known: dict[str, tuple[Version, Hashes]] = field(default_factory=dict)
    keys: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))

    def find(self, hashed: int) -> list[OutputFile]:
        """The files that may have rows of a task."""
        bounds = np.array([hashed, hashed + 1], np.uint64) << _FILE_BITS
        first, last = np.searchsorted(self.keys, bounds)
        numbers = np.unique(self.keys[first:last] & np.uint64(0xFFFFFFFF))
        return [self.files[number] for number in numbers.tolist()]

    def update(self, files: list[OutputFile]) -> None:
        """Read the files that are new or have changed."""
        known: dict[str, tuple[Version, Hashes]] = {}
        kept: list[OutputFile] = []
        for file in files:
            assert file.path is not None
            found = _read(file.path, self.known.get(file.name))
            if found is not None:
                known[file.name] = found
                kept.append(file)
        if kept != self.files or any(self.known.get(name) is not each for name, each in known.items()):
            parts = [
                (known[file.name][1].astype(np.uint64) << _FILE_BITS) | np.uint64(number)
                for number, file in enumerate(kept)
            ]
            self.keys = np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))
        self.known, self.files = known, kept


class TaskIndex:
    """The index of an output. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / REPORTS.name
        self._groups: dict[datetime | date, _Group] = {}
        self._names: dict[Path, tuple[int, list[str]]] = {}
        self._lock = threading.Lock()

    def find(
        self, files: OutputFiles, source: Input, parameters: Mapping[str, Value | None], span: Span
    ) -> list[OutputFile] | None:
        """The files that may have rows of a task in a span, oldest first; None if that is not asked or not
        known."""
        task = parameters.get("task_id")
        if source.table != REPORTS or not isinstance(task, str):
            return None
        hashed = int(hash_tasks(pa.array([task]))[0])
        found: list[OutputFile] = []
        placed = files.ledger.days.get(REPORTS.name, {})
        if not all(place.sealed for place in placed.values()):
            return None
        for hour in self._list_hours(set(placed), span):
            with self._lock:
                group = self._refresh(files, hour)
                if group is None:
                    return None
                found += group.find(hashed)
        return found

    def read(self, files: OutputFiles) -> None:
        """Read all files, so that later only those that change are read."""
        for hour in self._list_hours(set(files.ledger.days.get(REPORTS.name, {})), Span()):
            with self._lock:
                self._refresh(files, hour)

    def _list_hours(self, sealed: set[date], span: Span) -> list[datetime | date]:
        """The hours of the span that have a folder, and its sealed days."""
        names = {name for name in self._list(self._folder) if name.startswith("date=2")}
        days = {date.fromisoformat(name[5:]) for name in names} | sealed
        found: list[datetime | date] = []
        for day in sorted(days):
            midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
            if not _overlap(span, midnight, timedelta(days=1)):
                continue
            if day in sealed:
                found.append(day)
                continue
            hours = (midnight + int(name[5:]) * _HOUR for name in self._list(self._folder / f"date={day}"))
            found += [hour for hour in hours if _overlap(span, hour, _HOUR)]
        return found

    def _list(self, folder: Path) -> list[str]:
        """The names in a folder, read again when it has changed."""
        changed = _read_change(folder)
        known = self._names.get(folder)
        if known is None or known[0] != changed:
            names = sorted(name for name in os.listdir(folder) if "=" in name) if changed else []
            known = (changed, names)
            if time.time_ns() - changed > _SETTLED_NS:
                self._names[folder] = known
        return known[1]

    def _refresh(self, files: OutputFiles, hour: datetime | date) -> _Group | None:
        """The group of an hour or a day, as it is now; None if a file is not on this machine, or damaged."""
        group = self._groups.setdefault(hour, _Group())
        is_hour = isinstance(hour, datetime)
        changed = _read_change(self._folder / f"date={hour:%Y-%m-%d}/hour={hour:%H}") if is_hour else -1
        if changed != group.changed or not is_hour:
            listed = files.list_hour(REPORTS.name, _to_hour(hour))
            if any(file.path is None for file in listed):
                return None
            try:
                group.update(listed)
            except (OSError, ValueError, pa.ArrowException, Refused):
                return None  # the query reads every file then, and says which one is damaged
            group.changed = changed if time.time_ns() - changed > _SETTLED_NS else -1
        return group


def _to_hour(hour: datetime | date) -> datetime:
    return hour if isinstance(hour, datetime) else datetime(hour.year, hour.month, hour.day, tzinfo=UTC)


def _overlap(span: Span, start: datetime, length: timedelta) -> bool:
    return (span.end is None or start < span.end) and (span.start is None or start + length > span.start)


def _read_change(folder: Path) -> int:
    """When the names in a folder changed last, in ns; 0 if there is no folder."""
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return 0


def _read(path: Path, known: tuple[Version, Hashes] | None) -> tuple[Version, Hashes] | None:
    """The version of a file and the hashes of its tasks; None if it is gone."""
    try:
        stat = os.stat(path)
        version = stat.st_ino, stat.st_size, stat.st_mtime_ns
        if known is not None and known[0] == version:
            return known
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            rows = open_parquet(file).read(columns=["task_id"], use_threads=False)
    except FileNotFoundError:
        return None
    tasks = rows["task_id"].combine_chunks()
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns), np.unique(hash_tasks(tasks))
