"""Which files of kpi_reports may have rows of a task: an index in memory, so that a lookup opens one or two.

It keeps a hash of the task of each row by hour, 12 bytes. A query sees every file as it is when it asks: the
folder of an hour is listed again when its time of change says that files were added or replaced, and only
those are read. A file that the ledger names, of a sealed day, is a group of its own. Where nothing has
changed, a lookup takes a stat and a binary search for each hour and sealed day of its span, and no lock.
"""

import os
import threading
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.queries.query import QueryInput, Value
from pipelines.service.folder_listing import FolderListing, is_settled, read_change
from schemas.tables import REPORTS
from transforms.core.durable_files import FileVersion, read_version
from transforms.core.errors import Refused
from transforms.core.time_range import Span
from transforms.derived.task_sets import hash_tasks
from transforms.sinks.parquet.maintenance_ledger import Ledger
from transforms.sinks.parquet.output_files import DAY_NAME, HOUR_NAME, OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import open_parquet

_FILE_BITS, _NUMBER = np.uint64(32), np.uint64(0xFFFFFFFF)
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
Hashes = NDArray[np.uint32]


class CountedReports(NamedTuple):
    """How many reports are in the files of an hour, or of a sealed day, from `start` to before `end`."""

    start: datetime
    end: datetime
    reports: int


class _Known(NamedTuple):
    """What was read of a file: its version, the hashes of its tasks, how many rows it has."""

    version: FileVersion
    tasks: Hashes
    rows: int


class _Place(NamedTuple):
    """Where rows of a span are: the path of the folder of an hour, or of the file of a sealed day.

    The path of a file that is not on this machine is empty.
    """

    start: datetime
    length: timedelta
    path: str

    def overlaps(self, span: Span) -> bool:
        return (span.end is None or self.start < span.end) and (
            span.start is None or span.start - self.start < self.length
        )

    def read_version(self) -> Hashable:
        """What differs when files were added or replaced.

        Raises:
            FileNotFoundError: it is the file of a sealed day, and is missing.
        """
        return read_change(self.path) if self.length == _HOUR else read_version(os.stat(self.path))


class _Group(NamedTuple):
    """The files of a place at a version of it.

    `known`: by name of a file. `keys`: uint64[n] in order, a hash and the number of the file for each row.
    `rows`: how many rows the files have.
    """

    version: Hashable = None
    files: tuple[OutputFile, ...] = ()
    known: Mapping[str, _Known] = {}
    keys: NDArray[np.uint64] = np.zeros(0, np.uint64)
    rows: int = 0

    def find(self, bounds: NDArray[np.uint64]) -> list[OutputFile]:
        """The files with keys between two bounds."""
        first, last = self.keys.searchsorted(bounds).tolist()
        if first == last:
            return []
        numbers = np.unique(self.keys[first:last] & _NUMBER)
        return [self.files[number] for number in numbers.tolist()]

    def update(self, files: list[OutputFile], version: Hashable) -> "_Group":
        """The group with these files; those that are new or have changed are read."""
        known: dict[str, _Known] = {}
        kept: list[OutputFile] = []
        for file in files:
            assert file.path is not None
            found = _read(file.path, self.known.get(file.name))
            if found is not None:
                known[file.name] = found
                kept.append(file)
        if tuple(kept) == self.files and all(self.known[name] is each for name, each in known.items()):
            return self._replace(version=version)
        parts = [
            (known[file.name].tasks.astype(np.uint64) << _FILE_BITS) | np.uint64(number)
            for number, file in enumerate(kept)
        ]
        keys = np.sort(np.concatenate([np.zeros(0, np.uint64), *parts]))
        return _Group(version, tuple(kept), known, keys, sum(each.rows for each in known.values()))


