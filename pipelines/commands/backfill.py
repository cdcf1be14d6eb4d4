"""`kpiflow backfill`: archived messages into tables."""

import time
from typing import Annotated

import typer
from rich.table import Table

from pipelines.commands.engines import (
    POOL,
    DryRun,
    FlinkMaster,
    Runner,
    WorkerPool,
    fit_to_engine,
    open_engine,
    reject_options,
    start_on_dataflow,
)
from pipelines.console import announce, out, print_result
from pipelines.failures import CheckFailed, Failure, RunFailed
from pipelines.inputs import find_archives
from pipelines.jobs.backfill import backfill as backfill_span
from pipelines.jobs.replace import replace_span
from pipelines.time_flags import parse_span
from transforms.core.counts import format_count
from transforms.core.errors import DamagedFile, OutputFull, Refused, Unavailable
from transforms.core.events import INPUT_INCOMPLETE
from transforms.core.run_metrics import Results


def backfill(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            help="Archives: files, folders, globs, s3:// or gs://; several may follow. =SCHEMA behind one "
            "says what its messages are; default: what their source says, else reports.",
            metavar="GLOB[=SCHEMA]...",
        ),
    ],
    outputs: Annotated[
        list[str],
        typer.Option(
            "--output", help="Output of the tables: a folder or a URL. May be repeated.", metavar="OUT"
        ),
    ],
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Only messages of this time or later (RFC 3339): reports by recorded_at."
        ),
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Only messages from before this time.")] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Replace what is stored from --from to --to (full hours, UTC) by this input.",
        ),
    ] = False,
    timings: Annotated[
        bool, typer.Option("--timings", help="Print the rows and the time of each stage at the end.")
    ] = False,
    runner: Annotated[
        Runner, typer.Option("--runner", help="Engine of the job. Dataflow's own options follow `--`.")
    ] = Runner.direct,
    dry: DryRun = False,
    master: FlinkMaster = None,
    environment: WorkerPool = POOL,
) -> None:
    """Read archived messages and write the tables: reports, aggregations, records, quarantine and duplicates.

    A second run over the same messages changes nothing. A run over more messages adds them, with the same
    result as one run over all of them. With --replace the messages of a time span replace what is stored for
    it.
    """
    settings = ctx.obj.settings()
    span = parse_span(start, end)
    given = {"--dry-run": dry, "--replace": replace, "--timings": timings, "--flink-master": master}
    reject_options(runner, given)
    if runner is Runner.dataflow:
        # Takes half a second, which no other job needs.
        from pipelines.jobs.dataflow_backfill import CloudBackfill

        cloud = CloudBackfill(tuple(inputs), tuple(outputs), ctx.obj.beam_options, span)
        start_on_dataflow(cloud, settings, dry, "the job ends with its input")
        return
    settings = fit_to_engine(settings, master)
    began = time.perf_counter()
    try:
        with open_engine(runner, settings, master, environment, ctx.obj.beam_options) as (engine, show):
            files = find_archives(inputs)
            with show(files.total_bytes):
                run = replace_span if replace else backfill_span
                results = run(files, outputs, settings, span, engine)
    except Exception as error:
        raise as_failure(error) from error
    seconds = time.perf_counter() - began
    if timings:
        out.print(_tabulate_timings(results))
    rows, names = results.messages, ", ".join(outputs)
    read = f"{format_count(rows, 'message')} of {format_count(len(files), 'file')}"
    print_result(f"{read} in {seconds:.1f} s ({rows / seconds:,.0f}/s) -> {names}")
    if results.expired:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(results.expired.items()))
        print_result(f"not written, since rows of their time have expired: {kinds}")
    kept = "nothing was replaced" if replace else f"the messages before that point are in {names}"
    _check_complete(results, len(files), kept)


def _check_complete(results: Results, files: int, kept: str) -> None:
    """Print which of the input files are incomplete, and raise CheckFailed if some are."""
    for problem in results.incomplete:
        announce(INPUT_INCOMPLETE, "yellow", problem=problem)
    if results.incomplete:
        of_all = f"{len(results.incomplete)} of {format_count(files, 'input file')}"
        raise CheckFailed(
            f"{of_all} could not be read to the end; {kept}",
            "repair the files or fetch them again, and run the same command: no message is counted twice",
        )


def as_failure(error: BaseException) -> BaseException:
    """The failure that a run's error means, or the error itself if it is none of the known ones.

    Beam wraps every error that a step raises, an interrupt too, so the causes are searched, the first one
    first.
    """
    if isinstance(error, Failure | KeyboardInterrupt):
        return error
    for cause in reversed(_list_causes(error)):
        if isinstance(cause, OutputFull | DamagedFile | Refused):
            return RunFailed(str(cause))
        if isinstance(cause, Unavailable):
            fix = (
                "run the same command again: rows that are written are complete, and nothing is counted twice"
            )
            return RunFailed(f"{cause}; retried for patience_seconds", fix)
        if isinstance(cause, Failure | KeyboardInterrupt):
            return cause
    return error


def _list_causes(error: BaseException) -> list[BaseException]:
    """The error, what caused it, what caused that, ..."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


def _tabulate_timings(results: Results) -> Table:
    table = Table(box=None, header_style="bold")
    for title in ("stage", "rows", "seconds", "rows/s"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for name, (rows, seconds) in results.stages.items():
        rate = f"{rows / seconds:,.0f}" if rows and seconds else ""
        table.add_row(name, f"{rows:,}" if rows else "", f"{seconds:.2f}" if seconds else "", rate)
    return table
