"""What is due in an output: a pure function of the ledger, what is stored, the clock and the settings.

Files that were replaced are removed, then days expire, are sealed, and are moved. An expiry that would take
more than half of the output's days out of any folder is not done unless that is allowed, nor any other then.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from typing import NamedTuple

from schemas.kinds import KIND_OF_TABLE
from schemas.partitioning import UNTIMED_FOLDER
from schemas.tables import FLEET, TABLES
from transforms.derived.registry import DERIVED
from transforms.sinks.parquet.maintenance_ledger import COLD, HOT, WARM, DayPlace, Ledger

REMOVE, EXPIRE, SEAL, MOVE = "remove", "expire", "seal", "move"
EXPIRE_UNTIMED = "expire untimed"
DAY = timedelta(days=1)


class MaintenanceStep(NamedTuple):
    """Something that is due for a day of a folder. `tier`: of MOVE where it goes, of REMOVE where the files
    are; `sealed`: of REMOVE whether that is the day's file. EXPIRE means all days before `day`, and
    EXPIRE_UNTIMED the rows of a table without a time that were first written before it."""

    action: str
    folder: str
    day: date
    tier: str = HOT
    sealed: bool = False

    def as_json(self) -> dict[str, object]:
        """The same as JSON's types."""
        return self._asdict() | {"day": self.day.isoformat()}


@dataclass(frozen=True)
class MaintenanceRules:
    """When something is due.

    `after`: how long after a day its rows are complete. `warm` and `cold`: the age at which a day moves
    there, None if there is no such root. `grace`: how long replaced files stay. `kept_from`: by folder the
    first day that is kept. `expire_most`: whether more than half of the output's days may expire at once.
    """

    after: timedelta
    grace: timedelta
    warm: timedelta | None = None
    cold: timedelta | None = None
    kept_from: Mapping[str, date] = field(default_factory=dict)
    expire_most: bool = False


Stored = Mapping[str, frozenset[date]]
"""By folder, the days that have files of hours."""


class Withheld(NamedTuple):
    """An expiry that is due and is not done: of so many days of a folder, those before `day`."""

    folder: str
    day: date
    days: int

    def as_json(self) -> dict[str, object]:
        """The same as JSON's types."""
        return self._asdict() | {"day": self.day.isoformat()}


@dataclass(frozen=True)
class MaintenancePlan:
    """The steps that are due, in order. `complete_before`: days that ended by then get no more rows; None if
    that is not known. `withheld`: what would expire too, if that were allowed."""

    steps: tuple[MaintenanceStep, ...]
    complete_before: datetime | None
    withheld: tuple[Withheld, ...] = ()


def make_plan(
    ledger: Ledger,
    stored: Stored,
    rules: MaintenanceRules,
    now: datetime,
    written_until: datetime | None,
    untimed: Stored = MappingProxyType({}),
) -> MaintenancePlan:
    """What is due at a moment.

    `untimed`: by table, the days at which rows without a time that are still there were first written.
    `written_until`: no message that was received before is still to be written; None if that is not known:
    then only files are removed, and days moved that are sealed already.
    """
    complete = None if written_until is None else written_until - rules.after
    days = _list_kept_days(ledger, stored)
    withheld = [] if rules.expire_most else _list_withheld(ledger, days, untimed, rules, complete)
    expired = [] if withheld else _expire(days, untimed, rules, complete)
    gone = {step.folder: step.day for step in expired if step.action == EXPIRE}
    sealed = [
        step
        for step in _list_sealing(ledger, stored, complete)
        if step.day >= gone.get(step.folder, date.min)
    ]
    moved = [
        step
        for step in _list_moving(ledger, sealed, rules, now)
        if step.day >= gone.get(step.folder, date.min)
    ]
    removed = [
        MaintenanceStep(REMOVE, each.folder, each.day, each.tier, each.sealed)
        for each in ledger.replaced
        if each.since + rules.grace <= now
    ]
    return MaintenancePlan((*removed, *expired, *sealed, *moved), complete, tuple(withheld))


