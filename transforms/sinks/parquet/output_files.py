"""Which files the tables of an output have, and on which root each is: one answer for all that read or write.

The maintenance ledger says where the rows of each day are (`transforms.sinks.parquet.maintenance_ledger`): in
files of hours, or in one file of the day, on one of up to three roots. Everything else follows from names
(`schemas.partitioning`), so only the folders of the span that is asked for are listed.
"""

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from schemas.partitioning import UNTIMED_HOUR, format_day_folder, format_hour_folder
from schemas.tables import TABLES, Table
from transforms.core.time_range import Span
from transforms.sinks.parquet.maintenance_ledger import (
    DAY_FILE,
    HOT,
    DayPlace,
    Ledger,
    locate_day,
    read_ledger,
)
from transforms.sinks.parquet.parquet_file import DERIVE, REPLACE, describe_damage
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage, Stored

DAY_NAME, HOUR_NAME = re.compile(r"date=\d{4}-\d\d-\d\d"), re.compile(r"hour=\d\d")
"""The names of the folders of a day and of an hour."""
_FILE = re.compile(r"\d+\.parquet")
_IN_DAY = re.compile(r"(.*)/date=(\d{4}-\d\d-\d\d)/[^/]+/[^/]+$")
_EPOCH = datetime.fromtimestamp(0, UTC)
_MINUTE = timedelta(minutes=1)
_LONG_WINDOWS = ("window_size=1m", "window_size=1h")
"""Windows whose files have an hour, whatever `file_minutes` is."""


class OutputFile(NamedTuple):
    """A file of an output: its name, which is the same on every root, and its root."""

    name: str
    storage: Storage

    def __str__(self) -> str:
        return self.storage.locate(self.name)

    @property
    def is_day(self) -> bool:
        """Whether it has the rows of a sealed day."""
        return self.name.endswith(f"/{DAY_FILE}")

    def holds(self, name: str) -> bool:
        """Whether it has the rows of the file of hours of this name."""
        return name == self.name or (self.is_day and name.startswith(self.name.removesuffix(DAY_FILE)))

    @property
    def path(self) -> Path | None:
        """Its path; None if it is not on this machine."""
        return self.storage.path / self.name if isinstance(self.storage, LocalFolder) else None

    def open(self) -> Path | bytes:
        """What `transforms.sinks.parquet.parquet_file` reads: the path of a local file, else the bytes.

        Raises:
            FileNotFoundError: it is on object storage, and there is none now.
        """
        return self.path or self.read()

    def read(self) -> bytes:
        """The bytes of the file.

        Raises:
            FileNotFoundError: there is none now.
        """
        stored = self.get()
        if stored is None:
            raise FileNotFoundError(str(self))
        return stored.data

    def get(self) -> Stored | None:
        """The file; None if there is none."""
        return self.storage.get(self.name)


