"""The SQL of a page of a query, over files that are open."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from pipelines.queries.connections import DESCRIPTORS
from pipelines.queries.cursor import write_condition
from pipelines.queries.query import Input, Query, Value
from transforms.core.time_range import Span
from transforms.sinks.parquet.parquet_file import is_encrypted, open_dataset


class Statement(NamedTuple):
    """SQL, and the values that it binds by name."""

    text: str
    values: dict[str, Any]


def write_view(
    connection: duckdb.DuckDBPyConnection, source: Input, descriptors: Sequence[int], spans: Sequence[Span]
) -> str:
    """SQL of an input over open files, in the columns of its table; one that they lack is null."""
    paths = [Path(f"{DESCRIPTORS}{number}") for number in descriptors]
    if not paths:
        text = write_rows(connection, source)
    elif is_encrypted(paths[0]):
        connection.register(f"stored_{source.name}", open_dataset(paths, source.table.schema))
        text = f"SELECT * FROM stored_{source.name}"
    else:
        listed = list(map(str, paths))
        files = f"read_parquet({listed}, union_by_name = true, hive_partitioning = false)"
        present = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {files}").fetchall()}
        names = [name for name in source.table.schema.names if name in present]
        columns = ", ".join(f'"{name}"' for name in names)
        text = f"SELECT {columns} FROM {files}"
        if len(names) < len(source.table.schema):
            text = f"SELECT * FROM ({text}) UNION ALL BY NAME {write_rows(connection, source)}"
    return f"SELECT * FROM ({text}) WHERE {_within(source, spans)}"


def write_rows(connection: duckdb.DuckDBPyConnection, source: Input, rows: pa.Table | None = None) -> str:
    """SQL of rows in memory; without them of no rows, in the columns of a table. It takes 2 ms."""
    name = f"rows_of_{source.name}"
    connection.register(name, source.table.schema.empty_table() if rows is None else rows)
    return f"SELECT * FROM {name}"


def _within(source: Input, spans: Sequence[Span]) -> str:
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


def write_statement(
    query: Query,
    columns: Collection[str],
    views: Mapping[str, str],
    parameters: Mapping[str, Value | None],
    after: Sequence[Any] | None,
    count: int,
) -> Statement:
    """SQL of the first `count` rows of a result after a place in it. `views`: the SQL of each input."""
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
    page = (
        f"SELECT {names} FROM ({query.sql}) WHERE {' AND '.join(conditions) or 'true'} {order} LIMIT {count}"
    )
    if lookup is not None:
        page = f"{lookup.join(page)} {order}"
    text = f"WITH {', '.join(f'{name} AS ({view})' for name, view in views.items())} {page}"
    values = {**parameters, **bound}
    return Statement(text, {name: values[name] for name in set(re.findall(r"\$(\w+)", text)) & set(values)})
