"""Reading the tables of an output folder, file by file: the rows in the table's columns, whatever version wrote them."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from schemas.tables import Table
from transforms.core.record_batches import conform
from transforms.sinks.parquet.sealed_files import describe_damage, read_file


def paths(output: Path, table: Table) -> list[Path]:
    """The files of a table, in the order of their names; unfinished ones are not among them."""
    return sorted(path for path in (output / table.name).rglob("*.parquet") if not path.name.startswith("."))


def load(path: Path, table: Table, columns: Sequence[str] | None = None) -> pa.RecordBatch:
    """The rows of a file in the table's columns, or in the named ones; a column that the file does not have is null.

    Raises:
        transforms.core.errors.DamagedFile: it is no readable Parquet file, or not one of this table.
    """
    schema = table.schema if columns is None else pa.schema([table.schema.field(name) for name in columns])
    try:
        return conform(read_file(path, schema.names), schema)
    except pa.ArrowException as error:
        raise describe_damage(path, f"does not hold {table.name}: {error}") from error


def scan(output: Path, table: Table, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a table, a file at a time; see `load`."""
    for path in paths(output, table):
        yield load(path, table, columns)


def partitions(output: Path, table: Table) -> dict[str, list[Path]]:
    """The files that hold the same span of time in every output, by a name that does not depend on `file_minutes`.

    It is their folder (`kpi_reports/date=2025-10-22/hour=12`), and that of the day for windows of an hour, which layout 1 kept in
    one file. The names are those of the present layout, whichever the output has.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths(output, table):
        name = path.relative_to(output).as_posix()
        for older, present in _PRESENT:
            name = re.sub(older, present, name)
        found[name.rpartition("/")[0]].append(path)
    return dict(found)


_PRESENT = (
    (r"/granularity=1h/([0-9-]+)\.parquet$", r"/window_size=1h/date=\1/"),
    (r"/granularity=1m/(date=[0-9-]+)/(\d\d)\.parquet$", r"/window_size=1m/\1/hour=\2/"),
    (r"/granularity=5s/", "/window_size=5s/"),
    (r"/date=unknown/([^/]+)\.parquet$", "/date=unknown/hour=unknown/"),
    (r"(/window_size=1h/date=[0-9-]+)/.*$", r"\1/"),
)
"""Paths of layout 1, and what they are in layout 2; and windows of an hour by the day."""
