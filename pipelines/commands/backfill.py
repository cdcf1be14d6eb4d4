"""`kpiflow backfill`: archived messages into tables."""

import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from pipelines.commands.progress import show_progress
from pipelines.console import err, out, style_head
from pipelines.failures import CheckFailed, RunFailed, WrongUse
from pipelines.jobs.backfill import backfill as backfill_span
from pipelines.jobs.replace import replace_span
from transforms.core import stage_counters
from transforms.core.errors import DamagedFile, OutputFull, Refused, Unavailable
from transforms.core.time_range import Span
from transforms.sources.archives.archive_reader import Files, NoArchiveError, find


def backfill(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", help="Archives: files, folders or globs; several may follow.", metavar="GLOB..."
        ),
    ],
    outputs: Annotated[
        list[str],
        typer.Option(
            "--output", help="Where tables go: a folder, or a URL; may be given several times.", metavar="OUT"
        ),
    ],
    start: Annotated[
        str | None, typer.Option("--from", help="Only reports recorded at this moment or later (RFC 3339).")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Only reports recorded before this moment.")] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Rewrite --from to --to (full hours, UTC) from this input; what is stored there goes.",
        ),
    ] = False,
    timings: Annotated[
        bool, typer.Option("--timings", help="Print the rows and the time of each stage at the end.")
    ] = False,
) -> None:
    """Read archived messages and write the tables: reports, aggregations, quarantine and duplicates.

    Running it again over the same messages changes nothing; running it over more messages adds them, as if all had come at once.
    With --replace the messages of a span of time take the place of what is stored there.
    """
    settings = ctx.obj.settings()
    files = archives(inputs)
    began = time.perf_counter()
    try:
        with show_progress(files.total_bytes):
            run = replace_span if replace else backfill_span
            results = run(files, outputs, settings, span(start, end), ctx.obj.beam_options)
    except Exception as error:
        raise failure(error) from error
    seconds = time.perf_counter() - began
    if timings:
        out.print(_timings())
    rows = results.messages
    out.print(
        f"{rows:,} messages of {len(files)} files in {seconds:.1f} s ({rows / seconds:,.0f}/s) -> {', '.join(outputs)}"
    )
    if results.incomplete:
        for problem in results.incomplete:
            err.print(style_head("yellow", "incomplete input:", f" {problem}"))
        kept = "nothing was replaced" if replace else f"what came before is in {', '.join(outputs)}"
        raise CheckFailed(
            f"{len(results.incomplete)} of {len(files)} input files could not be read to their end; {kept}",
            "mend or fetch the files again and run the same command: messages that are there already are not counted twice",
        )


def archives(patterns: list[str]) -> Files:
    """The archives that patterns mean.

    Raises:
        WrongUse: a pattern matches none.
    """
    try:
        return find(patterns)
    except NoArchiveError as error:
        raise WrongUse(
            str(error), "check the path, and quote a glob that the shell must not expand"
        ) from error


def span(start: str | None, end: str | None) -> Span:
    """The span between two RFC 3339 moments.

    Raises:
        WrongUse: a moment cannot be read, or nothing lies between them.
    """
    found = Span(_moment("--from", start), _moment("--to", end))
    if found.start and found.end and found.start >= found.end:
        raise WrongUse(f"nothing lies between --from {start} and --to {end}")
    return found


def _moment(flag: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise WrongUse(f"{flag} {text} is no date-time", "write it like 2025-10-22T10:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def failure(error: BaseException) -> BaseException:
    """The end that a command should come to for what a run raised; an interrupt is one, though Beam wraps it like any error."""
    if isinstance(error, WrongUse | CheckFailed | RunFailed | KeyboardInterrupt):
        return error
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for each in reversed(causes):  # the first error: Beam's are copies that name a step
        if isinstance(each, OutputFull | DamagedFile | Refused):
            return RunFailed(str(each))
        if isinstance(each, Unavailable):
            hint = "run the same command again: what is written is whole, and nothing counts twice"
            return RunFailed(f"{each}; it was tried again for patience_seconds", hint)
        if isinstance(each, WrongUse | CheckFailed | RunFailed | KeyboardInterrupt):
            return each
    return error


def _timings() -> Table:
    table = Table(box=None, header_style="bold")
    for title in ("stage", "rows", "seconds", "rows/s"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for name, stage in stage_counters.snapshot().items():
        rate = f"{stage.rows / stage.seconds:,.0f}" if stage.rows and stage.seconds else ""
        table.add_row(
            name,
            f"{stage.rows:,}" if stage.rows else "",
            f"{stage.seconds:.2f}" if stage.seconds else "",
            rate,
        )
    return table
