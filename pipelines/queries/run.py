"""Runs a named query over an output folder."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb
import pyarrow as pa

from pipelines.failures import RunFailed
from pipelines.queries.connections import DESCRIPTORS
from pipelines.queries.cursor import format_cursor
from pipelines.queries.few_rows import ResultPage, read_page
from pipelines.queries.limits import USUAL, QueryLimits
from pipelines.queries.means import ONCE, Covered, Means
from pipelines.queries.open_files import open_files
from pipelines.queries.plan import QueryPlan, measure_steps
from pipelines.queries.query import Query, QueryWindows, Value
from pipelines.queries.selection import WHOLE, Part, Selection, select_files
from pipelines.queries.statement import Statement, write_rows, write_statement, write_view, write_views
from pipelines.queries.stop import QueryStopped, Stop
from transforms.core.record_batches import conform_table
from transforms.core.time_range import Span
from transforms.sinks.parquet.output_files import OutputFile

Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """A page of a result.

    `rows` has the query's columns in its order. `cursor`: where the next page begins; None if this is the
    last. `files`: how many files were opened. `withheld`: columns that are left out of the rows.
    """

    query: Query
    asked: Mapping[str, Any]
    rows: pa.Table
    cursor: str | None
    files: int
    withheld: tuple[str, ...] = ()


def run_query(
    folder: Path,
    query: Query,
    parameters: Mapping[str, Value | None],
    span: Span,
    file_minutes: int,
    limits: QueryLimits = USUAL,
    cursor: str | None = None,
    stop: Stop | None = None,
    part: Part = WHOLE,
    means: Means = ONCE,
) -> Answer:
    """The page of a query that begins after a cursor, or its first page.

    Args:
        folder: the output.
        parameters: one value for each parameter of the query, as `Query.parse` gives them.
        span: which rows of the inputs count, by the time of their table; a row without a time does.
        file_minutes: the setting of the output.
        stop: stops the query from another thread.
        part: what of it is read; the columns of its order must be.
        means: what a process that answers many queries keeps between them.

    Raises:
        WrongUse: the cursor is not of this query.
        QueryStopped: the query needs more time or memory than it may, or was stopped.
        RunFailed: it needs more files than it may, or a file cannot be read.
    """
    stop = stop or Stop()
    selection = select_files(folder, query, parameters, span, file_minutes, cursor, part, means)
    found = read_page(selection, query, parameters, limits.rows + 1, part)
    if found is None:
        with _prepare(selection, query, parameters, limits, stop, part, means) as prepared:
            rows = prepared.run(lambda statement: statement.fetch(prepared.connection))
            found = ResultPage(conform_table(rows, selection.columns), prepared.files)
    return _make_answer(query, selection.asked, found, limits.rows)


def plan_query(
    folder: Path,
    query: Query,
    parameters: Mapping[str, Value | None],
    span: Span,
    file_minutes: int,
    limits: QueryLimits = USUAL,
) -> QueryPlan:
    """How the first page of a query is made, measured while it is. Arguments and errors: as `run_query`."""
    selection = select_files(folder, query, parameters, span, file_minutes, None, WHOLE, ONCE)
    with _prepare(selection, query, parameters, limits, Stop(), WHOLE, ONCE) as prepared:
        steps = prepared.run(lambda statement: measure_steps(prepared.connection, statement))
        return QueryPlan(prepared.files, steps)


class _Prepared(NamedTuple):
    """The SQL of a page over `files` that are open.

    `write`: the statement, where the files have all columns of their tables, or some lack some.
    """

    connection: duckdb.DuckDBPyConnection
    write: Callable[[bool], Statement]
    files: int

    def run(self, run: Callable[[Statement], Result]) -> Result:
        """What is made of the statement. Most files have all columns, so only a failure makes DuckDB look."""
        try:
            return run(self.write(True))
        except duckdb.BinderException:
            return run(self.write(False))


@contextmanager
def _prepare(
    selection: Selection,
    query: Query,
    parameters: Mapping[str, Value | None],
    limits: QueryLimits,
    stop: Stop,
    part: Part,
    means: Means,
) -> Iterator[_Prepared]:
    covered = selection.covered
    with (
        open_files(selection.distinct) as opened,
        _explain_errors(query, limits, opened, stop),
        means.connect(list(opened.values()), limits) as connection,
        stop.watch(connection),
    ):

        def write(are_whole: bool) -> Statement:
            views = {}
            for each, listed in selection.files.items():
                descriptors = [opened[file] for file in listed if file in opened]
                if query.order[0].descending:
                    descriptors.reverse()  # DuckDB skips what is older than the rows that it has
                view = write_view(connection, each, descriptors, selection.spans[each], are_whole)
                views[each.name] = f"{view} AND ({part.conditions.get(each.table.name, 'true')})"
            sql = query.sql
            if query.windows and covered:
                views = {query.windows.input.name: _merge_windows(connection, query.windows, covered, views)}
                sql = query.windows.sql
            names = selection.columns.names
            return write_statement(query, sql, names, views, parameters, selection.after, limits.rows + 1)

        yield _Prepared(connection, write, len(opened) + (covered.files if covered else 0))


def _merge_windows(
    connection: duckdb.DuckDBPyConnection, windows: QueryWindows, covered: Covered, views: Mapping[str, str]
) -> str:
    """SQL of windows in memory: those that cover a span, and those of the rest of its reports."""
    rest = None
    if covered.spans:
        rest = Statement(f"{write_views(views)} {windows.of_reports}").fetch(connection)
    return write_rows(connection, windows.input, covered.merge(rest))


def _make_answer(query: Query, asked: Mapping[str, Any], found: ResultPage, limit: int) -> Answer:
    rows = found.rows.slice(0, limit)
    cursor = None
    if found.rows.num_rows > limit:
        keys = rows.slice(limit - 1).select([each.column for each in query.order])
        cursor = format_cursor(query, asked, keys.to_pylist()[0])
    return Answer(query, asked, rows, cursor, found.files)


@contextmanager
def _explain_errors(
    query: Query, limits: QueryLimits, opened: Mapping[OutputFile, int], stop: Stop
) -> Iterator[None]:
    """Raise the errors of DuckDB as RunFailed with a fix."""
    narrow = "ask for a shorter span with --from and --to"
    try:
        yield
    except duckdb.InterruptException as error:
        stop.check()
        problem = f"{query.name} was stopped after {limits.seconds:g} s"
        raise QueryStopped(problem, f"{narrow}, or give --seconds more") from error
    except duckdb.OutOfMemoryException as error:
        problem = f"{query.name} was stopped: it needs more than {limits.memory_mb:,} MB"
        raise QueryStopped(
            problem, f"{narrow} or fewer rows with --limit, or give --memory-mb more"
        ) from error
    except (duckdb.Error, pa.ArrowException) as error:
        text = str(error).splitlines()[0]
        for file, number in sorted(opened.items(), key=lambda item: -item[1]):
            text = text.replace(f"{DESCRIPTORS}{number}", str(file))
        raise RunFailed(
            f"{query.name} failed: {text}", "`kpiflow reconcile OUT` names damaged files"
        ) from error
