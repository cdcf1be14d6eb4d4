"""Which stored columns a column of a query's result is made of, as DuckDB plans it.

The plan of `SELECT column FROM (sql)` reads only the columns that it needs, those of filters and joins too.
So nothing is stated by hand, and a new query cannot show what nobody thought of. All optimisations but the
removal of unused columns are off: they would fold conditions for the values of this plan.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import duckdb

from pipelines.queries.query import ParameterKind, Query, list_inputs, list_sources

Columns = frozenset[tuple[str, str]]
"""Stored columns, each as table and name."""
_KEPT = ("unused_columns", "column_lifetime")
_EXAMPLES: dict[ParameterKind, Any] = {
    ParameterKind.TEXT: "",
    ParameterKind.INTEGER: 0,
    ParameterKind.NUMBER: 0.0,
    ParameterKind.TIME: datetime.fromtimestamp(0, UTC),
}


@dataclass(frozen=True)
class Lineage:
    """The stored columns of a query.

    `rows`: those that decide which rows there are. `columns`: those of each column of the result, `rows`
    among them. `conditions`: those of the condition of each parameter, `rows` among them.
    """

    rows: Columns
    columns: Mapping[str, Columns]
    conditions: Mapping[str, Columns]


@cache
def trace(query: Query) -> Lineage:
    """The stored columns of a query."""
    with duckdb.connect(":memory:") as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM duckdb_optimizers()").fetchall()]
        off = ",".join(name for name in names if name not in _KEPT)
        connection.execute(f"SET disabled_optimizers = '{off}'")
        for each in list_inputs(query):
            connection.register(f"empty_{each.name}", each.table.schema.empty_table())
            connection.execute(f'CREATE TABLE "{each.name}" AS SELECT * FROM empty_{each.name}')
        rows = _plan(connection, query, "SELECT count(*)") | _list_merged(query)
        columns = {name: _plan(connection, query, f'SELECT "{name}"', name) for name in query.columns.names}
        conditions = {
            each.name: _plan(connection, query, "SELECT count(*)", condition=each.condition)
            for each in query.parameters
            if each.condition
        }
    return Lineage(
        rows,
        {name: found | rows for name, found in columns.items()},
        {name: found | rows for name, found in conditions.items()},
    )


def _plan(
    connection: duckdb.DuckDBPyConnection,
    query: Query,
    selection: str,
    column: str = "",
    condition: str = "true",
) -> Columns:
    """The stored columns that a selection from the rows of a query reads, however these are made.

    `column`: the one that it selects, if it does.
    """
    lookup = query.find_lookup([column])
    found: set[tuple[str, str]] = set()
    for sql in list_sources(query):
        rows = lookup.join(sql) if lookup else sql
        found.update(_list_columns(connection, query, f"{selection} FROM ({rows}) WHERE {condition}"))
    return frozenset(found)


def _list_merged(query: Query) -> Columns:
    """The stored columns of windows that are merged before a statement reads them."""
    windows = query.windows
    return frozenset((windows.input.table.name, name) for name in windows.names) if windows else frozenset()


def _list_columns(
    connection: duckdb.DuckDBPyConnection, query: Query, text: str
) -> Iterator[tuple[str, str]]:
    """The stored columns that a statement reads."""
    used = set(re.findall(r"\$(\w+)", text))
    values = {
        each.name: each.choices[0] if each.choices else _EXAMPLES[each.kind]
        for each in query.parameters
        if each.name in used
    }
    row = connection.execute(f"EXPLAIN (FORMAT json) {text}", values).fetchone()
    assert row is not None
    tables = {each.name: each.table.name for each in list_inputs(query)}
    for node in json.loads(row[1]):
        yield from ((tables[source], column) for source, column in _list_scans(node, tables))


def _list_scans(node: Mapping[str, Any], tables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    facts = node["extra_info"]
    source = str(facts.get("Table", "")).rpartition(".")[2]
    if source in tables:
        read = facts.get("Projections", "")
        yield from ((source, name) for name in ([read] if isinstance(read, str) else read) if name)
    for child in node["children"]:
        yield from _list_scans(child, tables)