@dataclass(frozen=True)
class OutputFiles:
    """The files of an output as its ledger says: `hot` is its first root."""

    hot: Storage
    ledger: Ledger

    @classmethod
    def of(cls, hot: Storage | Path) -> Self:
        """The files of an output, by its first root; the ledger is read now.

        Raises:
            Refused: the ledger cannot be used.
        """
        storage = LocalFolder(hot) if isinstance(hot, Path) else hot
        return cls(storage, read_ledger(storage)[0])

    def list_table(self, table: Table, window: str = "") -> list[OutputFile]:
        """All files of a table, or of the folder `window` of one, in order of their names."""
        top = f"{table.name}/{window}" if window else table.name
        return sorted(self._iterate(top))

    def iterate(self, table: Table) -> Iterator[OutputFile]:
        """The same in any order, one by one."""
        return self._iterate(table.name)

    def list_hour(self, folder: str, hour: datetime) -> list[OutputFile]:
        """The files of a folder with rows of an hour (UTC), in order: of a sealed day its file."""
        place = self._find_place(folder, hour.date())
        if place is None:
            return []
        if place.sealed:
            return [OutputFile(locate_day(folder, hour.date()), self._find_root(place))]
        root = self._find_root(place)
        below = f"{folder}/{format_hour_folder(hour)}"
        return [OutputFile(name, root) for name in sorted(root.list_files(below)) if is_table_file(name)]

    def list_span(self, folder: str, span: Span, file_minutes: int) -> list[OutputFile]:
        """The files of a folder that may have rows in a span, oldest first.

        Only the days and hours of the span are listed, and the names of all days.
        """
        minutes = 60 if folder.endswith(_LONG_WINDOWS) else file_minutes
        days = {date.fromisoformat(name[5:]) for name in self._list_names(self.hot, folder, DAY_NAME)}
        files: list[OutputFile] = []
        for day in sorted({*days, *self.ledger.days.get(folder, {})}):
            midnight = (day - _EPOCH.date()) // _MINUTE
            place = self._find_place(folder, day)
            if place is None or not _overlap(span, midnight, 24 * 60):
                continue
            if place.sealed:
                files.append(OutputFile(locate_day(folder, day), self._find_root(place)))
            else:
                files += self._list_hours(self._find_root(place), folder, day, span, minutes)
        return files

    def list_versions(
        self, table: Table, window: str = "", missing_ok: bool = False
    ) -> Iterator[tuple[OutputFile, Hashable]]:
        """The files of `list_table` in any order, with their versions as they are now.

        Raises:
            DamagedFile: the file of a sealed day is missing, unless that is `missing_ok`.
        """
        top = f"{table.name}/{window}" if window else table.name
        for name, version in self.hot.list_versions(top):
            if is_table_file(name) and self.is_current(name):
                yield OutputFile(name, self.hot), version
        placed = list(self._list_placed(top))
        versions = {
            OutputFile(name, root): version
            for root, folder in {(file.storage, file.name.partition("/date=")[0]) for file in placed}
            for name, version in root.list_versions(folder)
        }
        for file in placed:
            if file in versions:
                yield file, versions[file]
            elif not missing_ok:
                fix = REPLACE if table.name in TABLES else DERIVE
                raise describe_damage(str(file), "is missing", fix)

    def list_untimed(self, table: Table) -> list[OutputFile]:
        """The files of a table whose rows have no time."""
        below = f"{table.name}/{UNTIMED_HOUR}"
        return [OutputFile(f"{below}/{name}", self.hot) for name in self._list_names(self.hot, below, _FILE)]

    def find(self, name: str) -> OutputFile | None:
        """The file with the rows of the file of hours of this name, or that gets them; None if they have
        expired."""
        if self.is_plain or (found := _IN_DAY.match(name)) is None:
            return OutputFile(name, self.hot)
        folder, day = found[1], date.fromisoformat(found[2])
        place = self._find_place(folder, day)
        if place is None:
            return None
        return OutputFile(locate_day(folder, day) if place.sealed else name, self._find_root(place))

    def is_current(self, name: str) -> bool:
        """Whether a file that is on the first root has rows of the output: it was not replaced, and has not
        expired."""
        if self.is_plain or (found := _IN_DAY.match(name)) is None:
            return True
        place = self._find_place(found[1], date.fromisoformat(found[2]))
        return place is not None and not place.sealed and place.tier == HOT

    @cached_property
    def is_plain(self) -> bool:
        """Whether maintenance has changed nothing: every file is on the first root."""
        return not self.ledger.days and not self.ledger.expired_before

    def _find_place(self, folder: str, day: date) -> DayPlace | None:
        """Where the rows of a day are; None if it has expired."""
        return None if self.ledger.is_expired(folder, day) else self.ledger.find(folder, day)

    def _find_root(self, place: DayPlace) -> Storage:
        return self.hot if place.tier == HOT else self._roots[place.tier]

    def gather_ledger(self) -> Ledger:
        """The ledger of a copy that has all files on one root."""
        days = {
            folder: {day: place._replace(tier=HOT) for day, place in places.items()}
            for folder, places in self.ledger.days.items()
        }
        return replace(self.ledger, days=days, roots={}, replaced=())

    @cached_property
    def _roots(self) -> dict[str, Storage]:
        return {tier: open_root(url) for tier, url in self.ledger.roots.items()}

    def _iterate(self, top: str) -> Iterator[OutputFile]:
        listed = filter(is_table_file, self.hot.list_files(top))
        yield from (OutputFile(name, self.hot) for name in listed if self.is_current(name))
        yield from self._list_placed(top)

    def _list_placed(self, top: str) -> Iterator[OutputFile]:
        """The files, below a folder, of the days that the ledger names."""
        for folder, days in self.ledger.days.items():
            if folder != top and not folder.startswith(f"{top}/"):
                continue
            for day in days:
                place = self._find_place(folder, day)
                if place is not None and place.sealed:
                    yield OutputFile(locate_day(folder, day), self._find_root(place))
                elif place is not None and place.tier != HOT:
                    root, below = self._find_root(place), f"{folder}/{format_day_folder(day)}"
                    yield from (
                        OutputFile(name, root) for name in root.list_files(below) if is_table_file(name)
                    )

    def _list_hours(
        self, root: Storage, folder: str, day: date, span: Span, minutes: int
    ) -> Iterator[OutputFile]:
        below = f"{folder}/{format_day_folder(day)}"
        midnight = (day - _EPOCH.date()) // _MINUTE
        for hour in self._list_names(root, below, HOUR_NAME):
            start = midnight + 60 * int(hour[5:])
            if _overlap(span, start, 60):
                for name in self._list_names(root, f"{below}/{hour}", _FILE):
                    if _overlap(span, start + int(name[2:4]), minutes):
                        yield OutputFile(f"{below}/{hour}/{name}", root)

    def _list_names(self, root: Storage, folder: str, pattern: re.Pattern[str]) -> list[str]:
        """The names in a folder that have a form, in order; none if there is no folder."""
        return sorted(filter(pattern.fullmatch, root.list_names(folder)))


def open_root(url: str) -> Storage:
    """The storage of a URL that a ledger names: a folder, s3:// or gs://.

    Raises:
        ValueError: the URL has another form.
    """
    parts = urlsplit(url)
    if parts.scheme in ("s3", "gs"):
        from transforms.storage.object_storage import ObjectStorage

        return ObjectStorage.from_url(parts)
    return LocalFolder(Path(url))


def is_table_file(name: str) -> bool:
    """Whether a name is that of a file of hours, or of rows without a time. What a seal has written only
    counts once the ledger names it."""
    return name.endswith(".parquet") and not name.endswith(f"/{DAY_FILE}")


def _overlap(span: Span, start: int, minutes: int) -> bool:
    """Whether so many minutes from `start`, in minutes since 1970, have a moment of the span."""
    return (span.end is None or start * _MINUTE < span.end - _EPOCH) and (
        span.start is None or (start + minutes) * _MINUTE > span.start - _EPOCH
    )
