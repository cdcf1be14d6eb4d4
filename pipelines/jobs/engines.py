"""Engines of a batch: what runs its graph, on this machine or elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import apache_beam as beam

from pipelines.failures import RunFailed, WrongUse
from pipelines.jobs.work_folder import make_work_folder
from runners import direct
from runners.forked_runner import InWorker
from runners.worker_processes import WorkerDied, WorkerProcess, fork_workers
from transforms.core import stage_counters
from transforms.core.arrow_coder import pass_by_reference
from transforms.core.events import with_logs
from transforms.core.run_metrics import Results

Wire = Callable[[beam.Pipeline], None]
"""Wires a graph into an empty pipeline."""
_SPOOL = "_spool"


class BatchEngine(Protocol):
    """Runs graphs of a batch, one after the other."""

    def run(self, wire: Wire, near: Path | None, locks: tuple[int, ...] = ()) -> Results:
        """Run a graph to its end.

        The run may keep files of its own in the folder `near`. Processes that may live longer than this one
        keep the descriptors `locks` open.

        Raises:
            WrongUse: an option of Beam is not for this engine.
            RunFailed: the engine gave up; the same command again completes the work.
        """


@dataclass(frozen=True)
class LocalEngine:
    """This machine: every stage of the graph on all workers, or in this process if there are none."""

    workers: Sequence[WorkerProcess] = ()
    beam_options: Sequence[str] = ()

    def run(self, wire: Wire, near: Path | None, locks: tuple[int, ...] = ()) -> Results:
        with make_work_folder(near, _SPOOL) as spool:
            in_worker = InWorker(
                with_logs(partial(pass_by_reference, spool)), stage_counters.take, stage_counters.add_stages
            )
            try:
                return Results.of(direct.run(wire, self.beam_options, self.workers, in_worker))
            except direct.TakenOptionError as error:
                raise WrongUse(str(error), "leave the option out") from error
            except WorkerDied as error:
                fix = "if memory ran out, give fewer --workers or --block-reports; then run the command again"
                raise RunFailed(f"{error}; what was written is complete", fix) from error


@contextmanager
def open_local_engine(workers: int, beam_options: Sequence[str] = ()) -> Iterator[LocalEngine]:
    """Yields an engine with so many processes, which end with the context. Open it before anything else."""
    with fork_workers(workers) as processes:
        yield LocalEngine(processes, beam_options)
