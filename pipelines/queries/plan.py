"""How DuckDB runs a query: its steps, with what each gave and how long it took."""

import json
from collections.abc import Iterator, Mapping, Sequence
from textwrap import shorten
from typing import Any, NamedTuple

import duckdb

from pipelines.queries.statement import Statement
from transforms.core.counts import format_count

_DETAILS = ("Join Type", "Conditions", "Filters", "Expression", "Groups", "Order By", "Top")
"""What DuckDB says of a step that is kept, in this order. Names of files are not: they are descriptors."""
_LONGEST = 80
"""Characters of a detail in a text."""


class QueryStep(NamedTuple):
    """A step of a plan, which reads what the steps behind it that are one deeper give.

    `rows` that it gave; `seconds` of CPU time in it; `detail`: what it reads, joins, filters or sorts by.
    """

    depth: int
    name: str
    rows: int
    seconds: float
    detail: str


class QueryPlan(NamedTuple):
    """How a query was run: how many files it opened, and its steps, the last one first.

    Steps that only choose columns are left out.
    """

    files: int
    steps: Sequence[QueryStep]

    def list_lines(self) -> Iterator[str]:
        """The plan as text."""
        yield f"{format_count(self.files, 'file')} opened"
        for step in self.steps:
            rows = format_count(step.rows, "row")
            head = f"{'  ' * step.depth}{step.name}: {rows}, {step.seconds * 1000:.1f} ms"
            yield f"{head}  {shorten(step.detail, _LONGEST)}".rstrip()


def measure_steps(connection: duckdb.DuckDBPyConnection, statement: Statement) -> list[QueryStep]:
    """Run a statement and return its steps."""
    explain = f"EXPLAIN (ANALYZE, FORMAT json) {statement.text}"
    (row,) = connection.execute(explain, statement.values).fetchall()
    root = json.loads(row[1])["operator"][0]
    while root["type"] in ("RESULT_COLLECTOR", "EXPLAIN_ANALYZE"):
        (root,) = root["children"]
    return list(_list_steps(root, 0))


def _list_steps(node: Mapping[str, Any], depth: int) -> Iterator[QueryStep]:
    known = node["extra_info"]
    detail = "; ".join(_write_detail(known[name]) for name in _DETAILS if known.get(name))
    is_step = node["type"] != "PROJECTION"
    if is_step:
        yield QueryStep(depth, node["name"].strip(), node["intermediate_rows"], node["timing"], detail)
    for child in node.get("children", ()):
        yield from _list_steps(child, depth + is_step)


def _write_detail(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return " ".join(text.split())
