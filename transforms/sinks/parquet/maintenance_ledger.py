"""The maintenance ledger of an output: of which days the rows are in one file, on which root, and what has
expired.

It is one small file at the top of the output's first root. Readers read it once, before anything else, and
take of each day the files that it names: those of the hours, or the file of the day, from one root. So a day
changes for readers in one step, when the ledger is replaced. An output without the file has an empty ledger:
all of its days are files of hours on the first root.

A *folder* is that of a table or of one of its window sizes: `kpi_reports`,
`kpi_aggregations/window_size=5s`.
"""

import json
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from schemas.partitioning import format_day_folder
from transforms.core.errors import Refused
from transforms.core.expiry import Expiry
from transforms.core.typed_json import parse_json
from transforms.storage.storage import Storage

NAME = "_maintenance.json"
DAY_FILE = "day.parquet"
"""The file of a sealed day, in place of those of its hours."""
HOT, WARM, COLD = "hot", "warm", "cold"
TIERS = (HOT, WARM, COLD)
"""The roots of an output: the output itself, and two others."""
MERGED = "merged"
_VERSION = 1


class DayPlace(NamedTuple):
    """Where the rows of a day are: on which tier, and whether in one file (`sealed`) or in files of hours.

    `rows`: how many the file had when maintenance last wrote it.
    """

    sealed: bool = False
    tier: str = HOT
    rows: int = 0


class DayChange(NamedTuple):
    """The new place of a day of a folder. `digest`: of what was read of the files of its old place."""

    folder: str
    day: date
    place: DayPlace
    digest: str = ""


class Replaced(NamedTuple):
    """Files that readers of an older ledger may still read: those of a day in a folder that were at a place,
    until the ledger was changed at `since`. `digest`: of what a seal or a move read of them; empty if that is
    not known; MERGED once their rows are known to be in the files that replaced them."""

    folder: str
    day: date
    sealed: bool
    tier: str
    since: datetime
    digest: str = ""


UNSEALED = DayPlace()
"""Where the rows of a day are that the ledger does not name."""


