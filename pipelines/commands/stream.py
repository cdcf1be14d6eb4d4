"""`kpiflow stream`: Redis streams into tables, live, until stopped."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.commands.engines import (
    POOL,
    DryRun,
    Encodings,
    FlinkMaster,
    Runner,
    WorkerPool,
    reject_options,
    start_on_dataflow,
)
from pipelines.commands.status import describe_count, describe_sink, describe_size, describe_time
from pipelines.console import err, print_result
from pipelines.failures import WrongUse
from pipelines.jobs.events import EventLog
from pipelines.jobs.job_status import Health, read_health
from pipelines.jobs.stream import stream as run
from pipelines.jobs.stream_job import StreamRequest
from pipelines.settings import Settings
from pipelines.sources import parse_encodings, parse_streams
from runners.progress import Progress
from transforms.core.counts import format_count
from transforms.core.events import log_event

_LINE_SECONDS = 10.0


def stream(
    ctx: typer.Context,
    url: Annotated[
        str,
        typer.Option(
            "--redis",
            "--source",
            help="redis://HOST:PORT/DB, rediss:// for TLS, or unix:///PATH.",
            metavar="URL",
        ),
    ],
    streams: Annotated[
        list[str],
        typer.Option(
            "--stream",
            help="Keys of the streams; several may follow. =SCHEMA behind one says what its messages are; "
            "default: what the key says, else reports.",
            metavar="KEY[=SCHEMA]...",
        ),
    ],
    outputs: Annotated[
        list[str],
        typer.Option(
            "--output", help="Output of the tables: a folder or a URL. May be repeated.", metavar="OUT"
        ),
    ],
    group: Annotated[
        str, typer.Option("--group", help="The consumer group that keeps this job's offset.")
    ] = "kpiflow",
    archive: Annotated[
        Path | None,
        typer.Option(
            "--archive",
            help="Write every message as an envelope to this folder, one file an hour.",
            metavar="DIR",
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            help="Folder of the job's checkpoints. Default: the first output folder.",
            metavar="DIR",
        ),
    ] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Publish flagged reports to the streams kpi_enriched and kpi_outliers."),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Ignore checkpoints and re-read from before the group's offset. No message is lost or "
            "counted twice.",
        ),
    ] = False,
    until_idle: Annotated[
        bool,
        typer.Option(
            "--until-idle", help="Stop once all messages are read and in the tables, and no more arrive."
        ),
    ] = False,
    runner: Annotated[
        Runner,
        typer.Option(
            "--runner",
            help="Engine of the job. Dataflow's own options follow `--`.",
            metavar="flink|dataflow",
        ),
    ] = Runner.flink,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Serve the job's metrics here, with /healthz and /readyz. Without HOST: on 127.0.0.1.",
            metavar="HOST:PORT",
        ),
    ] = None,
    encoding: Encodings = None,
    dry: DryRun = False,
    master: FlinkMaster = None,
    environment: WorkerPool = POOL,
) -> None:
    """Read Redis streams and write the tables until interrupted: reports, aggregations, records, quarantine,
    duplicates.

    The same command continues after Ctrl-C and after any crash. It needs Java 17; `make flink` downloads the
    engine.
    """
    settings: Settings = ctx.obj.settings()
    keys, kinds = parse_streams(streams)
    encodings = parse_encodings(encoding or (), keys)
    if runner is Runner.direct:
        raise WrongUse("--runner direct runs only what ends", "a stream runs on flink or dataflow")
    local = {
        "--archive": archive,
        "--state": state,
        "--fresh": fresh,
        "--until-idle": until_idle,
        "--metrics": metrics,
    }
    reject_options(runner, {**local, "--flink-master": master, "--dry-run": dry})
    if runner is Runner.dataflow:
        # Takes half a second, which no other job needs.
        from pipelines.jobs.dataflow_stream import CloudStream

        cloud = CloudStream(url, keys, group, tuple(outputs), ctx.obj.beam_options, live, kinds, encodings)
        start_on_dataflow(cloud, settings, dry, "the job runs until it is drained")
        return
    job = StreamRequest(
        url, keys, group, tuple(outputs), choose_home(outputs, state), archive, live, fresh, until_idle,
        master, environment if master else None, ctx.obj.beam_options, kinds, encodings, metrics,
    )  # fmt: skip
    with _followed(job.home, settings.log_format == "json") as follow:
        try:
            run(job, settings, follow)
        except KeyboardInterrupt:
            tables = ", ".join(outputs)
            print_result(
                f"stopped after a last checkpoint; the same command continues from it. Tables: {tables}"
            )
            raise
    print_result(f"all messages are read and in the tables: {', '.join(outputs)}")


def choose_home(outputs: list[str], state: Path | None) -> Path:
    """The folder of a job's own state: `state`, or the first output folder.

    Raises:
        WrongUse: neither is given.
    """
    folders = [Path(text) for text in outputs if "://" not in text]
    if state is None and not folders:
        raise WrongUse(
            "the job needs a folder on this machine for its checkpoints",
            "give it --state DIR, or a folder as an output",
        )
    return state or folders[0]


@contextmanager
def _followed(home: Path, as_events: bool) -> Iterator[Callable[[Progress], None]]:
    """What shows the progress: a table that stays in place on a terminal, a line now and then elsewhere, or
    events as JSON."""
    if as_events:
        yield partial(_log_events, EventLog(_LINE_SECONDS), home)
        return
    rate = _Rate()
    if err.is_terminal:
        with Live(console=err, refresh_per_second=4, transient=True) as view:
            yield lambda progress: view.update(_table(progress, read_health(home), rate))
        return
    shown: list[tuple[float, str, str | None]] = []

    def line(progress: Progress) -> None:
        now = time.monotonic()
        if (
            not shown
            or now - shown[-1][0] >= _LINE_SECONDS
            or (progress.state, progress.failure) != shown[-1][1:]
        ):
            shown[:] = [(now, progress.state, progress.failure)]
            err.print("; ".join(f"{name} {text}" for name, text in _facts(progress, read_health(home), rate)))

    yield line


def _log_events(log: EventLog, home: Path, progress: Progress) -> None:
    now = time.time()
    for event, fields in log.find_events(progress, read_health(home), now):
        log_event(event, **fields)


class _Rate:
    """Messages a second, over the time since it was asked last (at least a second)."""

    def __init__(self) -> None:
        self.at, self.read, self.value = time.monotonic(), 0, 0.0

    def __call__(self, read: int) -> float:
        now = time.monotonic()
        if now - self.at >= 1:
            self.value = max(0, read - self.read) / (now - self.at)
            self.at, self.read = now, read
        return self.value


def _facts(progress: Progress, found: Health, rate: _Rate) -> Iterator[tuple[str, str]]:
    now = datetime.now(UTC)
    begun = f", from {Path(progress.restored_from).name}" if progress.restored_from else ""
    counted = {"renewal": progress.renewals, "restart": progress.restarts}
    counts = [f", {format_count(count, noun)}" for noun, count in counted.items() if count]
    yield "state", progress.state + begun + "".join(counts)
    if progress.failure and progress.state == "restarting":
        yield "because", progress.failure
    for why in progress.left_out:
        yield "warning", f"{why}; went on from {progress.restored_from}"
    yield "read", f"{format_count(found.read, 'message')}, {rate(found.read):,.0f}/s"
    yield "lag", describe_count(found.lag)
    for stream in found.streams:
        if stream.lost:
            yield stream.stream, f"lost unread: {format_count(stream.lost, 'entry')}"
    for sink in found.sinks:
        if sink.waiting_since:
            yield sink.name, describe_sink(sink, found, now)
    yield "watermark", describe_time(found.watermark, now)
    if progress.checkpoints:
        size, age = describe_size(progress.checkpoint_bytes), progress.checkpoint_age or 0
        yield "checkpoint", f"{progress.checkpoints}, {size}, {age:.0f} s old"


def _table(progress: Progress, found: Health, rate: _Rate) -> Table:
    table = Table(box=None, show_header=False)
    for name, text in _facts(progress, found, rate):
        table.add_row(Text(name, "bold"), text)
    return table
