"""Carrying out what is due, a step at a time. Each step can be killed at any point and done again.

    seal      write day.parquet -> ledger -> (grace) -> remove the files of hours
    move      copy, verify      -> ledger -> (grace) -> remove the file that was copied
    expire                         ledger -> (grace) -> remove the files

Until the ledger is replaced, readers take the files of before, which are all there. After that they take the
new ones, which are all there too. What was written to replaced files meanwhile is merged into the new ones
before they are removed.
"""

import mmap
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from pipelines.jobs.work_folder import make_work_folder
from pipelines.maintenance.plan import EXPIRE, MOVE, REMOVE, SEAL, Step
from pipelines.maintenance.replaced_files import digest_files, merge_again, read_versions
from pipelines.maintenance.stored_days import list_day, list_days
from schemas.tables import find_table
from transforms.core.errors import Refused
from transforms.sinks.parquet.day_file import write_day_file
from transforms.sinks.parquet.day_merge import PART_ROWS, merge_day
from transforms.sinks.parquet.encryption.key_ring import find_writing_key
from transforms.sinks.parquet.local_folder import LocalFolder
from transforms.sinks.parquet.maintenance_ledger import (
    DAY_FILE,
    HOT,
    Ledger,
    Place,
    Replaced,
    locate_day,
    put_ledger,
    read_ledger,
)
from transforms.sinks.parquet.parquet_file import (
    describe_damage,
    open_parquet,
    read_file,
    read_footer,
    verify_file,
)
from transforms.sinks.parquet.storage import Storage

WORK = "_maintaining"
"""Below the output: what a seal needs while it runs."""
ATTEMPTS = 3
"""How often a day is sealed again because a writer added to it meanwhile."""
WRITTEN, CHANGED, REMOVED, FORGOTTEN = "written", "ledger changed", "a file removed", "ledger forgets"
"""The points of a step at which it may be killed, for tests: `Upkeep.reach` is called with each."""


def ignore_point(point: str) -> None:
    """Nothing happens at a point."""


