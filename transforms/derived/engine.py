"""Makes the files of derived tables: what is stale is derived again, what has lost its rows is removed.

A pass compares the plan of each table (`transforms.derived.plan`) with the digests in the footers of its
files. It keeps nothing beside the files, so it can be killed anywhere and run again. Stored files may be
replaced while it runs: it reads them through hard links, and leaves what has changed since the plan to the
next pass.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.partitioning import assign_files
from schemas.readers.formats import FIRST_US, LAST_US
from schemas.tables import Table
from transforms.core.record_batches import make_empty
from transforms.derived.blocks import choose_files, split_blocks, split_chains
from transforms.derived.bounds import UNTIMED, Period
from transforms.derived.derived_files import DerivedFiles, FilePart, FoundFiles, write_file
from transforms.derived.derived_table import Clock, DerivedTable
from transforms.derived.inputs import bind_inputs, list_stored
from transforms.derived.plan import DerivePlan, DeriveUnit
from transforms.derived.registry import DERIVED, find_stored_table
from transforms.derived.run import explain_broken_sql, open_connection, run_sql, sort_file
from transforms.derived.snapshot import ChangedFile, FileSnapshot
from transforms.derived.stored_files import Catalog, StoredFiles
from transforms.derived.stored_view import create_stored_view
from transforms.encryption.key_ring import find_writing_key
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.storage.local_folder import LocalFolder

_WRITERS = 2
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

    def share(self, chains: int) -> "DeriveLimits":
        """What one of some chains may use that are derived at once. The threads of all take turns."""
        return DeriveLimits(self.threads, self.memory_mb // chains, self.rows)

    def find_rows(self, table: DerivedTable) -> int:
        """Rows of one run of the SQL of a table."""
        return min(self.rows, self.memory_mb * _ROWS_OF_MB) * _TIMES_ROWS[table.clock]


class PlanComparison(NamedTuple):
    """A derived table against its plan: units that are stale or missing, files that should be gone, and what
    the files are made of now."""

    plan: DerivePlan
    units: list[DeriveUnit]
    stale: list[DeriveUnit]
    surplus: list[str]
    made: FoundFiles


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
"""Called with a table, how many of its stale units are done, and how many there are."""


def ignore_progress(table: str, done: int, total: int) -> None:
    """Follow nothing."""


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
        catalogs = self._read_stored(snapshot)
        yield from (self._compare(table, catalogs, before, snapshot, since) for table in self.tables)

    def derive(
        self, work: Path, before: int = LAST_US, follow: Follow = ignore_progress, since: int = FIRST_US
    ) -> Counts:
        """One pass: derive what is stale. `work`: an empty folder in the same file system as the output.

        With several threads, tables that do not read each other are derived at once.
        `before`, `since`: see `transforms.derived.plan.DerivePlan`.

        Raises:
            DamagedFile: a stored file cannot be read.
            BrokenSQL: the SQL or kernel of a table fails, as it would again.
            duckdb.Error: DuckDB failed otherwise.
            OutputFull: no space is left; what was written is whole.
        """
        counts, ended = Counts(), Event()
        chains = split_chains(self.tables) if self._limits.threads > 1 else [list(self.tables)]
        limits = self._limits.share(len(chains))
        with FileSnapshot(work) as snapshot, ThreadPoolExecutor(len(chains)) as pool:
            catalogs = self._read_stored(snapshot)

            def derive_chain(chain: Sequence[DerivedTable]) -> Iterator[Counts]:
                for table in chain:
                    found = self._compare(table, catalogs, before, snapshot, since)
                    yield from self._derive_table(found, snapshot, limits, work / table.table.name, follow)

            def run_chain(chain: Sequence[DerivedTable]) -> Counts:
                done = Counts()
                for part in derive_chain(chain):
                    done.add(part)
                    if ended.is_set():
                        break
                return done

            try:
                for each in as_completed([pool.submit(run_chain, chain) for chain in chains]):
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

    def _compare(
        self,
        table: DerivedTable,
        stored: Mapping[str, Catalog],
        before: int,
        snapshot: FileSnapshot | None,
        since: int,
    ) -> PlanComparison:
        made = [name for name in list_stored(table) if name not in stored]
        catalogs = {name: self._stored.read(find_stored_table(name), snapshot) for name in made}
        expiry = OutputFiles.of(self.output).ledger.expiry
        given = {**stored, **catalogs}
        plan = DerivePlan(table, given, self.settings, self._minutes, before, since, expiry)
        units, found = plan.list_units(), self._derived.read(table.table)
        stale = [unit for unit in units if not found.holds(unit)]
        surplus = found.list_surplus(units) if since == FIRST_US else []
        surplus = [file for file in surplus if not plan.is_closed(file)]
        return PlanComparison(plan, units, stale, surplus, found)

    def _derive_table(
        self, found: PlanComparison, snapshot: FileSnapshot, limits: DeriveLimits, spill: Path, follow: Follow
    ) -> Iterator[Counts]:
        """Derive what is stale of a table, and yield after each block what was done."""
        done, name = 0, found.plan.table.table.name
        for block in split_blocks(found.units, found.stale, limits.find_rows(found.plan.table)):
            follow(name, done, len(found.stale))
            done += len(block)
            try:
                rows = self._derive_block(found.plan, block, snapshot, limits, str(spill))
                read = sum(unit.rows for unit in block)
                yield Counts(written=len(block), read=read, rows={name: rows})
            except ChangedFile:
                yield Counts(changed=len(block))
        follow(name, done, len(found.stale))
        self._remove(found.plan.table.table, found.surplus)
        yield Counts(removed=len(found.surplus))

    def _remove(self, table: Table, names: Sequence[str]) -> None:
        self._write_parts(table, {name: FilePart(None, None) for name in names})

    def _derive_block(
        self,
        plan: DerivePlan,
        block: Sequence[DeriveUnit],
        snapshot: FileSnapshot,
        limits: DeriveLimits,
        spill: str,
    ) -> int:
        """Derive consecutive units with one run of the SQL; how many rows they have."""
        table, period = plan.table, Period(block[0].period.start, block[-1].period.end)
        files = choose_files(plan, plan.select(period))
        links = {
            name: {snapshot.link(*file): schema for file, schema in files.get(name, {}).items()}
            for name in list_stored(table)
        }
        with (
            explain_broken_sql(table),
            open_connection(limits.threads, limits.memory_mb, spill) as connection,
        ):
            for name, schemas in links.items():
                create_stored_view(connection, name, schemas)
            bind_inputs(connection, table, period, self.settings, block[0].cutoff, plan.expiry)
            rows = run_sql(connection, table, self.settings)
        return self._write(table, block, rows)

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
        self._write_parts(table.table, made)
        return sum(part.rows.num_rows for part in made.values() if part.rows is not None)

    def _write_parts(self, table: Table, parts: Mapping[str, FilePart]) -> None:
        """Write files of hours, or their rows into the files of sealed days. What has expired is dropped."""
        files, chosen = OutputFiles.of(self.output), defaultdict[OutputFile, dict[str, FilePart]](dict)
        for name, part in parts.items():
            if (file := files.find(name)) is not None:
                chosen[file][name] = part
        key = find_writing_key(LocalFolder(self.output))
        with ThreadPoolExecutor(_WRITERS) as pool:
            waiting = [
                pool.submit(write_file, table, file, own, self._minutes, key) for file, own in chosen.items()
            ]
            for each in waiting:
                each.result()
