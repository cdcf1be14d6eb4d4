"""One job on Flink: how it does, its checkpoints, its end."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from runners.flink.checkpoints import list_complete_checkpoints, remove_other_jobs, seal
from runners.flink.rest import BatchReport, Failure, JobReport, Report, Rest, Unreachable

Some = TypeVar("Some", bound=Report)

_CHECKPOINT_SECONDS = 30.0
_CANCEL_SECONDS = 15.0
_TICK = 0.1
_ENDED = ("FAILED", "CANCELED", "FINISHED", "SUSPENDED")


class FlinkJob:
    """A job of a unique name, reached over Flink's REST interface once its address is known.

    `restarts`: how often Flink has restarted it or a part of it, by the failures that reports had. Flink's
    metric `numRestarts` is not used: if a TaskManager is lost while Flink asks it for metrics, all metrics of
    the cluster keep their values from then on (Flink 1.19).
    """

    def __init__(self, name: str, find_rest: Callable[[], Rest | None]) -> None:
        self.name = name
        self.restarts = 0
        self._newest_failure = 0
        self._find_rest = find_rest
        self._id: str | None = None

    def cancel(self) -> None:
        """End the job; its checkpoints stay."""
        with suppress(Unreachable):
            if (found := self._find()) is None:
                return
            rest, job = found
            rest.cancel(job)
            end = time.monotonic() + _CANCEL_SECONDS
            while rest.ask_state(job)[0] not in _ENDED and time.monotonic() < end:
                time.sleep(_TICK)

    def _find(self) -> tuple[Rest, str] | None:
        """Flink's REST interface, and the job's id in it; None while one of them is not known.

        Raises:
            Unreachable: Flink does not answer.
        """
        if (rest := self._find_rest()) is None:
            return None
        self._id = self._id or rest.find_job(self.name)
        return (rest, self._id) if self._id else None

    def _ask(self, ask: Callable[[Rest, str], Some]) -> Some | None:
        """What Flink answers about this job; None while it does not answer, or does not know it yet."""
        with suppress(Unreachable):
            if (found := self._find()) is not None:
                report = ask(*found)
                self._count_restarts(report.failures)
                return report
        return None

    def _count_restarts(self, failures: Sequence[Failure]) -> None:
        """Count the failures that are newer than those of the reports before."""
        self.restarts += sum(failure.at > self._newest_failure for failure in failures)
        self._newest_failure = max((self._newest_failure, *(failure.at for failure in failures)))


class BatchJob(FlinkJob):
    """A job that ends by itself."""

    def ask_report(self) -> BatchReport | None:
        """How it does; None while Flink does not answer, or does not know it yet."""
        return self._ask(lambda rest, job: rest.ask_batch_report(job))


class StreamJob(FlinkJob):
    """A job with checkpoints.

    `has_checkpoint`: a checkpoint of this job is sealed; from then on those of the job before are not needed.
    """

    def __init__(self, name: str, folder: Path, find_rest: Callable[[], Rest | None]) -> None:
        super().__init__(name, find_rest)
        self.has_checkpoint = False
        self._folder = folder
        self._sealed = 0

    def ask_report(self) -> JobReport | None:
        """How it does; None while Flink does not answer, or does not know it yet."""
        return self._ask(lambda rest, job: rest.ask_report(job))

    def seal_new_checkpoint(self, completed: int) -> None:
        """Seal the newest checkpoint if more are completed than at the last seal.

        Raises:
            OSError: it cannot be synced to disk.
        """
        if completed > self._sealed and self.seal_newest_checkpoint():
            self._sealed = completed

    def seal_newest_checkpoint(self) -> bool:
        """Seal the newest checkpoint of this job and remove those of other jobs; whether there is one.

        Raises:
            OSError: it cannot be synced to disk.
        """
        own = [path for path in list_complete_checkpoints(self._folder) if path.parent.name == self._id]
        if not own:
            return False
        seal(own[-1])
        if not self.has_checkpoint:
            self.has_checkpoint = True
            remove_other_jobs(self._folder, self._id)
        return True

    def make_checkpoint(self) -> bool:
        """Make a checkpoint if the job runs; whether it is complete."""
        with suppress(Unreachable):
            rest = self._find_rest()
            if rest is not None and self._id is not None and rest.ask_state(self._id)[1]:
                return rest.make_checkpoint(self._id, _CHECKPOINT_SECONDS)
        return False
