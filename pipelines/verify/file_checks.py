"""Checks each file of an output by itself, and collects the fingerprints with which files are compared."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.verify.record_keys import FATES, REPEATED
from pipelines.verify.stored_prints import StoredPrints
from pipelines.verify.table_scan import load, paths
from schemas.kinds import KINDS
from schemas.partitioning import assign_files
from schemas.tables import MESSAGE_KEY, RECORD_TABLES, Table
from transforms.core.errors import DamagedFile
from transforms.core.grouping import number_groups
from transforms.sinks.parquet.parquet_file import verify_file

REBUILD = "run `kpiflow backfill --replace` over the messages of that hour"
READ_AGAIN = "run `kpiflow backfill` over the source again"
_KINDS = pa.array(KINDS, pa.string())


def choose_fix(table: Table) -> str:
    """What brings the rows of a file back: records have no history, so reading them again is enough."""
    return READ_AGAIN if table.name in RECORD_TABLES else REBUILD


def check_file(
    output: Path, table: Table, path: Path, file_minutes: int, problems: list[str], prints: StoredPrints
) -> None:
    """Check one file, add what is wrong to `problems`, and add the fingerprints of its rows to `prints`."""
    name, fix = path.relative_to(output).as_posix(), f"move it away, then {choose_fix(table)}"
    if problem := verify_file(path):
        problems.append(f"{name} {problem}; {fix}")
        prints.damaged.add(path)
        return
    wanted = {*table.key, table.time, *MESSAGE_KEY, *REPEATED, "resolution"}
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
        problems.append(f"{name} holds {found}; {fix}")
    if repeats := rows.num_rows - len(np.unique(number_groups(rows, table.key))):
        problems.append(f"{name} holds {repeats} rows whose key another row has; {fix}")
    if unknown := _count_unknown_kinds(rows):
        problems.append(f"{name} holds {unknown} rows of an unknown kind; {fix}")
    if table in FATES:
        prints.add(table, rows)


def _count_unknown_kinds(rows: pa.RecordBatch) -> int:
    if "kind" not in rows.schema.names:
        return 0
    return int(np.count_nonzero(~np.asarray(pc.is_in(rows["kind"], _KINDS))))


def load_undamaged(
    output: Path, table: Table, columns: Sequence[str], damaged: set[Path]
) -> Iterator[pa.RecordBatch]:
    """The named columns of the files of a table that are not damaged, a file at a time."""
    for path in paths(output, table):
        if path not in damaged:
            yield load(path, table, columns)
