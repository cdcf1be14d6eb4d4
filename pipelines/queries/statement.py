"""The SQL of a page of a query, over files that are open."""

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from pipelines.queries.connections import DESCRIPTORS
from pipelines.queries.cursor import write_condition
from pipelines.queries.query import Query, QueryInput, Value
from transforms.core.time_range import Span
from transforms.sinks.parquet.parquet_file import is_encrypted, open_dataset

warnings.filterwarnings("ignore", "Arrow output on a DB-API result", UserWarning)


class Statement(NamedTuple):
    """SQL, and the values that it binds by name."""

    text: str
    values: Mapping[str, Any] = {}

    def fetch(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        """Its rows."""
        # DuckDB advises `sql`, to copy no rows; but that binds a statement twice. A query of a small output
        # then takes 112 ms of CPU and not 90, and a copy of a million rows takes 12 ms.
        return connection.execute(self.text, self.values).to_arrow_table()


def write_view(
    connection: duckdb.DuckDBPyConnection,
    source: QueryInput,
    descriptors: Sequence[int],
    spans: Sequence[Span],
    are_whole: bool,
) -> str:
    """SQL of an input over open files, in the columns of its table.

    `are_whole`: each column is in one of the files at least, or the SQL cannot be bound. Else one that they
    lack is null; to look for it takes half as long as a small query.
    """
    paths = [Path(f"{DESCRIPTORS}{number}") for number in descriptors]
    if not paths:
        text = write_rows(connection, source)
    elif is_encrypted(paths[0]):
        connection.register(f"stored_{source.name}", open_dataset(paths, source.table.schema))
        text = f"SELECT * FROM stored_{source.name}"
    else:
        listed = list(map(str, paths))
        files = f"read_parquet({listed}, union_by_name = true, hive_partitioning = false)"
        names = source.table.schema.names
        if not are_whole:
            found = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {files}").fetchall()}
            names = [name for name in names if name in found]
        columns = ", ".join(f'"{name}"' for name in names)
        text = f"SELECT {columns} FROM {files}"
        if len(names) < len(source.table.schema):
            text = f"SELECT * FROM ({text}) UNION ALL BY NAME {write_rows(connection, source)}"
    return f"SELECT * FROM ({text}) WHERE {_within(source, spans)}"


def write_rows(
    connection: duckdb.DuckDBPyConnection, source: QueryInput, rows: pa.Table | None = None
) -> str:
    """SQL of rows in memory; without them of no rows, in the columns of a table. It takes 2 ms."""
    name = f"rows_of_{source.name}"
    connection.register(name, source.table.schema.empty_table() if rows is None else rows)
    return f"SELECT * FROM {name}"


def _within(source: QueryInput, spans: Sequence[Span]) -> str:
    """SQL: whether a row of the table is in one of the spans."""
    choices = [f"{source.table.time} IS NULL"]
    for span in spans:
        bounds = [
            f"{source.table.time} {sign} '{moment.isoformat()}'::TIMESTAMPTZ"
            for sign, moment in ((">=", span.start), ("<", span.end))
            if moment is not None
        ]
        if not bounds:
            return "true"
        choices.append(f"({' AND '.join(bounds)})")
    return f"({' OR '.join(choices)})"


def write_views(views: Mapping[str, str]) -> str:
    """The begin of a statement, by which it can name views."""
    return f"WITH {', '.join(f'{name} AS ({view})' for name, view in views.items())}"


def write_statement(
    query: Query,
    sql: str,
    columns: Collection[str],
    views: Mapping[str, str],
    parameters: Mapping[str, Value | None],
    after: Sequence[Any] | None,
    count: int,
) -> Statement:
    """SQL of the first `count` rows of a result after a place in it.

    `sql`: of all rows of the query. `views`: the SQL of each view in it.
    """
    conditions = [
        each.condition for each in query.parameters if each.condition and parameters[each.name] is not None
    ]
    bound: dict[str, Any] = {}
    if after is not None:
        condition, bound = write_condition(query.order, after)
        conditions.append(condition)
    lookup = query.find_lookup(columns)
    names = ", ".join(f'"{name}"' for name in columns if lookup is None or name != lookup.column)
    order = "ORDER BY " + ", ".join(
        f'"{each.column}" {"DESC" if each.descending else "ASC"} NULLS LAST' for each in query.order
    )
    page = f"SELECT {names} FROM ({sql}) WHERE {' AND '.join(conditions) or 'true'} {order} LIMIT {count}"
    if lookup is not None:
        page = f"{lookup.join(page)} {order}"
    text = f"{write_views(views)} {page}"
    values = {**parameters, **bound}
    return Statement(text, {name: values[name] for name in set(re.findall(r"\$(\w+)", text)) & set(values)})
