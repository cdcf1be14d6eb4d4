"""Runs the SQL of a derived table in DuckDB, and its kernel."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import Table
from transforms.core.grouping import number_groups, sort_by_columns
from transforms.core.record_batches import concat, conform, conform_table, make_empty
from transforms.derived.bounds import EVER, Period
from transforms.derived.derived_table import DerivedTable
from transforms.derived.inputs import bind_inputs, list_stored
from transforms.derived.registry import find_stored_table

THREADS, MEMORY_MB = 1, 512


class BrokenSQL(Exception):  # noqa: N818 (a fault of the program, not of data)
    """The SQL or kernel of a derived table gave a key twice or other types, or cannot use a value."""


def derive_rows(
    table: DerivedTable,
    stored: Mapping[str, pa.Table],
    settings: Mapping[str, Any],
    period: Period = EVER,
    threads: int = THREADS,
) -> pa.RecordBatch:
    """The rows of a derived table for a span, from stored tables in memory: for tests of its SQL.

    Args:
        stored: by the name of the table (kpi_reports, tasks, ...), in any of its columns; a column that is
            missing is null, a table that is missing is empty.
        settings: by name; all that the SQL and the inputs use.
        period: the span; all reports by default.

    Returns: rows in the table's columns and file order, as the engine writes them.

    Raises:
        BrokenSQL: two rows have one key, or a column does not fit its type.
    """
    with open_connection(threads) as connection:
        for name in list_stored(table):
            schema = find_stored_table(name).schema
            given = stored.get(name, schema.empty_table())
            connection.register(f"arrow_{name}", conform_table(given.combine_chunks(), schema))
            connection.execute(f"CREATE TEMP VIEW stored_{name} AS SELECT * FROM arrow_{name}")
        bind_inputs(connection, table, period, settings)
        rows = run_sql(connection, table, settings)
        return rows.take(sort_file(table.table, rows))


def open_connection(
    threads: int = THREADS, memory_mb: int = MEMORY_MB, spill: str | None = None
) -> duckdb.DuckDBPyConnection:
    """A DuckDB of its own in memory; what does not fit into `memory_mb` is written to the folder `spill`."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": threads,
        "memory_limit": f"{memory_mb}MB",
        "autoinstall_known_extensions": False,
        "preserve_insertion_order": False,
        "temp_directory": spill or "",
    }
    connection = duckdb.connect(":memory:", config=config)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def run_sql(
    connection: duckdb.DuckDBPyConnection, table: DerivedTable, settings: Mapping[str, Any]
) -> pa.RecordBatch:
    """The rows of a derived table over its inputs, in the table's columns, in any order.

    Raises: as `derive_rows`.
    """
    schema, maker = table.table.schema, "SQL"
    found = connection.sql(table.sql).to_arrow_table()
    if table.kernel is not None:
        found, maker = table.kernel.compute(found, settings), "kernel"
    if missing := [name for name in schema.names if name not in found.schema.names]:
        raise BrokenSQL(f"the {maker} of {table.table.name} lacks columns: {', '.join(missing)}")
    try:
        batches = [conform(batch, schema) for batch in found.to_batches()]
    except pa.ArrowException as error:
        raise BrokenSQL(f"the {maker} of {table.table.name} gives columns of other types: {error}") from error
    rows = concat(batches) if batches else make_empty(schema)
    if _count_keys(rows, table.table.key) < rows.num_rows:
        raise BrokenSQL(
            f"the {maker} of {table.table.name} gives rows with the same {', '.join(table.table.key)}"
        )
    return rows


@contextmanager
def explain_broken_sql(table: DerivedTable) -> Iterator[None]:
    """Raise BrokenSQL, which names the table, in place of the errors of DuckDB that rows or SQL cause."""
    try:
        yield
    except (duckdb.DataError, duckdb.ProgrammingError) as error:
        first = str(error).partition("\n")[0]
        raise BrokenSQL(f"the SQL of {table.table.name} fails: {first}") from error


def sort_file(table: Table, rows: pa.RecordBatch) -> pa.Array:
    """int64[n]: the rows in the order of a file of the table."""
    return pa.array(sort_by_columns(rows.select(table.file_order), table.file_order))


def _count_keys(rows: pa.RecordBatch, key: tuple[str, ...]) -> int:
    if len(key) == 1:
        return pc.count_distinct(rows[key[0]], mode="all").as_py()
    return len(np.unique(number_groups(rows, key)))
