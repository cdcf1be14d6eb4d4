"""`kpiflow stream`: Redis streams into tables, live, until it is stopped."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pipelines.commands.status import ago, count, size
from pipelines.console import err, out
from pipelines.health import Health, health
from pipelines.settings import Settings
from pipelines.stream import Job, Progress
from pipelines.stream import stream as run

_LINE_SECONDS = 10.0


def stream(
    ctx: typer.Context,
    url: Annotated[str, typer.Option("--redis", help="redis://HOST:PORT/DB, or rediss:// for TLS.", metavar="URL")],
    streams: Annotated[list[str], typer.Option("--stream", help="Keys of the streams; several may follow.", metavar="KEY...")],
    output: Annotated[Path, typer.Option("--output", help="Folder of the tables; made if it is not there.", metavar="OUT")],
    group: Annotated[str, typer.Option("--group", help="The consumer group that keeps this job's place.")] = "kpiflow",
    archive: Annotated[
        Path | None, typer.Option("--archive", help="Keep every message as an envelope, in a file an hour.", metavar="DIR")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Publish flagged reports to the streams kpi_enriched and kpi_outliers.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Leave the checkpoints, begin before the group's place; nothing is lost or twice.")
    ] = False,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End by itself once all is read and in the tables, and nothing more comes.")
    ] = False,
    master: Annotated[
        str | None,
        typer.Option("--flink-master", "--flink_master", help="A Flink cluster; else one is run here.", metavar="HOST:PORT"),
    ] = None,
    environment: Annotated[
        str, typer.Option("--environment", help="The cluster's pool of Python workers.", metavar="HOST:PORT")
    ] = "localhost:50000",
) -> None:
    """Read Redis streams and write the tables until interrupted: reports, aggregations, quarantine, duplicates.

    The same command goes on where it was, after Ctrl-C and after any crash. It needs Java 17; `make flink` fetches the engine.
    """
    settings: Settings = ctx.obj.settings()
    job = Job(
        url, tuple(dict.fromkeys(streams)), group, output, archive, live, fresh, until_idle,
        master, environment if master else None, ctx.obj.beam_options,
    )  # fmt: skip
    with _followed(output) as follow:
        try:
            run(job, settings, follow)
        except KeyboardInterrupt:
            out.print(f"stopped after a last checkpoint; the same command goes on from it. Tables: {output}", markup=False)
            raise
    out.print(f"all is read and in the tables: {output}", markup=False)


@contextmanager
def _followed(output: Path) -> Iterator[Callable[[Progress], None]]:
    """What shows the progress: a table that stays in place on a terminal, a line now and then elsewhere."""
    rate = _Rate()
    if err.is_terminal:
        with Live(console=err, refresh_per_second=4, transient=True) as view:
            yield lambda progress: view.update(_table(progress, health(output), rate))
        return
    told: list[tuple[float, str, str | None]] = []

    def line(progress: Progress) -> None:
        now = time.monotonic()
        if not told or now - told[-1][0] >= _LINE_SECONDS or (progress.state, progress.failure) != told[-1][1:]:
            told[:] = [(now, progress.state, progress.failure)]
            err.print("; ".join(f"{name} {text}" for name, text in _facts(progress, health(output), rate)), markup=False)

    yield line


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
    yield "state", progress.state + begun + (f", {progress.restarts} restarts" if progress.restarts else "")
    if progress.failure and progress.state == "restarting":
        yield "because", progress.failure
    yield "read", f"{found.read:,} messages, {rate(found.read):,.0f}/s"
    yield "lag", count(found.lag)
    for place in found.places:
        if place.lost:
            yield place.stream, f"{place.lost:,} entries were gone before they were read"
    yield "watermark", ago(progress.watermark or found.watermark, now)
    if progress.checkpoints:
        yield "checkpoint", f"{progress.checkpoints}, {size(progress.checkpoint_bytes)}, {progress.checkpoint_age or 0:.0f} s old"


def _table(progress: Progress, found: Health, rate: _Rate) -> Table:
    table = Table(box=None, show_header=False)
    for name, text in _facts(progress, found, rate):
        table.add_row(f"[bold]{name}[/]", escape(text))
    return table
