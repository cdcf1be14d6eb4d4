"""Flink as the engine of a batch: embedded, started and ended by the run, or a cluster that exists."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.failures import RunFailed, WrongUse
from pipelines.jobs.engines import Wire
from pipelines.jobs.work_folder import make_work_folder
from runners.direct import TakenOptionError
from runners.flink.batch import StepFailed, run
from runners.flink.engine import BatchEngine
from runners.flink.jars import FlinkMissing, check_installed
from runners.flink.job_server import FlinkFailed
from runners.progress import BatchProgress
from transforms.core.arrow_coder import pass_by_reference
from transforms.core.errors import find_error
from transforms.core.events import format_output, is_json, with_logs
from transforms.core.run_metrics import Results

_FOLDER, _SPOOL = "_flink", "spool"


@dataclass(frozen=True)
class FlinkEngine:
    """Runs graphs on Flink (`pipelines.jobs.engines.BatchEngine`).

    Attributes:
        parallelism: parallel tasks of each step.
        workers: Python processes on each machine.
        heap_mb: Java's heap, in MB.
        follow: gets the progress about once a second.
        master, environment: see `runners.flink.engine.Engine`.
        beam_options: more options of Beam.
    """

    parallelism: int
    workers: int
    heap_mb: int
    follow: Callable[[BatchProgress], None]
    master: str | None = None
    environment: str | None = None
    beam_options: tuple[str, ...] = ()

    def run(self, wire: Wire, near: Path | None, locks: tuple[int, ...] = ()) -> Results:
        try:
            check_installed()
            with make_work_folder(near, _FOLDER, keep_failed=True) as folder:  # logs are in it
                spool = folder / _SPOOL
                spool.mkdir()
                engine = BatchEngine(
                    folder,
                    self.parallelism,
                    self.workers,
                    self.master,
                    self.environment,
                    self.heap_mb,
                    self.beam_options,
                    locks,
                    # The processes of an embedded Flink share this machine's disk.
                    within=None if self.master else with_logs(partial(pass_by_reference, spool)),
                    form=format_output if is_json() else None,
                )
                return Results.of(run(wire, engine, self.follow))
        except (FlinkMissing, TakenOptionError) as error:
            raise WrongUse(str(error)) from error
        except StepFailed as error:
            if (raised := find_error(str(error.__cause__))) is not None:
                raise raised from error
            raise _as_failure(error) from error
        except FlinkFailed as error:
            raise _as_failure(error) from error


def _as_failure(error: FlinkFailed) -> RunFailed:
    return RunFailed(f"{error}; what was written is complete", "run the same command again")
