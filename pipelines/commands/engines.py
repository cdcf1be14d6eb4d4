"""Engines as commands name them: `--runner`, the options that an engine does not take, a job on Dataflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from pipelines.console import announce, err, out
from pipelines.failures import CheckFailed, WrongUse
from pipelines.jobs.cores import count_cores
from pipelines.jobs.engines import BatchEngine, open_local_engine
from pipelines.progress import LINE_SECONDS, open_bar
from pipelines.reading_progress import show_reading
from pipelines.settings import Settings
from runners.progress import BatchProgress
from transforms.core.counts import format_count
from transforms.core.events import STEPS_PROGRESS

if TYPE_CHECKING:
    from pipelines.jobs.dataflow import CloudJob


CLUSTER_BLOCK_REPORTS = 50_000
"""Reports of a block on a Flink cluster, unless given: about 35 MB."""
ShowReading = Callable[[int], AbstractContextManager[None]]
"""Makes a context that shows how much of some bytes of input is read."""


class Runner(StrEnum):
    """The engine of a job."""

    direct = auto()
    flink = auto()
    dataflow = auto()


Encodings = Annotated[
    list[str] | None,
    typer.Option(
        "--encoding",
        help="How the payloads of a stream are encoded: json or protobuf (docs/protobuf.md); several may "
        "follow. Default: json.",
        metavar="KEY=ENCODING...",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Dataflow only: translate the job and report what would keep it from running; start nothing.",
    ),
]
FlinkMaster = Annotated[
    str | None,
    typer.Option(
        "--flink-master",
        "--flink_master",
        help="A Flink cluster. Default: an embedded one.",
        metavar="HOST:PORT",
    ),
]
WorkerPool = Annotated[
    str, typer.Option("--environment", help="Python worker pool of the cluster.", metavar="HOST:PORT")
]
"""Options of every command that starts a job on an engine."""
POOL = "127.0.0.1:50000"


_DRY_RUN = {"--dry-run": "only Dataflow has one; `kpiflow doctor` checks what a job on this machine needs"}
_NO_FOLDERS = "the job has no folders of this machine"
NOT_TAKEN = {
    Runner.direct: _DRY_RUN | {"--flink-master": "give --runner flink too"},
    Runner.flink: _DRY_RUN,
    Runner.dataflow: {
        "--archive": _NO_FOLDERS,
        "--state": _NO_FOLDERS,
        "--fresh": "the job keeps no checkpoints on this machine",
        "--until-idle": "drain the job instead",
        "--flink-master": "it is of Flink",
        "--replace": "it rewrites a folder of this machine",
        "--timings": "the job is not waited for; its page shows the counters of each stage",
    },
}
"""The options that an engine does not take, with the reason."""


def reject_options(runner: Runner, given: Mapping[str, object]) -> None:
    """Raise WrongUse if one of the given options (with a value that is true) is not for this engine."""
    refused = [f"{name} ({reason})" for name, reason in NOT_TAKEN[runner].items() if given.get(name)]
    if refused:
        raise WrongUse(f"--runner {runner} does not take {', '.join(refused)}", "leave it out")


def fit_to_engine(settings: Settings, master: str | None) -> Settings:
    """The settings with smaller blocks, if they are not given, for a Flink cluster.

    There all rows of a block are one record of Flink, which has to fit into a TaskManager's heap several
    times. On one machine a record is references to rows on disk.
    """
    if master is None or "block_reports" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"block_reports": CLUSTER_BLOCK_REPORTS})


@contextmanager
def open_engine(
    runner: Runner, settings: Settings, master: str | None, environment: str, beam_options: tuple[str, ...]
) -> Iterator[tuple[BatchEngine, ShowReading]]:
    """Yields what runs a batch, and what shows its progress. Open it before connections and long work."""
    workers = settings.workers or count_cores()
    if runner is Runner.direct:
        with open_local_engine(workers, beam_options) as local:
            yield local, show_reading
        return
    from pipelines.jobs.flink_engine import FlinkEngine  # takes half a second

    parallelism = settings.parallelism if "parallelism" in settings.model_fields_set else workers
    with _show_steps() as follow:
        pool = environment if master else None
        flink = FlinkEngine(parallelism, workers, settings.heap_mb, follow, master, pool, beam_options)
        yield flink, _show_nothing


@contextmanager
def _show_steps() -> Iterator[Callable[[BatchProgress], None]]:
    """Yield a function that shows the progress of a run on Flink, which does not say how much is read."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = ("", time.monotonic())
    with open_bar(*columns) as bar:
        task = bar.add_task("starting", total=None)

        def follow(progress: BatchProgress) -> None:
            nonlocal shown
            why = f": {progress.failure}" if progress.failure and progress.state == "restarting" else ""
            state, now = progress.state + why, time.monotonic()
            bar.update(task, description=state, completed=progress.steps_done, total=progress.steps or None)
            if not err.is_terminal and (state != shown[0] or now - shown[1] >= LINE_SECONDS):
                shown = state, now
                announce(STEPS_PROGRESS, state=state, done=progress.steps_done, total=progress.steps)

        yield follow


def _show_nothing(total_bytes: int) -> AbstractContextManager[None]:
    return nullcontext()


def start_on_dataflow(job: CloudJob, settings: Settings, dry: bool, started: str) -> None:
    """Start a job on Dataflow and print `started`, or report what Dataflow does not support."""
    from pipelines.jobs.dataflow import dry_run, submit

    if not dry:
        page = submit(job, settings)
        out.print(f"{started}: {page}" if page else "the template is written")
        return
    problems = dry_run(job, settings)
    for problem in problems:
        out.print(f"problem: {problem}", style="bold red")
    if problems:
        raise CheckFailed(f"Dataflow cannot run this: {format_count(len(problems), 'problem')}")
    out.print("Beam's DataflowRunner translates the job; nothing was started")
