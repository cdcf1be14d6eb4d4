"""Makes the files of derived tables: what is stale is derived again, what has lost its rows is removed.

A pass compares the plan of each table (`transforms.derived.plan`) with the digests in the footers of its
files. It keeps nothing beside the files, so it can be killed anywhere and run again. Stored files may be
replaced while it runs: it reads them through hard links, and leaves what has changed since the plan to the
next pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from schemas.partitioning import assign_files
from schemas.readers.formats import FIRST_US, LAST_US
from transforms.core.durable_files import lock_folder, remove_file, replace_file
from transforms.core.record_batches import make_empty
from transforms.derived.derived_files import INPUTS, DerivedFiles
from transforms.derived.derived_table import Clock, DerivedTable
from transforms.derived.inputs import UNTIMED, Period, bind_inputs, list_stored
from transforms.derived.plan import Choices, Plan, Unit
from transforms.derived.registry import DERIVED, find_stored_table
from transforms.derived.run import open_connection, run_sql
from transforms.derived.snapshot import ChangedFile, Snapshot
from transforms.derived.stored_files import Catalog, StoredFile, StoredFiles
from transforms.derived.task_sets import TaskSet
from transforms.sinks.parquet.sealed_files import encode_file

_WRITERS = 2
_BY_TASK = ("tasks", "results", "claims")
"""Inputs of which only the rows of some tasks are read."""


@dataclass(frozen=True)
class Limits:
    """What deriving may use: threads, MB of DuckDB's memory, and reports of one run of the SQL, about."""

    threads: int = 1
    memory_mb: int = 400
    rows: int = 250_000

    def find_rows(self, table: DerivedTable) -> int:
        """Rows of one run. Those of reports are wide; of other messages few columns are read."""
        return self.rows if table.clock is Clock.RECORDED else 4 * self.rows


class Comparison(NamedTuple):
    """A derived table against its plan: units that are stale or missing, and files that should be gone."""

    plan: Plan
    units: list[Unit]
    stale: list[Unit]
    surplus: list[str]


@dataclass
class Counts:
    """What a pass did, by files: `changed` were left because a stored file was replaced in the meantime."""

    written: int = 0
    removed: int = 0
    changed: int = 0
    rows: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Counts") -> None:
        """Add what a further pass did."""
        self.written += other.written
        self.removed += other.removed
        self.changed = other.changed
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
        limits: Limits = Limits(),
        tables: Sequence[DerivedTable] = tuple(DERIVED.values()),
        indexed: bool = False,
    ) -> None:
        self.output, self.settings, self.tables = output, settings, tables
        self._minutes, self._limits = file_minutes, limits
        self._stored, self._derived = StoredFiles(output, file_minutes, indexed), DerivedFiles(output)

    def compare(
        self, before: int = LAST_US, snapshot: Snapshot | None = None, since: int = FIRST_US
    ) -> Iterator[Comparison]:
        """Each table against its plan. A table that reads another is compared after that is done with.

        Files that may change soon are kept in the snapshot, if there is one. With `since`, only spans that
        end later are compared, and no file is surplus.

        Raises:
            DamagedFile: a stored file cannot be read.
        """
        catalogs: dict[str, Catalog] = {}
        own = {each.table.name for each in self.tables}
        for table in self.tables:
            for name in list_stored(table):
                if name not in catalogs or name in own:
                    catalogs[name] = self._stored.read(find_stored_table(name), snapshot)
            plan = Plan(table, dict(catalogs), self.settings, self._minutes, before, since)
            units, found = plan.list_units(), self._derived.read(table.table)
            stale = [unit for unit in units if not found.holds(unit)]
            surplus = found.list_surplus(units) if since == FIRST_US else []
            yield Comparison(plan, units, stale, surplus)

    def derive(
        self, work: Path, before: int = LAST_US, follow: Follow = ignore_progress, since: int = FIRST_US
    ) -> Counts:
        """One pass: derive what is stale. `work`: an empty folder in the same file system as the output.

        `before`, `since`: see `transforms.derived.plan.Plan`.

        Raises:
            DamagedFile: a stored file cannot be read.
            BrokenSQL, duckdb.Error: the SQL failed.
            OutputFull: no space is left; what was written is whole.
        """
        counts = Counts()
        with Snapshot(self.output, work) as snapshot:
            for found in self.compare(before, snapshot, since):
                done, name = 0, found.plan.table.table.name
                for block in split_blocks(found.units, found.stale, self._limits.find_rows(found.plan.table)):
                    follow(name, done, len(found.stale))
                    done += len(block)
                    try:
                        rows = self._derive_block(found.plan, block, snapshot, str(work))
                        counts.rows[name] = counts.rows.get(name, 0) + rows
                        counts.written += len(block)
                    except ChangedFile:
                        counts.changed += len(block)
                follow(name, done, len(found.stale))
                self._remove(found.surplus)
                counts.removed += len(found.surplus)
        return counts

    def _remove(self, files: Sequence[str]) -> None:
        for file in files:
            with lock_folder((self.output / file).parent):
                remove_file(self.output / file)

    def _derive_block(self, plan: Plan, block: Sequence[Unit], snapshot: Snapshot, spill: str) -> int:
        """Derive consecutive units with one run of the SQL; how many rows they have."""
        table, period = plan.table, Period(block[0].period.start, block[-1].period.end)
        files = choose_files(plan, plan.select(period))
        links = {
            name: [snapshot.link(file.name, file.version) for file in files.get(name, [])]
            for name in list_stored(table)
        }
        with open_connection(self._limits.threads, self._limits.memory_mb, spill) as connection:
            for name, paths in links.items():
                _create_stored(connection, name, paths)
            bind_inputs(connection, table, period, self.settings, plan.before)
            rows = run_sql(connection, table)
        return self._write(table, block, rows)

    def _write(self, table: DerivedTable, block: Sequence[Unit], rows: pa.RecordBatch) -> int:
        """Write the files of the units; how many rows they have. Those that belong to none are dropped."""
        codes, names = assign_files(table.table, rows, self._minutes)
        order = np.argsort(codes, kind="stable")
        ends = np.cumsum(np.bincount(codes, minlength=len(names)))
        parts = dict(zip(names, np.split(order, ends[:-1]))) if names else {}

        def write(file: str, unit: Unit, count: int) -> int:
            part = rows.take(pa.array(parts[file])) if file in parts else make_empty(table.table.schema)
            data = encode_file(part, {INPUTS: f"{unit.digest} {count}".encode()})
            with lock_folder((self.output / file).parent):
                replace_file(self.output / file, data)
            return part.num_rows

        with ThreadPoolExecutor(_WRITERS) as pool:
            waiting = []
            for unit in block:
                files = sorted(parts) if unit.period == UNTIMED else unit.files
                waiting += [pool.submit(write, file, unit, len(files)) for file in files]
            return sum(each.result() for each in waiting)


