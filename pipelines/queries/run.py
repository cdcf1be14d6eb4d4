"""Runs a named query over an output folder."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from pipelines.failures import RunFailed
from pipelines.queries.connections import DESCRIPTORS
from pipelines.queries.cursor import format_cursor, parse_cursor
from pipelines.queries.limits import USUAL, Limits
from pipelines.queries.means import ONCE, Find, Means
from pipelines.queries.open_files import explain_storage_errors, open_files
from pipelines.queries.plan import Plan, measure_steps
from pipelines.queries.query import Input, Query, Value
from pipelines.queries.statement import Statement, write_rows, write_statement, write_view
from pipelines.queries.stop import QueryStopped, Stop
from schemas.marks import MARKS
from schemas.partitioning import format_window_folder
from transforms.core.record_batches import conform
from transforms.core.time_range import Span
from transforms.sinks.parquet.mark_files import list_mark_files
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Part:
    """What is read: some columns of the result, all if none are here; SQL that rows meet, by their table."""

    columns: tuple[str, ...] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)


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
    limits: Limits = USUAL,
    cursor: str | None = None,
    stop: Stop | None = None,
    part: Part = Part(),
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
    with _prepare(
        folder, query, parameters, span, file_minutes, limits, cursor, stop, part, means
    ) as prepared:
        found = _select(prepared)
    return _make_answer(query, prepared.asked, found, limits.rows, prepared.files)


def plan_query(
    folder: Path,
    query: Query,
    parameters: Mapping[str, Value | None],
    span: Span,
    file_minutes: int,
    limits: Limits = USUAL,
) -> Plan:
    """How the first page of a query is made, measured while it is. Arguments and errors: as `run_query`."""
    with _prepare(
        folder, query, parameters, span, file_minutes, limits, None, Stop(), Part(), ONCE
    ) as prepared:
        return Plan(prepared.files, measure_steps(prepared.connection, prepared.statement))


class _Prepared(NamedTuple):
    """The SQL of a page over files that are open, and its columns. `asked`: what a cursor is bound to."""

    connection: duckdb.DuckDBPyConnection
    statement: Statement
    columns: pa.Schema
    asked: Mapping[str, Any]
    files: int


@contextmanager
def _prepare(
    folder: Path,
    query: Query,
    parameters: Mapping[str, Value | None],
    span: Span,
    file_minutes: int,
    limits: Limits,
    cursor: str | None,
    stop: Stop,
    part: Part,
    means: Means,
) -> Iterator[_Prepared]:
    asked = {"from": span.start, "to": span.end, **parameters}
    after = None if cursor is None else parse_cursor(query, asked, cursor)
    columns = pa.schema([each for each in query.columns if each.name in part.columns or not part.columns])
    spans: dict[Input, tuple[Span, ...]] = {
        each: (_choose_span(query, each, parameters, span, after),) for each in query.inputs
    }
    if lookup := query.find_lookup(columns.names):
        spans[lookup.input] = (Span(),)
    with explain_storage_errors():
        files = OutputFiles.of(folder)
        covered = means.cover(files, span, query.by_hour) if query.windows else None
        if covered is not None:
            spans[query.inputs[0]] = covered.spans
        chosen = {
            each: _list_input(files, each, parameters, within, file_minutes, means.find)
            for each, within in spans.items()
        }
    distinct = list(dict.fromkeys(file for listed in chosen.values() for file in listed))
    with (
        open_files(distinct) as opened,
        _explain_errors(query, limits, opened, stop),
        means.connect(list(opened.values()), limits) as connection,
        stop.watch(connection),
    ):
        views = {}
        for each, within in spans.items():
            descriptors = [opened[file] for file in chosen[each] if file in opened]
            if query.order[0].descending:
                descriptors.reverse()  # DuckDB skips what is older than the rows that it has
            view = write_view(connection, each, descriptors, within)
            views[each.name] = f"{view} AND ({part.conditions.get(each.table.name, 'true')})"
        if query.windows:
            rows = covered.windows if covered else None
            views[query.windows.name] = write_rows(connection, query.windows, rows)
        stop.check()
        statement = write_statement(query, columns.names, views, parameters, after, limits.rows + 1)
        yield _Prepared(connection, statement, columns, asked, len(opened))


def _choose_span(
    query: Query,
    source: Input,
    parameters: Mapping[str, Value | None],
    span: Span,
    after: Sequence[Any] | None,
) -> Span:
    """The span of an input: its own, if it has one, or that of the query, as far as the cursor leaves it."""
    if source.span:
        start, end = (parameters[name] for name in source.span)
        return Span(start or span.start, end or span.end)  # type: ignore[arg-type]
    first = query.order[0]
    if after and after[0] is not None and first.descending and first.column == source.table.time:
        end = after[0] + _MICROSECOND
        return replace(span, end=min(end, span.end) if span.end else end)
    return span


def _list_input(
    files: OutputFiles,
    source: Input,
    parameters: Mapping[str, Value | None],
    spans: Sequence[Span],
    file_minutes: int,
    find: Find,
) -> list[OutputFile]:
    """The files of a table that may have rows in the spans; those without a time come first."""
    if source.table is MARKS:
        return list_mark_files(files.hot)
    if len(spans) == 1 and (found := find(files, source, parameters, spans[0])) is not None:
        return found
    below = source.table.name
    if source.window:
        below += f"/{format_window_folder(str(parameters[source.window]))}"
    listed = [file for span in spans for file in files.list_span(below, span, file_minutes)]
    return files.list_untimed(source.table) + list(dict.fromkeys(listed))


def _select(prepared: _Prepared) -> pa.Table:
    statement, columns = prepared.statement, prepared.columns
    rows = prepared.connection.sql(statement.text, params=statement.values).to_arrow_table()
    return pa.Table.from_batches([conform(batch, columns) for batch in rows.to_batches()], columns)


def _make_answer(query: Query, asked: Mapping[str, Any], found: pa.Table, limit: int, files: int) -> Answer:
    rows = found.slice(0, limit)
    cursor = None
    if found.num_rows > limit:
        keys = rows.slice(limit - 1).select([each.column for each in query.order])
        cursor = format_cursor(query, asked, keys.to_pylist()[0])
    return Answer(query, asked, rows, cursor, files)


@contextmanager
def _explain_errors(
    query: Query, limits: Limits, opened: Mapping[OutputFile, int], stop: Stop
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
