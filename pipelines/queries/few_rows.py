"""Pages of few rows, which are had sooner than DuckDB has made a plan: merged windows, and a row of a file.

A page has the rows that the SQL of `pipelines.queries.statement` gives.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.queries.connections import DESCRIPTORS
from pipelines.queries.open_files import open_files
from pipelines.queries.query import Order, Query, Value
from pipelines.queries.selection import Part, Selection
from transforms.core.errors import Refused
from transforms.core.record_batches import conform_table
from transforms.core.time_range import keep_within
from transforms.sinks.parquet.parquet_file import open_parquet

MOST_ROWS = 5_000
"""Rows of the files that are read here: of more, DuckDB reads only what it needs."""
_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "<=": pc.less_equal,
    ">=": pc.greater_equal,
    "<": pc.less,
    ">": pc.greater,
}


class ResultPage(NamedTuple):
    """Rows of a result, and how many files were opened for them."""

    rows: pa.Table
    files: int


def read_page(
    selection: Selection, query: Query, parameters: Mapping[str, Value | None], count: int, part: Part
) -> ResultPage | None:
    """The first `count` rows of a result; None where DuckDB has to make them."""
    if selection.covered is not None and query.windows is not None and not selection.files:
        names, sources = zip(*query.windows.columns)
        rows = selection.covered.merge(None).select(list(sources)).rename_columns(list(names))
        found = ResultPage(rows, selection.covered.files)
    elif selection.are_few and query.is_plain and not part.conditions:
        read = _read_files(selection, query, parameters)
        if read is None:
            return None
        found = read
    else:
        return None
    page = select_page(found.rows, query, parameters, selection.after, count)
    return ResultPage(conform_table(page, selection.columns), found.files)


def select_page(
    rows: pa.Table,
    query: Query,
    parameters: Mapping[str, Value | None],
    after: Sequence[Any] | None,
    count: int,
) -> pa.Table:
    """The first `count` rows, in the order of a query, that meet its parameters and come after a place."""
    rows = _filter(rows, query, parameters)
    keys = [(each.column, "descending" if each.descending else "ascending", "at_end") for each in query.order]
    places = pc.sort_indices(rows, sort_keys=keys)
    first = 0
    if after is not None:
        columns = [rows[each.column] for each in query.order]

        def is_after(place: int) -> bool:
            row = [column[places[place].as_py()].as_py() for column in columns]
            return _is_after(query.order, row, after)

        first = bisect_right(range(rows.num_rows), False, key=is_after)
    return rows.take(places.slice(first, count))


def _filter(rows: pa.Table, query: Query, parameters: Mapping[str, Value | None]) -> pa.Table:
    for each in query.parameters:
        if each.comparison is not None and parameters[each.name] is not None:
            column, sign = each.comparison
            rows = rows.filter(_SIGNS[sign](rows[column], parameters[each.name]))
    return rows


def _is_after(order: Sequence[Order], row: Sequence[Any], place: Sequence[Any]) -> bool:
    """Whether a row comes after a place in an order; nulls are last."""
    for each, value, other in zip(order, row, place):
        if value != other:
            if value is None or other is None:
                return value is None
            return bool((value < other) if each.descending else (value > other))
    return False


def _read_files(
    selection: Selection, query: Query, parameters: Mapping[str, Value | None]
) -> ResultPage | None:
    """The rows of small files that meet the parameters of a query; None if a file is not small, or cannot be
    read: DuckDB says which one then."""
    (source,) = query.inputs
    (span,) = selection.spans[source]
    parts: list[pa.RecordBatch] = []
    left = MOST_ROWS
    with open_files(selection.distinct) as opened:
        for number in opened.values():
            try:
                with open_parquet(Path(f"{DESCRIPTORS}{number}")) as parquet:
                    left -= parquet.metadata.num_rows
                    if left < 0:
                        return None
                    rows = parquet.read(use_threads=False).replace_schema_metadata().combine_chunks()
            except (OSError, ValueError, pa.ArrowException, Refused):
                return None
            found = _filter(conform_table(rows, source.table.schema), query, parameters)
            for batch in found.to_batches():
                parts += keep_within(batch, span, source.table.time)
    return ResultPage(pa.Table.from_batches(parts, source.table.schema), len(opened))