def can_seal(folder: str) -> bool:
    """Whether the days of a folder are sealed: once complete, a stream adds no row to them.

    A kind that is not rejected for its age can add rows to any day, so its table is left as it is. A derived
    day is derived from such tables too, but what they get later does not count for it.
    """
    name = folder.partition("/")[0]
    kind = KIND_OF_TABLE.get(name)
    return name in {*TABLES, FLEET.name, *DERIVED} and (kind is None or kind.is_recent)


def end_of(day: date) -> datetime:
    """The last moment of a day (UTC)."""
    return datetime.combine(day, time.max, UTC)


def _list_kept_days(ledger: Ledger, stored: Stored) -> dict[str, frozenset[date]]:
    """By folder, the days that have rows and have not expired."""
    return {
        folder: frozenset(
            day
            for day in {*stored.get(folder, ()), *ledger.days.get(folder, ())}
            if not ledger.is_expired(folder, day)
        )
        for folder in {*stored, *ledger.days}
    }


def _list_expiring(
    days: Mapping[str, frozenset[date]], rules: MaintenanceRules, complete: datetime | None
) -> Iterator[Withheld]:
    for folder, first in sorted(rules.kept_from.items()):
        if complete is None:
            return
        first = min(first, complete.date())
        if count := sum(day < first for day in days.get(folder, ())):
            yield Withheld(folder, first, count)


def _list_withheld(
    ledger: Ledger, days: Stored, untimed: Stored, rules: MaintenanceRules, complete: datetime | None
) -> list[Withheld]:
    """All that would expire, if that is more than half of the output's days out of a folder; else nothing."""
    due = list(_list_expiring(days, rules, complete))
    new = list(_list_expiring(_leave_out_expired(ledger, untimed), rules, complete))
    every = frozenset[date]().union(*days.values(), *untimed.values())
    is_most = any(2 * each.days > len(every) for each in (*due, *new))
    return [*due, *map(_name_untimed, new)] if is_most else []


def _expire(
    days: Stored, untimed: Stored, rules: MaintenanceRules, complete: datetime | None
) -> list[MaintenanceStep]:
    return [
        MaintenanceStep(action, each.folder, each.day)
        for action, stored in ((EXPIRE, days), (EXPIRE_UNTIMED, untimed))
        for each in _list_expiring(stored, rules, complete)
    ]


def _leave_out_expired(ledger: Ledger, untimed: Stored) -> Stored:
    """The days of rows without a time that have not expired: messages were read again that have."""
    kept = {name: ledger.untimed_before.get(name, date.min) for name in untimed}
    return {name: frozenset(day for day in days if day >= kept[name]) for name, days in untimed.items()}


def _name_untimed(withheld: Withheld) -> Withheld:
    return withheld._replace(folder=f"{withheld.folder}/{UNTIMED_FOLDER}")


def _list_sealing(ledger: Ledger, stored: Stored, complete: datetime | None) -> Iterator[MaintenanceStep]:
    due = (
        MaintenanceStep(SEAL, folder, day)
        for folder, days in stored.items()
        for day in days
        if can_seal(folder)
        and complete is not None
        and end_of(day) <= complete
        and not ledger.find(folder, day).sealed
        and not ledger.is_expired(folder, day)
    )
    yield from sorted(due, key=lambda step: (step.day, step.folder))


def _list_moving(
    ledger: Ledger, sealed: list[MaintenanceStep], rules: MaintenanceRules, now: datetime
) -> Iterator[MaintenanceStep]:
    places = [(day, folder, place) for folder, days in ledger.days.items() for day, place in days.items()]
    places += [(step.day, step.folder, DayPlace(True)) for step in sealed]
    for day, folder, place in sorted(places):
        tier = _choose_tier(now - end_of(day), rules)
        if place.sealed and place.tier != tier and place.tier != COLD and tier != HOT:
            yield MaintenanceStep(MOVE, folder, day, tier)


def _choose_tier(age: timedelta, rules: MaintenanceRules) -> str:
    if rules.cold is not None and age >= rules.cold:
        return COLD
    return WARM if rules.warm is not None and age >= rules.warm else HOT
