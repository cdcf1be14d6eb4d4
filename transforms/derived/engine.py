"""Makes the files of derived tables: what is stale is derived again, what has lost its rows is removed.

A pass compares the plan of each table (`transforms.derived.plan`) with the digests in the footers of its
files. It keeps nothing beside the files, so it can be killed anywhere and run again. Stored files may be
replaced while it runs: it reads them through hard links, and leaves what has changed since the plan to the
next pass.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.partitioning import assign_files
from schemas.readers.formats import FIRST_US, LAST_US
from schemas.tables import REPORTS
from transforms.core.record_batches import make_empty
from transforms.derived.block_connections import BlockConnections
from transforms.derived.blocks import cut_spans, split_blocks, split_groups
from transforms.derived.bounds import EVER, UNTIMED, Period
from transforms.derived.derived_files import DerivedFiles, FilePart, FoundFiles, write_parts
from transforms.derived.derived_table import Clock, DerivedTable
from transforms.derived.inputs import list_stored
from transforms.derived.plan import DerivePlan, DeriveUnit
from transforms.derived.registry import DERIVED, find_stored_table
from transforms.derived.run import explain_broken_sql, run_sql, sort_file
from transforms.derived.snapshot import ChangedFile, FileSnapshot
from transforms.derived.stored_files import Catalog, StoredFiles

_AT_ONCE = 2
"""Groups of tables that are derived at once, if there are threads for them."""
_ROWS_OF_MB = 625
"""With fewer rows of reports in a MB, DuckDB writes little to the disk; with twice as many it may fail."""
_TIMES_ROWS = {Clock.RECORDED: 1, Clock.RECEIVED: 4, Clock.EFFECTIVE: 16}
"""Rows of reports are wide; of other messages few columns are read, and of records few rows are kept."""


@dataclass(frozen=True)
class DeriveLimits:
    """What deriving may use: threads, MB of DuckDB's memory, and at most how many reports of one run of the
    SQL, about; fewer if memory is small."""

    threads: int = 1
    memory_mb: int = 600
    rows: int = 250_000

    def share(self, groups: int) -> "DeriveLimits":
        """What one of some groups may use that are derived at once. The threads of all take turns."""
        return DeriveLimits(self.threads, self.memory_mb // groups, self.rows)

    def find_rows(self, table: DerivedTable) -> int:
        """Rows of one run of the SQL of a table."""
        return min(self.rows, self.memory_mb * _ROWS_OF_MB) * _TIMES_ROWS[table.clock]


class PlanComparison(NamedTuple):
    """A derived table against its plan: its units, those that are stale or missing, and what the files are
    made of now."""

    plan: DerivePlan
    units: list[DeriveUnit]
    stale: list[DeriveUnit]
    made: FoundFiles

    @property
    def surplus(self) -> list[str]:
        """The files that should be gone; none if only what is new was compared."""
        files = self.made.find_surplus(self.units) if self.plan.since == FIRST_US else ()
        return sorted(file for file in files if self.plan.covers(file))


@dataclass
class Counts:
    """What a pass did, by files: `changed` were left because a stored file was replaced in the meantime.

    `read`: the rows that the written files are about, once for each table.
    """

    written: int = 0
    removed: int = 0
    changed: int = 0
    read: int = 0
    rows: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Counts") -> None:
        """Add what another part of the pass did."""
        self.written += other.written
        self.removed += other.removed
        self.changed += other.changed
        self.read += other.read
        for name, rows in other.rows.items():
            self.rows[name] = self.rows.get(name, 0) + rows


Follow = Callable[[str, int, int], None]
"""Called with a table, how many of its stale units are done, and how many were found so far."""


def ignore_progress(table: str, done: int, total: int) -> None:
    """Follow nothing."""


class _Pass(NamedTuple):
    """What is the same for all tables of a pass; see `Deriver.derive`.

    `catalogs`: of the stored tables by name, and of derived ones until they are written.
    """

    catalogs: dict[str, Catalog]
    before: int
    since: int
    snapshot: FileSnapshot | None = None
    limits: DeriveLimits = DeriveLimits()
    work: Path = Path()
    follow: Follow = ignore_progress


class Deriver:
    """Derives the tables of an output folder, once or again and again.

    `settings`: by name, all that the SQL uses. `indexed`: keep which tasks are in which files, so that
    passes that follow each other read few files; costs memory.
    """

    def __init__(
        self,
        output: Path,
        settings: Mapping[str, Any],
        file_minutes: int,
        limits: DeriveLimits = DeriveLimits(),
        tables: Sequence[DerivedTable] = tuple(DERIVED.values()),
        indexed: bool = False,
    ) -> None:
        self.output, self.settings, self.tables = output, settings, tables
        self._minutes, self._limits = file_minutes, limits
        self._stored, self._derived = StoredFiles(output, file_minutes, indexed), DerivedFiles(output)

    def compare(
        self, before: int = LAST_US, snapshot: FileSnapshot | None = None, since: int = FIRST_US
    ) -> Iterator[PlanComparison]:
        """Each table against its plan. A table that reads another is compared after that is done with.

        Files that may change soon are kept in the snapshot, if there is one. With `since`, only spans that
        end later are compared, and no file is surplus.

        Raises:
            DamagedFile: a stored file cannot be read.
        """
        given = _Pass(self._read_stored(snapshot), before, since, snapshot)
        yield from (self._compare(table, given, self._derived.read(table.table)) for table in self.tables)

    def derive(
        self, work: Path, before: int = LAST_US, follow: Follow = ignore_progress, since: int = FIRST_US
    ) -> Counts:
        """One pass: derive what is stale. `work`: an empty folder in the same file system as the output.

        With several threads, groups of tables that do not read each other are derived at once.
        `before`, `since`: see `transforms.derived.plan.DerivePlan`.

        Raises:
            DamagedFile: a stored file cannot be read.
            BrokenSQL: the SQL or kernel of a table fails, as it would again.
            duckdb.Error: DuckDB failed otherwise.
            OutputFull: no space is left; what was written is whole.
        """
        counts, ended, at_once = Counts(), Event(), min(self._limits.threads, _AT_ONCE)
        running: dict[str, Future[Counts]] = {}
        with FileSnapshot(work) as snapshot, ThreadPoolExecutor(at_once) as pool:
            limits = self._limits.share(at_once)
            given = _Pass(self._read_stored(snapshot), before, since, snapshot, limits, work, follow)

            def run_group(group: Sequence[DerivedTable], read: Sequence[Future[Counts]]) -> Counts:
                done = Counts()
                for each in read:  # It was submitted before, so that it runs or has ended.
                    each.result()
                parts = self._derive_group(group, given, snapshot)
                while not ended.is_set() and (part := next(parts, None)):
                    done.add(part)
                return done

            try:
                for group in split_groups(self.tables):
                    inputs = {each.name for table in group for each in table.inputs}
                    future = pool.submit(run_group, group, [running[name] for name in inputs & set(running)])
                    running |= {table.table.name: future for table in group}
                for each in as_completed(set(running.values())):
                    counts.add(each.result())
            finally:
                ended.set()
        names = [table.table.name for table in self.tables if table.table.name in counts.rows]
        counts.rows = {name: counts.rows[name] for name in names}
        return counts

    def _read_stored(self, snapshot: FileSnapshot | None) -> dict[str, Catalog]:
        """The catalogs of the stored tables that none of the tables makes, by name."""
        own = {each.table.name for each in self.tables}
        names = dict.fromkeys(name for table in self.tables for name in list_stored(table))
        wanted = [name for name in names if name not in own]
        with ThreadPoolExecutor(self._limits.threads) as pool:
            read = pool.map(lambda name: self._stored.read(find_stored_table(name), snapshot), wanted)
            return dict(zip(wanted, read))

    def _read_catalogs(self, names: Sequence[str], given: _Pass) -> None:
        """Add the catalogs of those of some tables that some table reads and that are not known now."""
        read = {name for table in self.tables for name in list_stored(table)} - set(given.catalogs)
        for name in names:
            if name in read:
                given.catalogs[name] = self._stored.read(find_stored_table(name), given.snapshot)

    def _compare(
        self, table: DerivedTable, given: _Pass, made: FoundFiles, within: Period = EVER
    ) -> PlanComparison:
        """A table against its plan, over a part of time. `made`: its files, in that part as they are now."""
        self._read_catalogs(list_stored(table), given)
        catalogs, expiry = dict(given.catalogs), made.files.ledger.expiry
        plan = DerivePlan(
            table, catalogs, self.settings, self._minutes, given.before, given.since, expiry, within
        )
        units = plan.list_units()
        stale = [unit for unit in units if not made.holds(unit)]
        return PlanComparison(plan, units, stale, made)

    def _derive_group(
        self, group: Sequence[DerivedTable], given: _Pass, snapshot: FileSnapshot
    ) -> Iterator[Counts]:
        """Derive what is stale of the tables of a group, span by span, and yield after each block what was
        done."""
        spans, limits, reports = [EVER], given.limits, given.catalogs[REPORTS.name]
        if group[0].records:
            spans = cut_spans(reports, limits.find_rows(group[0]), given.since)
        spill = str(given.work / group[0].table.name)
        opened = self.settings, snapshot, limits.threads, limits.memory_mb, spill
        made = {table.table.name: self._derived.read(table.table) for table in group}
        done: dict[str, int] = defaultdict(int)
        for span in spans:
            with BlockConnections(group, *opened) as connections:
                for table in group:
                    name = table.table.name
                    found = self._compare(table, given, made[name], span)
                    yield from self._derive_table(found, connections, given, done[name])
                    done[name] += len(found.stale)
        # Groups that run at once must not list a table both: each would replace the other's links.
        self._read_catalogs([*done], given)

    def _derive_table(
        self, found: PlanComparison, connections: BlockConnections, given: _Pass, done: int
    ) -> Iterator[Counts]:
        """Derive what is stale of a table, and yield after each block what was done; remove what is surplus.
        `done`: units of it that were derived before."""
        table, total = found.plan.table, done + len(found.stale)
        for block in split_blocks(found.units, found.stale, given.limits.find_rows(table)):
            given.follow(table.table.name, done, total)
            done += len(block)
            period = Period(block[0].period.start, block[-1].period.end)
            try:
                with (
                    explain_broken_sql(table),
                    connections.open(found.plan, period, block[0].cutoff) as connection,
                ):
                    rows = run_sql(connection, table, self.settings)
                count = self._write(table, block, rows)
                read = sum(unit.rows for unit in block)
                yield Counts(written=len(block), read=read, rows={table.table.name: count})
            except ChangedFile:
                yield Counts(changed=len(block))
        given.follow(table.table.name, done, total)
        if gone := {name: FilePart(None, None) for name in found.surplus}:
            write_parts(self.output, table.table, gone, self._minutes)
        if found.stale or gone:  # The next table that reads it lists its files again.
            given.catalogs.pop(table.table.name, None)
        yield Counts(removed=len(gone))

    def _write(self, table: DerivedTable, block: Sequence[DeriveUnit], rows: pa.RecordBatch) -> int:
        """Write the files of the units; how many rows they have. Those that belong to none are dropped."""
        codes, names = assign_files(table.table, rows, self._minutes)
        order = np.argsort(codes, kind="stable")
        ends = np.cumsum(np.bincount(codes, minlength=len(names)))
        parts = dict(zip(names, np.split(order, ends[:-1]))) if names else {}

        def make_part(name: str, unit: DeriveUnit, count: int) -> FilePart:
            part = make_empty(table.table.schema)
            if name in parts:
                places = pa.array(parts[name])
                own = rows.select(table.table.file_order).take(places)
                part = rows.take(places.take(sort_file(table.table, own)))
            return FilePart(part, f"{unit.digest} {count}")

        made: dict[str, FilePart] = {}
        for unit in block:
            files = sorted(parts) if unit.period == UNTIMED else unit.files
            made |= {name: make_part(name, unit, len(files)) for name in files}
        write_parts(self.output, table.table, made, self._minutes)
        return sum(part.rows.num_rows for part in made.values() if part.rows is not None)
