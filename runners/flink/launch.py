"""Run a streaming graph on Flink, by default embedded in a Java process that this process starts and ends.

One folder keeps what a run leaves: checkpoints, logs and Flink's configuration. The next run of the same
graph goes on from the newest checkpoint that is whole. During a run Flink restarts the job by itself whenever
a step fails.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from runners.flink.checkpoints import Choice, choose_checkpoints
from runners.flink.engine import StreamEngine, make_stream_options, write_stream_configuration
from runners.flink.job import StreamJob
from runners.flink.job_server import REPORT_SECONDS, Build, JobServer, start_job_server
from runners.flink.rest import JobReport, find_root_cause
from runners.flink.restore import (
    CheckpointRefused,
    CheckpointUnreadable,
    explain_refusal,
    is_refusal,
    is_unreadable,
)
from runners.flink.submission import Submission
from runners.progress import Progress

_UNREADABLE_TRIES = 2
_RENEW_LATER_SECONDS = 60.0


def run(build: Build, engine: StreamEngine, follow: Callable[[Progress], None]) -> None:
    """Run a graph until it is interrupted; `follow` gets the progress about once a second.

    `build` wires the graph into an empty pipeline. Each renewal of the job calls it again, so it must make
    its transforms itself: Beam allows a transform in one pipeline only.

    The first SIGINT or SIGTERM makes a last checkpoint and ends the run; the second one ends it at once.

    Raises:
        KeyboardInterrupt: it was interrupted; none of its processes run any more.
        FlinkMissing: Java or Flink's jars are missing.
        TakenOptionError: Beam options that the engine decides itself.
        CheckpointRefused: Flink cannot go on from the newest checkpoint that is whole, or none is.
        FlinkFailed: the job or its Java process ended; another run goes on from the newest checkpoint.
    """
    with start_job_server(engine) as server:
        _Run(engine, server, follow).run_jobs(build)


class _Run:
    """A run: a job, and after each renewal another one that goes on from it."""

    def __init__(self, engine: StreamEngine, server: JobServer, follow: Callable[[Progress], None]) -> None:
        self._engine, self._server, self._follow = engine, server, follow
        self._progress = Progress()
        self._before = self._progress  # totals of the jobs before this one
        self._choice = Choice([], False, [])

    def run_jobs(self, build: Build) -> None:
        """Run jobs until there is a reason not to; it ends by an exception only."""
        self._go_on_from(choose_checkpoints(self._engine.folder))
        while True:
            job = StreamJob(f"kpiflow-{uuid.uuid4().hex[:12]}", self._engine.folder, self._server.find_rest)
            try:
                self._run_job(job, build)
            except CheckpointUnreadable as error:
                job.cancel()
                self._progress = replace(self._progress, state="starting")
                why = f"{self._choice.newest} cannot be read: {error}"
                self._go_on_from(self._choice.without_newest(why))
            else:
                renewals = self._progress.renewals + 1
                self._progress = replace(self._progress, state="starting", renewals=renewals, left_out=())
                self._go_on_from(choose_checkpoints(self._engine.folder))

    def _go_on_from(self, choice: Choice) -> None:
        """Set the checkpoint to go on from, and warn of newer ones that cannot be used.

        Raises:
            CheckpointRefused: there are checkpoints, and all of them are damaged.
        """
        self._choice = choice
        if choice.left_out and choice.newest is None:
            raise CheckpointRefused(
                f"no checkpoint can be read: {'; '.join(choice.left_out)}. Start with --fresh: it reads "
                "again from before the group's offset, and no message is lost"
            )
        for why in choice.left_out:
            self._server.warn(f"{why}; going on from {choice.newest}")
        self._progress = replace(
            self._progress,
            restored_from=str(choice.newest) if choice.newest else None,
            left_out=(*self._progress.left_out, *choice.left_out),
        )
        self._follow(self._progress)

    def _run_job(self, job: StreamJob, build: Build) -> None:
        """Submit the graph and follow the job until it is to be renewed."""
        self._before = self._progress
        newest = self._choice.newest
        write_stream_configuration(self._engine, newest)
        submission = self._server.submit(
            build, lambda port, pool: make_stream_options(self._engine, job.name, port, pool, newest)
        )
        due: float | None = None
        while not self._server.interrupted.is_set():
            self._check(job, submission)
            self._update(job)
            self._follow(self._progress)
            if due is None and self._progress.state == "running":
                due = time.monotonic() + self._engine.renew_seconds
            if due is not None and time.monotonic() > due:
                if job.make_checkpoint():
                    return self._end(job)
                due = time.monotonic() + min(_RENEW_LATER_SECONDS, self._engine.renew_seconds)
            self._server.interrupted.wait(REPORT_SECONDS)
        self._progress = replace(self._progress, state="stopping")
        self._follow(self._progress)
        job.make_checkpoint()
        self._end(job)
        raise KeyboardInterrupt

    def _check(self, job: StreamJob, submission: Submission) -> None:
        """Raise why the run has ended, if it has."""
        self._server.check()
        if not submission.is_over:
            return
        if self._choice.newest and not job.has_checkpoint and is_refusal(submission.text):
            raise explain_refusal(self._choice, submission.cause)
        raise self._server.explain_end(submission)

    def _update(self, job: StreamJob) -> None:
        """Bring the progress up to date and seal a new checkpoint; without an answer of Flink do nothing."""
        if (report := job.ask_report()) is None:
            return
        self._progress = self._add(report, job.restarts)
        try:
            job.seal_new_checkpoint(report.checkpoints.completed)
        except OSError as error:
            self._warn_of_sync(error)
        is_tried = job.restarts >= _UNREADABLE_TRIES and is_unreadable(report.trace or "")
        if is_tried and self._choice.newest and not job.has_checkpoint:
            raise explain_refusal(self._choice, find_root_cause(report.trace or ""))

    def _add(self, report: JobReport, restarts: int) -> Progress:
        """The progress with what a job reports, and the totals of the jobs before it."""
        runs, checkpoints = report.is_running, report.checkpoints
        has_begun = self._progress.state != "starting" or report.trace is not None
        failure = (checkpoints.failure if runs else None) or self._server.find_cause(report.trace)
        rest = self._server.find_rest()
        return replace(
            self._progress,
            state="running" if runs else "restarting" if has_begun else "starting",
            checkpoints=self._before.checkpoints + checkpoints.completed,
            checkpoint_bytes=checkpoints.bytes,
            checkpoint_age=time.time() - checkpoints.at if checkpoints.at else None,
            checkpoint_seconds=checkpoints.seconds,
            restarts=self._before.restarts + restarts,
            failure=failure or self._before.failure,
            rest=rest.url if rest else "",
        )

    def _end(self, job: StreamJob) -> None:
        """End the job and seal its last checkpoint."""
        job.cancel()
        try:
            job.seal_newest_checkpoint()
        except OSError as error:
            self._warn_of_sync(error)

    def _warn_of_sync(self, error: OSError) -> None:
        failure = f"the newest checkpoint cannot be synced to disk: {error}"
        self._progress = replace(self._progress, failure=failure)
