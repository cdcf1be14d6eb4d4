"""Which files a query reads: by the names of folders and files, and by what a service knows of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.queries.cursor import parse_cursor
from pipelines.queries.means import Covered, Means
from pipelines.queries.open_files import explain_storage_errors
from pipelines.queries.query import Query, QueryInput, Value
from schemas.marks import MARKS
from schemas.partitioning import format_window_folder
from transforms.core.time_range import Span
from transforms.sinks.parquet.mark_files import list_mark_files
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Part:
    """What is read: some columns of the result, all if none are here; SQL that rows meet, by their table."""

    columns: tuple[str, ...] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)


WHOLE = Part()
"""All columns and rows."""


class Selection(NamedTuple):
    """What a page of a query is made of.

    `columns`: those of the rows. `asked`: what a cursor is bound to. `after`: the place that the page begins
    after. `files`: by input, and of `spans` of time. `covered`: windows that have the other reports.
    `are_few`: they are all files that may have the rows, by an index.
    """

    columns: pa.Schema
    asked: Mapping[str, Any]
    after: list[Any] | None
    spans: Mapping[QueryInput, tuple[Span, ...]]
    files: Mapping[QueryInput, list[OutputFile]]
    covered: Covered | None
    are_few: bool

    @property
    def distinct(self) -> list[OutputFile]:
        """The files of all inputs, each once."""
        return list(dict.fromkeys(file for listed in self.files.values() for file in listed))


def select_files(
    folder: Path,
    query: Query,
    parameters: Mapping[str, Value | None],
    span: Span,
    file_minutes: int,
    cursor: str | None,
    part: Part,
    means: Means,
) -> Selection:
    """What a page is made of, as the output is now. Arguments: as `pipelines.queries.run.run_query`.

    Raises:
        WrongUse: the cursor is not of this query.
        RunFailed: the folders cannot be listed.
    """
    asked = {"from": span.start, "to": span.end, **parameters}
    after = None if cursor is None else parse_cursor(query, asked, cursor)
    columns = pa.schema([each for each in query.columns if each.name in part.columns or not part.columns])
    spans: dict[QueryInput, tuple[Span, ...]] = {
        each: (_choose_span(query, each, parameters, span, after),) for each in query.inputs
    }
    if lookup := query.find_lookup(columns.names):
        spans[lookup.input] = (Span(),)
    with explain_storage_errors():
        files = OutputFiles.of(folder)
        covered = _cover(means, files, query, span, part)
        if covered is not None:
            spans[query.inputs[0]] = covered.spans
        first = query.inputs[0]
        found = None if covered else means.find(files, first, parameters, spans[first][0])
        listed = {
            each: found
            if each is first and found is not None
            else _list_input(files, each, parameters, within, file_minutes)
            for each, within in spans.items()
            if within
        }
    return Selection(columns, asked, after, spans, listed, covered, found is not None)


def _cover(means: Means, files: OutputFiles, query: Query, span: Span, part: Part) -> Covered | None:
    """The windows that a query can be made of; none where some reports may not be read."""
    if query.windows is None or query.inputs[0].table.name in part.conditions:
        return None
    return means.cover(files, span, query.windows.by_hour)


def _choose_span(
    query: Query,
    source: QueryInput,
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
    source: QueryInput,
    parameters: Mapping[str, Value | None],
    spans: Sequence[Span],
    file_minutes: int,
) -> list[OutputFile]:
    """The files of a table that may have rows in the spans; those without a time come first."""
    if source.table is MARKS:
        return list_mark_files(files.hot)
    below = source.table.name
    if source.window:
        below += f"/{format_window_folder(str(parameters[source.window]))}"
    listed = [file for span in spans for file in files.list_span(below, span, file_minutes)]
    return files.list_untimed(source.table) + list(dict.fromkeys(listed))
