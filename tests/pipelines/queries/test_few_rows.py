"""Pages that are made without DuckDB are those that its SQL gives."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.queries import few_rows
from pipelines.queries.few_rows import select_page
from pipelines.queries.query import Order, Parameter, Query, QueryInput
from pipelines.queries.registry import QUERIES
from pipelines.queries.run import run_query
from pipelines.queries.statement import write_statement
from schemas.tables import REPORTS
from tests.pipelines.queries.small_output import EVER, FILE_MINUTES, make_output
from tests.service import MOST, make_service
from transforms.core.time_range import Span

NOON = datetime(2025, 10, 20, 12, tzinfo=UTC)
COLUMNS = pa.schema(
    [("at", pa.timestamp("us", "UTC")), ("size", pa.float64()), ("name", pa.string()), ("id", pa.int64())]
)
PARAMETERS = (Parameter("name", "", "name = $name"), Parameter("least", "", "size >= $least"))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.none() | st.integers(0, 3).map(lambda hours: NOON + timedelta(hours=hours)),
            "size": st.none() | st.sampled_from([-0.5, 0.0, 1e-12, 2.0]),
            "name": st.none() | st.sampled_from(["", "a", "B", "b", "ä", "\U0001f600", "\uff5e"]),
        }
    ),
    max_size=12,
)
ORDERS = st.permutations(["at", "size", "name"]).flatmap(
    lambda names: st.tuples(*(st.builds(Order, st.just(name), st.booleans()) for name in names))
)


@given(ROWS, ORDERS, st.none() | st.integers(0, 11), st.integers(1, 4), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_page_of_rows_is_that_of_the_statement(
    rows: list[dict[str, Any]],
    order: tuple[Order, ...],
    after: int | None,
    count: int,
    has_name: bool,
    has_least: bool,
) -> None:
    rows = [{**row, "id": number} for number, row in enumerate(rows)]
    query = Query(
        "q",
        "",
        (QueryInput("rows", REPORTS),),
        "SELECT * FROM rows",
        COLUMNS,
        (*order, Order("id")),
        PARAMETERS,
    )
    given = {"name": "a" if has_name else None, "least": 1e-12 if has_least else None}
    place = None
    if after is not None and after < len(rows):
        place = [rows[after][each.column] for each in query.order]
    table = pa.Table.from_pylist(rows, COLUMNS)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("stored", table)
        views = {"rows": "SELECT * FROM stored"}
        statement = write_statement(query, query.sql, COLUMNS.names, views, given, place, count)
        expected = statement.fetch(connection).to_pylist()
    assert select_page(table, query, given, place, count).to_pylist() == expected


@pytest.mark.parametrize("query", QUERIES.values(), ids=lambda each: each.name)
def test_every_condition_compares_a_column(query: Query) -> None:
    for each in query.parameters:
        assert not each.condition or each.comparison is not None


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_output(tmp_path_factory.mktemp("few") / "out")


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("span", [EVER, Span(datetime(2025, 10, 20, 21, tzinfo=UTC), None)])
def test_a_lookup_has_the_same_pages_with_and_without_duckdb(
    limit: int, span: Span, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, means = QUERIES["reports-by-task"], make_service(output).means
    asked = query.parse({"task_id": "task 100"})
    limits = type(MOST)(limit, MOST.seconds, MOST.memory_mb)

    def list_pages() -> list[tuple[Any, ...]]:
        pages, cursor, is_first = [], None, True
        while is_first or cursor:
            answer = run_query(output, query, asked, span, FILE_MINUTES, limits, cursor, means=means)
            pages.append((answer.rows, answer.cursor, answer.files))
            cursor, is_first = answer.cursor, False
        return pages

    without = list_pages()
    monkeypatch.setattr(few_rows, "MOST_ROWS", 0)
    assert list_pages() == without
    assert sum(rows.num_rows for rows, *_ in without) == 3