class TaskIndex:
    """The index of an output. Thread-safe: what a thread reads is replaced, never changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = f"{folder}/{REPORTS.name}"
        self._groups: dict[str, _Group] = {}
        self._days = FolderListing(self._folder, _parse_days)
        self._hours: dict[date, FolderListing[_Place]] = {}
        self._sealed: tuple[Ledger, dict[date, _Place]] = (Ledger(), {})
        self._lock = threading.Lock()

    def find(
        self, files: OutputFiles, source: QueryInput, parameters: Mapping[str, Value | None], span: Span
    ) -> list[OutputFile] | None:
        """The files that may have rows of a task in a span, oldest first; None if that is not asked or not
        known."""
        task = parameters.get("task_id")
        if source.table != REPORTS or not isinstance(task, str):
            return None
        if not _is_here(files):
            return None
        first = np.uint64(hash_tasks(pa.array([task]))[0]) << _FILE_BITS
        bounds = np.array([first, first | _NUMBER])
        found: list[OutputFile] = []
        for place in self._list_places(files, span):
            group = self._get(files, place)
            if group is None:
                return None
            found += group.find(bounds)
        return found

    def count(self, files: OutputFiles, span: Span) -> list[CountedReports] | None:
        """How many reports there are in each hour and sealed day of a span, oldest first; None if that is not
        known."""
        if not _is_here(files):
            return None
        found: list[CountedReports] = []
        for place in self._list_places(files, span):
            group = self._get(files, place)
            if group is None:
                return None
            found.append(CountedReports(place.start, place.start + place.length, group.rows))
        return found

    def read(self, files: OutputFiles, is_ending: Callable[[], bool] = lambda: False) -> None:
        """Read all files, so that later only those that change are read; no more once `is_ending`."""
        for place in self._list_places(files, Span()):
            if is_ending():
                return
            self._get(files, place)

    def _list_places(self, files: OutputFiles, span: Span) -> list[_Place]:
        """The hours of the span that have a folder, and its sealed days."""
        sealed = self._list_sealed(files)
        found: list[_Place] = []
        for day in sorted({*self._days.read(), *sealed}):
            if files.ledger.is_expired(REPORTS.name, day):
                continue
            if day in sealed:
                places = [sealed[day]]
            elif _Place(_begin(day), _DAY, "").overlaps(span):
                places = self._list_hours(day)
            else:
                continue
            found += [place for place in places if place.overlaps(span)]
        return found

    def _list_hours(self, day: date) -> list[_Place]:
        """The hours of a day that have a folder."""
        listing = self._hours.get(day)
        if listing is None:
            folder = f"{self._folder}/date={day}"

            def parse(names: list[str]) -> list[_Place]:
                return [
                    _Place(_begin(day) + int(name[5:]) * _HOUR, _HOUR, f"{folder}/{name}")
                    for name in filter(HOUR_NAME.fullmatch, names)
                ]

            listing = self._hours.setdefault(day, FolderListing(folder, parse))
        return listing.read()

    def _list_sealed(self, files: OutputFiles) -> dict[date, _Place]:
        """The days that have one file, made again when the ledger has changed."""
        ledger, found = self._sealed
        if ledger is not files.ledger:
            found = {}
            for day in files.ledger.days.get(REPORTS.name, {}):
                for file in files.list_hour(REPORTS.name, _begin(day)):
                    found[day] = _Place(_begin(day), _DAY, str(file.path or ""))
            self._forget(files.ledger, found)
            self._sealed = files.ledger, found
        return found

    def _forget(self, ledger: Ledger, sealed: Mapping[date, _Place]) -> None:
        """Drop what was read of days that have expired, and of the hours of days that have one file."""
        places = {place.path for place in sealed.values()}

        def has_hours(day: date) -> bool:
            return day not in sealed and not ledger.is_expired(REPORTS.name, day)

        for day in list(self._hours):
            if not has_hours(day):
                self._hours.pop(day, None)
        for path in list(self._groups):
            if path not in places and not has_hours(_parse_day(path)):
                self._groups.pop(path, None)

    def _get(self, files: OutputFiles, place: _Place) -> _Group | None:
        """The group of a place, as it is now; None if a file is not on this machine, missing or damaged: the
        query reads every file then, and says which one it is."""
        if not place.path:
            return None
        group = self._groups.get(place.path)
        try:
            if group is None or group.version != place.read_version():
                with self._lock:
                    group = self._refresh(files, place)
        except (OSError, ValueError, pa.ArrowException, Refused):
            return None
        return group

    def _refresh(self, files: OutputFiles, place: _Place) -> _Group:
        """Read what has changed in a place."""
        version = place.read_version()
        known = self._groups.get(place.path, _Group())
        if known.version == version:  # another thread was here
            return known
        listed = files.list_hour(REPORTS.name, place.start)
        is_kept = not isinstance(version, int) or is_settled(version)
        group = known.update(listed, version if is_kept else None)
        self._groups[place.path] = group
        return group


def _is_here(files: OutputFiles) -> bool:
    """Whether the folders of hours are all on this machine."""
    return all(place.sealed for place in files.ledger.days.get(REPORTS.name, {}).values())


def _parse_days(names: list[str]) -> list[date]:
    return [date.fromisoformat(name[5:]) for name in filter(DAY_NAME.fullmatch, names)]


def _parse_day(path: str) -> date:
    """The day of the path of a place."""
    return date.fromisoformat(path.rpartition("/date=")[2][:10])


def _begin(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _read(path: Path, known: _Known | None) -> _Known | None:
    """What is in a file now; None if it is gone."""
    try:
        if known is not None and known.version == read_version(os.stat(path)):
            return known
        with path.open("rb") as file:
            version = read_version(os.fstat(file.fileno()))
            rows = open_parquet(file).read(columns=["task_id"], use_threads=False)
    except FileNotFoundError:
        return None
    return _Known(version, np.unique(hash_tasks(rows["task_id"].combine_chunks())), rows.num_rows)
