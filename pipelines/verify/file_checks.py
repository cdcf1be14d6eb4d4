"""Checks each file of an output by itself, and collects the fingerprints with which files are compared."""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.verify.record_keys import FATES, REPEATED
from pipelines.verify.stored_prints import StoredPrints
from pipelines.verify.table_scan import list_files, load
from schemas.kinds import KINDS
from schemas.partitioning import assign_files
from schemas.tables import MESSAGE_KEY, RECORD_TABLES, Table
from transforms.core.counts import format_count
from transforms.core.errors import DamagedFile
from transforms.core.grouping import number_groups
from transforms.sinks.parquet.output_files import OutputFile
from transforms.sinks.parquet.parquet_file import verify_file

REBUILD = "run `kpiflow backfill --replace` over the messages of that hour"
READ_AGAIN = "run `kpiflow backfill` over the source again"
_KINDS = pa.array(KINDS, pa.string())


def choose_fix(table: Table) -> str:
    """What brings the rows of a file back: records have no history, so reading them again is enough."""
    return READ_AGAIN if table.name in RECORD_TABLES else REBUILD


def check_file(
    table: Table,
    file: OutputFile,
    file_minutes: int,
    is_encrypted: bool,
    problems: list[str],
    prints: StoredPrints,
) -> None:
    """Check one file, add what is wrong to `problems`, and add the fingerprints of its rows to `prints`.

    `is_encrypted`: whether all files of the output have to be.
    """
    name, fix = file.name, f"move it away, then {choose_fix(table)}"
    if problem := verify_file(file.open(), is_encrypted):
        problems.append(f"{name} {problem}; {fix}")
        prints.damaged.add(file)
        return
    wanted = {*table.key, table.time, *MESSAGE_KEY, *REPEATED, "resolution"}
    try:
        rows = load(file, table, [column for column in table.schema.names if column in wanted])
    except DamagedFile as error:
        problems.append(str(error))
        prints.damaged.add(file)
        return
    codes, places = assign_files(table, rows, file_minutes)
    elsewhere = [not file.holds(place) for place in places]
    misplaced = np.array(elsewhere, dtype=bool)[codes]
    if misplaced.any():
        first = places[elsewhere.index(True)]
        found = f"{format_count(misplaced.sum(), 'row')} of another file, first of {first}"
        problems.append(f"{name} holds {found}; {fix}")
    if repeats := rows.num_rows - len(np.unique(number_groups(rows, table.key))):
        problems.append(f"{name} holds {format_count(repeats, 'row')} whose key another row has; {fix}")
    if unknown := _count_unknown_kinds(rows):
        problems.append(f"{name} holds {format_count(unknown, 'row')} of an unknown kind; {fix}")
    if table in FATES:
        prints.add(table, rows)


def _count_unknown_kinds(rows: pa.RecordBatch) -> int:
    if "kind" not in rows.schema.names:
        return 0
    return int(np.count_nonzero(~np.asarray(pc.is_in(rows["kind"], _KINDS))))


def load_undamaged(
    output: Path, table: Table, columns: Sequence[str], damaged: Set[OutputFile]
) -> Iterator[pa.RecordBatch]:
    """The named columns of the files of a table that are not damaged, a file at a time."""
    for file in list_files(output, table):
        if file not in damaged:
            yield load(file, table, columns)
