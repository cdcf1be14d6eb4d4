"""Reads the tables of an output folder, file by file, in the current columns, whatever version wrote them."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from schemas.kinds import REPORT_KIND
from schemas.tables import TABLES, Table
from transforms.core.record_batches import conform
from transforms.sinks.parquet.parquet_file import DERIVE, REPLACE, describe_damage, read_file


def paths(output: Path, table: Table) -> list[Path]:
    """The complete files of a table, in order of their names."""
    return sorted(path for path in (output / table.name).rglob("*.parquet") if not path.name.startswith("."))


def load(path: Path, table: Table, columns: Sequence[str] | None = None) -> pa.RecordBatch:
    """The rows of a file in the table's columns, or the named ones. A column that the file lacks is null.

    Raises:
        transforms.core.errors.DamagedFile: it is not a readable Parquet file, or not a file of this table.
    """
    schema = table.schema if columns is None else pa.schema([table.schema.field(name) for name in columns])
    fix = REPLACE if table.name in TABLES else DERIVE
    try:
        return _name_kinds(conform(read_file(path, schema.names, fix=fix), schema))
    except pa.ArrowException as error:
        raise describe_damage(path, f"does not hold {table.name}: {error}", fix) from error


def _name_kinds(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with their kind. Versions that knew only reports left it out."""
    place = rows.schema.get_field_index("kind")
    if place < 0 or not rows["kind"].null_count:
        return rows
    return rows.set_column(place, rows.schema.field(place), pc.fill_null(rows["kind"], REPORT_KIND.schema))


def scan(output: Path, table: Table, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a table, a file at a time. See `load`."""
    for path in paths(output, table):
        yield load(path, table, columns)


def partitions(output: Path, table: Table) -> dict[str, list[Path]]:
    """The files of each span of time, by a name that is the same in all outputs.

    The name is their folder (`kpi_reports/date=2025-10-22/hour=12`), which does not depend on `file_minutes`;
    for windows of 1 h it is the folder of the day, because layout 1 kept a day in one file. A table without
    a time has the same files in all outputs. Names are those of the current layout.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths(output, table):
        name = path.relative_to(output).as_posix()
        if table.time is None:
            found[name] = [path]
            continue
        for older, current in _CURRENT_NAMES:
            name = re.sub(older, current, name)
        found[name.rpartition("/")[0]].append(path)
    return dict(found)


_CURRENT_NAMES = (
    (r"/granularity=1h/([0-9-]+)\.parquet$", r"/window_size=1h/date=\1/"),
    (r"/granularity=1m/(date=[0-9-]+)/(\d\d)\.parquet$", r"/window_size=1m/\1/hour=\2/"),
    (r"/granularity=5s/", "/window_size=5s/"),
    (r"/date=unknown/([^/]+)\.parquet$", "/date=unknown/hour=unknown/"),
    (r"(/window_size=1h/date=[0-9-]+)/.*$", r"\1/"),
)
"""Paths of layout 1 and their form in layout 2, and windows of 1 h by day."""
