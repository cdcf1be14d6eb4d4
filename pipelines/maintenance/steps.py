"""Carrying out what is due. Each step can be killed at any point and done again.

    seal      write day.parquet -> ledger -> (grace) -> remove the files of hours
    move      copy, verify      -> ledger -> (grace) -> remove the file that was copied
    expire                         ledger -> (grace) -> remove the files
    expire untimed                 ledger -> remove the rows

Until the ledger is replaced, readers take the files of before, which are all there. After that they take the
new ones, which are all there too. What was written to replaced files meanwhile is merged into the new ones.

Consecutive steps of one kind are carried out in groups: first all of their files are written, then the ledger
is replaced once for all. So the time that the ledger takes, which has all days, does not depend on how many
days are due.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple, Protocol

from pipelines.maintenance.file_copies import open_bytes, remove_empty, replace_whole
from pipelines.maintenance.first_writes import UNTIMED_TABLES, note_first_writes, remove_expired
from pipelines.maintenance.plan import EXPIRE, EXPIRE_UNTIMED, MOVE, REMOVE, SEAL, MaintenanceStep
from pipelines.maintenance.replaced_files import digest_files, merge_again, read_versions
from pipelines.maintenance.sealed_day import write_day
from pipelines.maintenance.stored_days import list_day, list_days
from schemas.tables import find_table
from transforms.core.errors import Refused, Unavailable
from transforms.sinks.parquet.day_merge import PART_ROWS
from transforms.sinks.parquet.maintenance_ledger import (
    HOT,
    MERGED,
    DayChange,
    DayPlace,
    Ledger,
    Replaced,
    locate_day,
    put_ledger,
    read_ledger,
)
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage

PUT_SECONDS = 5.0
WRITTEN, CHANGED, REMOVED, FORGOTTEN = "written", "ledger changed", "a file removed", "ledger forgets"
"""The points of a step at which it may be killed, for tests: `Upkeep.reach` is called with each."""


def ignore_point(point: str) -> None:
    """Nothing happens at a point."""


@dataclass(frozen=True)
class Upkeep:
    """An output under maintenance; hold its lock. `roots`: by tier; HOT is a folder of this machine.

    `put_seconds`: after so much time no further step joins a group.
    """

    roots: Mapping[str, Storage]
    clock: Callable[[], datetime]
    reach: Callable[[str], None] = ignore_point
    part_rows: int = PART_ROWS
    put_seconds: float = PUT_SECONDS

    @property
    def hot(self) -> LocalFolder:
        """The first root."""
        root = self.roots[HOT]
        assert isinstance(root, LocalFolder)
        return root

    def run(
        self,
        steps: Iterable[MaintenanceStep],
        follow: Callable[[MaintenanceStep], object] = lambda step: None,
    ) -> None:
        """Carry out steps in order, in groups; `follow` is called with each after its files are written.

        Raises:
            DamagedFile: a file of a step is not as it was written; what came before the step is done.
            OutputFull: no space is left; the same.
            Refused, Unavailable: a root cannot be used; the same.
        """
        left = deque(steps)
        while left:
            self._run_group(left, follow)

    def put_roots(self, urls: Mapping[str, str]) -> None:
        """Note the URLs of the other roots."""
        ledger, version = read_ledger(self.hot)
        if {**ledger.roots, **urls} != dict(ledger.roots):
            self.put(ledger.put_roots({**ledger.roots, **urls}), version)

    def note_first_writes(self) -> None:
        """Note which rows without a time are there for the first time."""
        ledger, today = read_ledger(self.hot)[0], self.clock().date()
        for table in UNTIMED_TABLES:
            note_first_writes(self.hot, table, today, ledger.untimed_before.get(table.name, date.min))

    def put(self, ledger: Ledger, version: Hashable | None, point: str = CHANGED) -> None:
        """Replace the ledger."""
        put_ledger(self.hot, ledger, version)
        self.reach(point)

    def _run_group(self, left: deque[MaintenanceStep], follow: Callable[[MaintenanceStep], object]) -> None:
        """Carry out the first steps, which it takes from `left`."""
        action, problem, until = left[0].action, None, time.monotonic() + self.put_seconds
        group = _GROUPS[action](self, read_ledger(self.hot)[0])
        try:
            while left and left[0].action == action:
                group.add(left[0])
                follow(left.popleft())
                if time.monotonic() >= until:
                    break
        except (Refused, Unavailable) as error:
            problem = error
        group.commit()
        if problem:
            raise problem


class _Group(Protocol):
    """Steps of one kind that change the ledger at once."""

    def add(self, step: MaintenanceStep) -> None:
        """Do what comes before the change of the ledger."""

    def commit(self) -> None:
        """Change the ledger, and do what comes after that."""


class _Written(NamedTuple):
    """The new place of a day whose file is written, and the files that it was made of with their versions:
    those of hours, or that of the day (`sealed`) on the root `source`."""

    change: DayChange
    source: Storage
    sealed: bool
    versions: Mapping[str, Hashable]

    def is_current(self) -> bool:
        """Whether the files are as they were."""
        folder, day, _, _ = self.change
        return read_versions(self.source, folder, day, self.sealed) == self.versions


class _Replacing:
    """Days that are sealed, or moved.

    A writer may change a file after it was read. If that is before the ledger changes, the day stays as it is
    until the next run. If it is just then, the rows are merged: who writes later sees the new ledger.
    """

    def __init__(self, upkeep: Upkeep, ledger: Ledger) -> None:
        self._upkeep, self._ledger = upkeep, ledger
        self._written: list[_Written] = []

    def add(self, step: MaintenanceStep) -> None:
        place = self._ledger.find(step.folder, step.day)
        if step.action == SEAL and not place.sealed:
            self._seal(step)
        elif step.action == MOVE and place.sealed and place.tier != step.tier:
            self._move(step, place)

    def commit(self) -> None:
        upkeep = self._upkeep
        written = [each for each in self._written if each.is_current()]
        if not written:
            return
        ledger, version = read_ledger(upkeep.hot)
        upkeep.put(ledger.put_days([each.change for each in written], upkeep.clock()), version)
        for change, source, _, versions in (each for each in written if not each.is_current()):
            merge_again(upkeep.hot, source, change.folder, versions)

    def _seal(self, step: MaintenanceStep) -> None:
        hot = self._upkeep.hot
        versions = read_versions(hot, step.folder, step.day, sealed=False)
        digest = digest_files(hot, versions)
        try:
            rows = write_day(hot, step, sorted(versions), self._upkeep.part_rows)
        except Refused:
            if read_versions(hot, step.folder, step.day, sealed=False) == versions:
                raise
            return  # the day has got rows meanwhile: the next run seals it
        self._upkeep.reach(WRITTEN)
        change = DayChange(step.folder, step.day, DayPlace(True, HOT, rows), digest)
        self._written.append(_Written(change, hot, False, versions))

    def _move(self, step: MaintenanceStep, place: DayPlace) -> None:
        name = locate_day(step.folder, step.day)
        source, target = self._upkeep.roots[place.tier], self._upkeep.roots[step.tier]
        versions = read_versions(source, step.folder, step.day, sealed=True)
        with open_bytes(source, name) as data:
            replace_whole(target, name, data)
        self._upkeep.reach(WRITTEN)
        change = DayChange(
            step.folder, step.day, place._replace(tier=step.tier), digest_files(target, [name])
        )
        self._written.append(_Written(change, source, True, versions))


class _Expiring:
    """Folders of which days expire."""

    def __init__(self, upkeep: Upkeep, ledger: Ledger) -> None:
        self._upkeep, self._ledger = upkeep, ledger

    def add(self, step: MaintenanceStep) -> None:
        unsealed = list_days(self._upkeep.hot, step.folder).get(step.folder, frozenset())
        known = frozenset(day for day in unsealed if not self._ledger.is_expired(step.folder, day))
        self._ledger = self._ledger.expire(step.folder, step.day, known, self._upkeep.clock())

    def commit(self) -> None:
        self._upkeep.put(self._ledger, read_ledger(self._upkeep.hot)[1])


class _ExpiringUntimed:
    """Tables of which rows without a time expire. They are removed at once: a reader that still finds some
    reads nothing wrong."""

    def __init__(self, upkeep: Upkeep, ledger: Ledger) -> None:
        self._upkeep, self._ledger = upkeep, ledger
        self._tables: list[str] = []

    def add(self, step: MaintenanceStep) -> None:
        self._ledger = self._ledger.expire_untimed(step.folder, step.day)
        self._tables.append(step.folder)

    def commit(self) -> None:
        upkeep, hot = self._upkeep, self._upkeep.hot
        upkeep.put(self._ledger, read_ledger(hot)[1])
        for name in self._tables:
            before = self._ledger.untimed_before[name]
            remove_expired(hot, find_table(name), before, lambda: upkeep.reach(REMOVED))


class _Removing:
    """Replaced files that are removed.

    Before the first is removed the ledger says of all that their rows are in the files that replaced them:
    after a kill the files that are left must not be merged, since `--replace` may have changed the day.
    """

    def __init__(self, upkeep: Upkeep, ledger: Ledger) -> None:
        self._upkeep, self._ledger = upkeep, ledger
        self._steps: list[tuple[MaintenanceStep, list[str]]] = []
        self._removed: list[Replaced] = []

    def add(self, step: MaintenanceStep) -> None:
        root = self._upkeep.roots[step.tier]
        names = sorted(list_day(root, step.folder, step.day, step.sealed))
        removed = self._ledger.find_replaced(step.folder, step.day, step.sealed, step.tier)
        if not self._ledger.is_expired(step.folder, step.day):
            digests = {each.digest for each in removed} - {MERGED}
            if digests and digests != {digest_files(root, names)}:
                merge_again(self._upkeep.hot, root, step.folder, names)
        self._steps.append((step, names))
        self._removed += removed

    def commit(self) -> None:
        upkeep = self._upkeep
        if not self._steps:
            return
        ledger, version = read_ledger(upkeep.hot)
        upkeep.put(ledger.note_merged(self._removed), version)
        for step, names in self._steps:
            root = upkeep.roots[step.tier]
            for name in names:
                root.remove(name)
                upkeep.reach(REMOVED)
            if isinstance(root, LocalFolder):
                remove_empty(root.path, step.folder, step.day)
        ledger, version = read_ledger(upkeep.hot)
        among = frozenset(each[:5] for each in self._removed)
        removed = (each for each in ledger.replaced if each[:5] in among)
        upkeep.put(ledger.forget(*removed), version, FORGOTTEN)


_GROUPS: Mapping[str, Callable[[Upkeep, Ledger], _Group]] = {
    SEAL: _Replacing,
    MOVE: _Replacing,
    EXPIRE: _Expiring,
    EXPIRE_UNTIMED: _ExpiringUntimed,
    REMOVE: _Removing,
}