def split_blocks(units: Sequence[Unit], stale: Sequence[Unit], rows: int) -> Iterator[list[Unit]]:
    """The stale units in blocks that are consecutive among all units and have about `rows` rows."""
    places = {unit.period: place for place, unit in enumerate(units)}
    block: list[Unit] = []
    for unit in stale:
        is_next = block and places[unit.period] == places[block[-1].period] + 1
        if block and (
            not is_next or unit.period == UNTIMED or sum(each.rows for each in block) + unit.rows > rows
        ):
            yield block
            block = []
        block.append(unit)
    if block:
        yield block


def choose_files(plan: Plan, choices: Choices) -> dict[str, list[StoredFile]]:
    """The stored files to read, by stored table, without those in which an index finds none of the tasks."""
    chosen: dict[str, dict[str, StoredFile]] = {}
    of_tasks = _BY_TASK if plan.table.clock is Clock.RECORDED else (*_BY_TASK, "kpi_reports")
    wanted = None if plan.table.clock is Clock.RECEIVED else _find_tasks(plan, choices)
    for name, (stored, places) in choices.items():
        files = plan.catalogs[stored].name_files(places)
        if wanted is not None and name.removeprefix("own ") in of_tasks:
            files = [file for file in files if wanted.meets(file.tasks)]
        chosen.setdefault(stored, {}).update({file.name: file for file in files})
    return {stored: list(files.values()) for stored, files in chosen.items()}


def _find_tasks(plan: Plan, choices: Choices) -> TaskSet | None:
    """The tasks of the reports, or of the inconsistencies; None if a file has no index."""
    name = "own reports" if plan.table.clock is Clock.RECORDED else "inconsistencies"
    stored, places = choices[name]
    hashes = [file.tasks for file in plan.catalogs[stored].name_files(places)]
    if any(each is None for each in hashes):
        return None
    return TaskSet([each for each in hashes if each is not None])


def _create_stored(connection: duckdb.DuckDBPyConnection, name: str, paths: Sequence[Path]) -> None:
    """The view `stored_NAME` over files, in the columns of the table; one that they lack is null."""
    schema = find_stored_table(name).schema
    connection.register(f"empty_{name}", schema.empty_table())
    if not paths:
        connection.execute(f"CREATE TEMP VIEW stored_{name} AS SELECT * FROM empty_{name}")
        return
    listed = ", ".join(f"'{path}'" for path in paths)
    source = f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"
    present = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
    lacking = [each for each in schema.names if each not in present]
    columns = ", ".join(f'"{each}"' for each in schema.names if each in present)
    text = f"SELECT {columns} FROM {source}"
    if lacking:
        text = f"SELECT * FROM ({text}) UNION ALL BY NAME SELECT * FROM empty_{name}"
    connection.execute(f"CREATE TEMP VIEW stored_{name} AS {text}")
