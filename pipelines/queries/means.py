"""How a query finds its files and gets its DuckDB: what a process that answers many queries keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipelines.queries.connections import Connect, connect_once
from pipelines.queries.query import QueryInput, Value
from transforms.core.time_range import Span
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles

Find = Callable[[OutputFiles, QueryInput, Mapping[str, Value | None], Span], list[OutputFile] | None]
"""Says in which files the rows of an input are that a query asks for; None if that is not known."""


@dataclass(frozen=True)
class Covered:
    """Windows that have exactly the reports of a span, but for those in some spans within it.

    `files`: how many files of reports were opened to make some of them. `merge`: these windows and others,
    which have the rest of the reports, as one for each group; both with the columns `WINDOWS` of
    `pipelines.queries.sums`.
    """

    spans: tuple[Span, ...]
    files: int
    merge: Callable[[pa.Table | None], pa.Table]


Cover = Callable[[OutputFiles, Span, bool], Covered | None]
"""The windows of a span of reports, by hour or by agent; None if there are none to rely on."""


@dataclass(frozen=True)
class Means:
    """What a query is answered with."""

    find: Find = lambda *_: None
    connect: Connect = connect_once
    cover: Cover = lambda *_: None


ONCE = Means()
"""What a process that answers one query has."""