@dataclass(frozen=True)
class Upkeep:
    """An output under maintenance; hold its lock. `roots`: by tier; HOT is a folder of this machine."""

    roots: Mapping[str, Storage]
    clock: Callable[[], datetime]
    reach: Callable[[str], None] = ignore_point
    part_rows: int = PART_ROWS

    @property
    def hot(self) -> LocalFolder:
        """The first root."""
        root = self.roots[HOT]
        assert isinstance(root, LocalFolder)
        return root

    def run(self, step: Step) -> None:
        """Carry out a step.

        Raises:
            DamagedFile: a file of it is not as it was written; nothing was replaced.
            OutputFull: no space is left; nothing was replaced.
            Refused, Unavailable: a root cannot be used.
        """
        {SEAL: self._seal, MOVE: self._move, EXPIRE: self._expire, REMOVE: self._remove}[step.action](step)

    def put_roots(self, urls: Mapping[str, str]) -> None:
        """Note the URLs of the other roots."""
        ledger, version = self._read()
        if {**ledger.roots, **urls} != dict(ledger.roots):
            self._put(ledger.put_roots({**ledger.roots, **urls}), version)

    def _seal(self, step: Step) -> None:
        ledger, version = self._read()
        if ledger.find(step.folder, step.day).sealed:
            return
        for _ in range(ATTEMPTS):
            before = read_versions(self.hot, step.folder, step.day, sealed=False)
            digest = digest_files(self.hot, before)
            with make_work_folder(self.hot.path, WORK) as work:
                rows = self._write_day(step, sorted(before), work)
            self.reach(WRITTEN)
            if read_versions(self.hot, step.folder, step.day, sealed=False) == before:
                sealed = Place(True, HOT, rows)
                self._put(ledger.put_day(step.folder, step.day, sealed, self.clock(), digest), version)
                return
        raise Refused(f"{step.folder} of {step.day} was written to again and again; run it again later")

    def _write_day(self, step: Step, names: Sequence[str], work: Path) -> int:
        """Write the file of a day out of its files of hours, and check that it has as many rows."""
        table = find_table(step.folder.partition("/")[0])
        expected = sum(count_verified(self.hot.path / name) for name in names)

        def read(name: str, columns: Sequence[str] | None) -> pa.RecordBatch:
            return read_file(self.hot.path / name, columns)

        key = find_writing_key(self.hot)
        merged = merge_day(table, names, read, work, self.part_rows, key)
        rows = write_day_file(work / DAY_FILE, table.schema, merged, expected, key)
        if rows != expected:
            raise Refused(f"{rows} rows were written of the {expected} of {step}; run it again")
        with open_bytes(LocalFolder(work), DAY_FILE) as data:
            replace_whole(self.hot, locate_day(step.folder, step.day), data)
        return rows

    def _move(self, step: Step) -> None:
        ledger, version = self._read()
        place = ledger.find(step.folder, step.day)
        if not place.sealed or place.tier == step.tier:
            return
        name = locate_day(step.folder, step.day)
        with open_bytes(self.roots[place.tier], name) as data:
            replace_whole(self.roots[step.tier], name, data)
        self.reach(WRITTEN)
        moved, digest = place._replace(tier=step.tier), digest_files(self.roots[step.tier], [name])
        self._put(ledger.put_day(step.folder, step.day, moved, self.clock(), digest), version)

    def _expire(self, step: Step) -> None:
        ledger, version = self._read()
        unsealed = list_days(self.hot, step.folder).get(step.folder, frozenset())
        known = frozenset(day for day in unsealed if not ledger.is_expired(step.folder, day))
        self._put(ledger.expire(step.folder, step.day, known, self.clock()), version)

    def _remove(self, step: Step) -> None:
        ledger, version = self._read()
        root = self.roots[step.tier]
        names = sorted(list_day(root, step.folder, step.day, step.sealed))
        removed = [each for each in ledger.replaced if _is_of(each, step)]
        if not ledger.is_expired(step.folder, step.day):
            digest = digest_files(root, names)
            if any(each.digest != digest for each in removed):
                merge_again(self.hot, root, step.folder, names)
        for name in names:
            root.remove(name)
            self.reach(REMOVED)
        if isinstance(root, LocalFolder):
            remove_empty(root.path, step.folder, step.day)
        self._put(ledger.forget(*removed), version, FORGOTTEN)

    def _read(self) -> tuple[Ledger, Hashable | None]:
        return read_ledger(self.hot)

    def _put(self, ledger: Ledger, version: Hashable | None, point: str = CHANGED) -> None:
        put_ledger(self.hot, ledger, version)
        self.reach(point)


def count_verified(path: Path) -> int:
    """The number of rows of a file that is as it was written.

    Raises:
        DamagedFile: it is not.
    """
    if problem := verify_file(path):
        raise describe_damage(path, problem)
    with open_parquet(path) as parquet:
        return int(parquet.metadata.num_rows)


@contextmanager
def open_bytes(storage: Storage, name: str) -> Iterator[bytes | mmap.mmap]:
    """The bytes of a file, verified; of a file on this machine not in memory.

    Raises:
        DamagedFile: it is not there, or not as it was written.
    """
    where = storage.locate(name)
    if isinstance(storage, LocalFolder):
        if problem := verify_file(storage.path / name):
            raise describe_damage(where, problem)
        with (storage.path / name).open("rb") as file, _map(file) as data:
            yield data
        return
    stored = storage.get(name)
    if problem := "is not there" if stored is None else verify_file(stored.data):
        raise describe_damage(where, problem)
    assert stored is not None
    yield stored.data


def replace_whole(storage: Storage, name: str, data: bytes | mmap.mmap) -> None:
    """Put a file that no reader knows, in place of what a killed run may have left, and read it back.

    Raises:
        DamagedFile: what is read is not what was put.
    """
    with storage.lock(name.rpartition("/")[0]):
        storage.remove(name)
        storage.put(name, data if isinstance(storage, LocalFolder) else bytes(data), None)
    with open_bytes(storage, name) as copy:
        if read_footer(copy) != read_footer(data):
            raise describe_damage(storage.locate(name), "is not what was written there")


def remove_empty(root: Path, folder: str, day: date) -> None:
    """Remove the folders of a day that have nothing in them."""
    top = root / folder / f"date={day.isoformat()}"
    for place in (*sorted(top.glob("hour=*")), top):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def _map(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _is_of(each: Replaced, step: Step) -> bool:
    return (each.folder, each.day, each.tier, each.sealed) == (step.folder, step.day, step.tier, step.sealed)
