"""Reads the tables of an output folder, file by file, in the current columns, whatever version wrote them."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.verify.output_description import translate_sink_errors
from schemas.kinds import REPORT_KIND
from schemas.tables import TABLES, Table
from transforms.core.record_batches import conform
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import DERIVE, REPLACE, describe_damage, read_file


def list_files(output: Path, table: Table) -> list[OutputFile]:
    """The files of a table, in order of their names."""
    with translate_sink_errors():
        return OutputFiles.of(output).list_table(table)


def load(file: OutputFile, table: Table, columns: Sequence[str] | None = None) -> pa.RecordBatch:
    """The rows of a file in the table's columns, or the named ones. A column that the file lacks is null.

    Raises:
        transforms.core.errors.DamagedFile: it is not a readable Parquet file, or not a file of this table.
    """
    schema = table.schema if columns is None else pa.schema([table.schema.field(name) for name in columns])
    fix = REPLACE if table.name in TABLES else DERIVE
    try:
        with translate_sink_errors():
            stored = file.open()
        rows = read_file(stored, schema.names, name=str(file), fix=fix)
        return _name_kinds(conform(rows, schema))
    except FileNotFoundError as error:
        if file.is_day:
            raise describe_damage(str(file), "is missing", fix) from error
        raise
    except pa.ArrowException as error:
        raise describe_damage(str(file), f"does not hold {table.name}: {error}", fix) from error


def _name_kinds(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with their kind. Versions that knew only reports left it out."""
    place = rows.schema.get_field_index("kind")
    if place < 0 or not rows["kind"].null_count:
        return rows
    return rows.set_column(place, rows.schema.field(place), pc.fill_null(rows["kind"], REPORT_KIND.schema))


def scan(output: Path, table: Table, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a table, a file at a time. See `load`."""
    for file in list_files(output, table):
        yield load(file, table, columns)


Partitions = dict[str, list[OutputFile]]
"""Files of a table by their span of time."""


def partition(*tables: tuple[Path, Table]) -> list[Partitions]:
    """The files of each span of time, of each of some tables; names of spans are the same in all of them.

    A span is an hour (`date=2025-10-22/hour=12/`), whatever `file_minutes` is. It is a day, if one of the
    tables has the day in one file; for windows of 1 h it always is, because layout 1 kept a day in one file.
    A table without a time has the same files in all outputs. Names are those of the current layout.
    """
    found = [_partition(output, table) for output, table in tables]
    days = {name for each in found for name in each if _DAY.search(name)}
    return [_join_days(each, days) for each in found] if days else found


def _partition(output: Path, table: Table) -> Partitions:
    found: Partitions = defaultdict(list)
    for file in list_files(output, table):
        name = file.name.removeprefix(f"{table.name}/")
        if table.time:
            for older, current in _CURRENT_NAMES:
                name = re.sub(older, current, name)
            name = f"{name.rpartition('/')[0]}/"
        found[name].append(file)
    return dict(found)


def _join_days(partitions: Partitions, days: set[str]) -> Partitions:
    joined: Partitions = defaultdict(list)
    for name, files in partitions.items():
        day = name[: name.find("/hour=") + 1] or name
        joined[day if day in days else name] += files
    return dict(joined)


_DAY = re.compile(r"date=[0-9-]+/$")
_CURRENT_NAMES = (
    (r"^granularity=1h/([0-9-]+)\.parquet$", r"window_size=1h/date=\1/"),
    (r"^granularity=1m/(date=[0-9-]+)/(\d\d)\.parquet$", r"window_size=1m/\1/hour=\2/"),
    (r"^granularity=5s/", "window_size=5s/"),
    (r"^date=unknown/([^/]+)\.parquet$", "date=unknown/hour=unknown/"),
    (r"^(window_size=1h/date=[0-9-]+)/.*$", r"\1/"),
)
"""Paths of layout 1 and their form in layout 2, and windows of 1 h by day."""