@dataclass(frozen=True)
class Ledger:
    """What maintenance has done to an output.

    `days`: by folder, the days whose rows are no longer in files of hours on the first root.
    `expired_before`: by folder, the first day that has not expired; rows of earlier days are gone, and none
    may come.
    `untimed_before`: by table, the first day of which rows without a time that were first written then have
    not expired. `roots`: the URLs of WARM and COLD, without secrets. `replaced`: files that are to be
    removed.
    """

    days: Mapping[str, Mapping[date, DayPlace]] = field(default_factory=lambda: MappingProxyType({}))
    expired_before: Mapping[str, date] = field(default_factory=lambda: MappingProxyType({}))
    roots: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    replaced: tuple[Replaced, ...] = ()
    untimed_before: Mapping[str, date] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def expiry(self) -> Expiry:
        """What has expired."""
        return Expiry(self.expired_before, frozenset(self.untimed_before))

    def find(self, folder: str, day: date) -> DayPlace:
        """Where the rows of a day are, if it has not expired."""
        return self.days.get(folder, {}).get(day, UNSEALED)

    def is_expired(self, folder: str, day: date) -> bool:
        """Whether the rows of a day are gone."""
        return day < self.expired_before.get(folder, date.min)

    def put_day(self, folder: str, day: date, place: DayPlace, at: datetime, digest: str = "") -> Self:
        """As `put_days`, of one day."""
        return self.put_days([DayChange(folder, day, place, digest)], at)

    def put_days(self, changes: Sequence[DayChange], at: datetime) -> Self:
        """The ledger after days, each named once, got new places at a moment; the files of their old places
        are then replaced."""
        days = {folder: dict(places) for folder, places in self.days.items()}
        current = {(folder, day, place.sealed, place.tier) for folder, day, place, _ in changes}
        replaced = [each for each in self.replaced if each[:4] not in current]
        for folder, day, place, digest in changes:
            before = self.find(folder, day)
            days.setdefault(folder, {})[day] = place
            if (before.sealed, before.tier) != (place.sealed, place.tier):
                replaced.append(Replaced(folder, day, before.sealed, before.tier, at, digest))
        return replace(self, days=days, replaced=tuple(replaced))

    def find_replaced(self, folder: str, day: date, sealed: bool, tier: str) -> list[Replaced]:
        """The replaced files of a day that are at a place."""
        return self._replaced_at.get((folder, day, sealed, tier), [])

    @cached_property
    def _replaced_at(self) -> dict[tuple[str, date, bool, str], list[Replaced]]:
        found = defaultdict[tuple[str, date, bool, str], list[Replaced]](list)
        for each in self.replaced:
            found[each[:4]].append(each)
        return found

    def expire(self, folder: str, before: date, unsealed: frozenset[date], at: datetime) -> Self:
        """The ledger after the days of a folder before `before` expired at a moment.

        `unsealed`: the days among them that have files of hours.
        """
        before = max(before, self.expired_before.get(folder, date.min))
        places = {**dict.fromkeys(unsealed, UNSEALED), **self.days.get(folder, {})}
        gone = tuple(
            Replaced(folder, day, place.sealed, place.tier, at)
            for day, place in sorted(places.items())
            if day < before
        )
        left = {day: place for day, place in self.days.get(folder, {}).items() if day >= before}
        days = {**self.days, folder: left}
        expired = {**self.expired_before, folder: before}
        return replace(self, days=days, expired_before=expired, replaced=(*self.replaced, *gone))

    def expire_untimed(self, table: str, before: date) -> Self:
        """The ledger after rows of a table without a time expired that were first written before a day."""
        before = max(before, self.untimed_before.get(table, date.min))
        return replace(self, untimed_before={**self.untimed_before, table: before})

    def note_merged(self, merged: Sequence[Replaced]) -> Self:
        """The ledger after the rows of replaced files are known to be in the files that replaced them."""
        among = frozenset(merged)
        noted = (each._replace(digest=MERGED) if each in among else each for each in self.replaced)
        return replace(self, replaced=tuple(noted))

    def forget(self, *removed: Replaced) -> Self:
        """The ledger after replaced files were removed."""
        among = frozenset(removed)
        return replace(self, replaced=tuple(each for each in self.replaced if each not in among))

    def put_roots(self, roots: Mapping[str, str]) -> Self:
        """The ledger with other URLs of WARM and COLD."""
        return replace(self, roots=dict(roots))

    def encode(self) -> bytes:
        """The content of its file; equal ledgers have equal bytes."""
        content = {
            "version": _VERSION,
            "roots": dict(sorted(self.roots.items())),
            "expired_before": {name: day.isoformat() for name, day in sorted(self.expired_before.items())},
            "untimed_before": {name: day.isoformat() for name, day in sorted(self.untimed_before.items())},
            "days": {
                folder: {day.isoformat(): place._asdict() for day, place in sorted(days.items())}
                for folder, days in sorted(self.days.items())
                if days
            },
            "replaced": [
                each._asdict() | {"day": each.day.isoformat(), "since": each.since.isoformat()}
                for each in sorted(self.replaced)
            ],
        }
        return (json.dumps(content, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The ledger of a file's content.

        Raises:
            ValueError: it is none, or one of a newer version.
        """
        content = parse_json(data, dict[str, Any])
        try:
            if content["version"] != _VERSION:
                raise ValueError(f"it has version {content['version']}, and this kpiflow knows {_VERSION}")
            return cls(
                {folder: _parse_days(days) for folder, days in content["days"].items()},
                {folder: date.fromisoformat(day) for folder, day in content["expired_before"].items()},
                {tier: str(url) for tier, url in content["roots"].items()},
                tuple(_parse_replaced(each) for each in content["replaced"]),
                {name: date.fromisoformat(day) for name, day in content.get("untimed_before", {}).items()},
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"a part is missing or has another type: {error}") from error


_EMPTY = Ledger()


def read_ledger(storage: Storage) -> tuple[Ledger, Hashable | None]:
    """The ledger of an output, by its first root, and the version of its file (None: there is none).

    Raises:
        Refused: it is damaged, or a newer kpiflow wrote it.
    """
    stored = storage.get(NAME)
    if stored is None:
        return _EMPTY, None
    try:
        return _parse(stored.data), stored.version
    except ValueError as error:
        where = storage.locate(NAME)
        fix = "put it back from a copy, or upgrade kpiflow"
        raise Refused(f"{where} cannot be used ({error}); {fix}") from error


@lru_cache(maxsize=4)
def _parse(data: bytes) -> Ledger:
    """As `Ledger.parse`, which takes 2 ms for a year; the same object while the content is the same."""
    return Ledger.parse(data)


def put_ledger(storage: Storage, ledger: Ledger, version: Hashable | None) -> None:
    """Replace the ledger, atomically; on return it is safe. `version`: as `read_ledger` returned it.

    Raises:
        Conflict: another process has changed it.
    """
    with storage.lock(""):
        storage.put(NAME, ledger.encode(), version)


def locate_day(folder: str, day: date) -> str:
    """The name of the file of a sealed day, below each root."""
    return f"{folder}/{format_day_folder(day)}/{DAY_FILE}"


def now() -> datetime:
    """The moment of a change, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def _parse_days(days: Mapping[str, Any]) -> dict[date, DayPlace]:
    return {date.fromisoformat(day): _parse_place(place) for day, place in days.items()}


def _parse_place(place: Mapping[str, Any]) -> DayPlace:
    return DayPlace(bool(place["sealed"]), _parse_tier(place["tier"]), int(place["rows"]))


def _parse_replaced(each: Mapping[str, Any]) -> Replaced:
    day, since = date.fromisoformat(each["day"]), datetime.fromisoformat(each["since"])
    digest = str(each.get("digest", ""))
    return Replaced(each["folder"], day, bool(each["sealed"]), _parse_tier(each["tier"]), since, digest)


def _parse_tier(tier: str) -> str:
    if tier not in TIERS:
        raise ValueError(f"there is no tier {tier}")
    return tier
