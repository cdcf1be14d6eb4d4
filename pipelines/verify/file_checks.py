"""Checks each file of an output by itself, and collects the fingerprints with which files are compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.verify.fingerprints import Prints
from pipelines.verify.table_scan import load, paths
from schemas.partitioning import assign_files
from schemas.tables import CLOSED, DISMISSED, DUPLICATES, QUARANTINED, REPORTS, Table
from transforms.core.errors import DamagedFile
from transforms.core.grouping import number_groups
from transforms.core.hashing import fingerprint_rows
from transforms.sinks.parquet.sealed_files import verify_file

MESSAGE_KEY = ("source", "message_id")
FATES = (REPORTS, DUPLICATES, QUARANTINED)
"""The tables that decide a fate. A message in several of them has the fate of the first."""
REBUILD = "run `kpiflow backfill --replace` over the messages of that hour"


@dataclass
class StoredPrints:
    """Fingerprints of what an output holds.

    `messages` and `reports` by table: (source, message_id) and report_id. Of quarantine, `messages` leaves
    out the rows that a replay `closed` or that were `dismissed`. `damaged` files prove nothing, so their
    messages have no fate.
    """

    damaged: set[Path] = field(default_factory=set)
    closed: list[Prints] = field(default_factory=list)
    dismissed: list[Prints] = field(default_factory=list)
    messages: dict[str, list[Prints]] = field(default_factory=lambda: {table.name: [] for table in FATES})
    reports: dict[str, list[Prints]] = field(default_factory=lambda: {table.name: [] for table in FATES})

    def add(self, table: Table, rows: pa.RecordBatch) -> None:
        """Add the rows of a file."""
        prints = fingerprint_rows([rows[name] for name in MESSAGE_KEY])
        if table == QUARANTINED:
            closed = np.asarray(pc.is_in(rows["resolution"], pa.array(CLOSED)))
            self.closed.append(prints[closed])
            self.dismissed.append(prints[np.asarray(pc.is_in(rows["resolution"], pa.array([DISMISSED])))])
            prints = prints[~closed]
        self.messages[table.name].append(prints)
        if "report_id" in rows.schema.names:
            self.reports[table.name].append(fingerprint_rows([rows["report_id"]]))


def check_file(
    output: Path, table: Table, path: Path, file_minutes: int, problems: list[str], prints: StoredPrints
) -> None:
    """Check one file, add what is wrong to `problems`, and add the fingerprints of its rows to `prints`."""
    name = path.relative_to(output).as_posix()
    if problem := verify_file(path):
        problems.append(f"{name} {problem}; move it away, then {REBUILD}")
        prints.damaged.add(path)
        return
    wanted = {*table.key, table.time, *MESSAGE_KEY, "report_id", "resolution"}
    try:
        rows = load(path, table, [column for column in table.schema.names if column in wanted])
    except DamagedFile as error:
        problems.append(str(error))
        prints.damaged.add(path)
        return
    codes, places = assign_files(table, rows, file_minutes)
    misplaced = np.array([place != name for place in places], dtype=bool)[codes]
    if misplaced.any():
        first = next(place for place in places if place != name)
        found = f"{misplaced.sum()} rows that belong elsewhere, first into {first}"
        problems.append(f"{name} holds {found}; move it away, then {REBUILD}")
    if repeats := rows.num_rows - len(np.unique(number_groups(rows, table.key))):
        found = f"{repeats} rows whose key another row has"
        problems.append(f"{name} holds {found}; move it away, then {REBUILD}")
    if table in FATES:
        prints.add(table, rows)


def load_undamaged(
    output: Path, table: Table, columns: Sequence[str], damaged: set[Path]
) -> Iterator[pa.RecordBatch]:
    """The named columns of the files of a table that are not damaged, a file at a time."""
    for path in paths(output, table):
        if path not in damaged:
            yield load(path, table, columns)


def join_prints(prints: Sequence[Prints]) -> Prints:
    """All fingerprints as one array, uint64[n, 2]."""
    return np.concatenate([np.zeros((0, 2), np.uint64), *prints])
