"""Run a bounded graph on Flink to its end, by default embedded in a Java process that this process starts and
ends."""

import uuid
from collections.abc import Callable
from dataclasses import replace

from apache_beam.metrics.metric import MetricResults
from apache_beam.runners.runner import PipelineResult, PipelineState

from runners.flink.engine import BatchEngine, make_batch_options, write_batch_configuration
from runners.flink.job import BatchJob
from runners.flink.job_server import REPORT_SECONDS, Build, FlinkFailed, JobServer, start_job_server
from runners.flink.rest import BatchReport, is_lost_worker, is_python_error
from runners.flink.submission import Submission
from runners.progress import BatchProgress

_MOST_RESTARTS = 12
"""Restarts of a job or of a part of it. Until Flink notices that a machine is lost, which takes most of a
minute, each restart fails again; with pauses that grow to 10 s, so many last longer than that."""
_MOST_RESTARTS_ON_A_LOST_WORKER = 4
_MOST_JOBS = 3


class StepFailed(FlinkFailed):
    """A step raised an error. The text of this error's `__cause__` has the step's traceback."""


class _LostWorkerKept(Exception):  # noqa: N818 (another job ends it)
    """Beam gives a job a worker that is gone, again at each restart.

    If a task is cancelled while it is being opened, Beam never takes back its claim on the job's workers, and
    workers that are claimed are never replaced. Only a new job gets new ones.
    """


class BatchResult(PipelineResult):
    """The result of a run that has succeeded, with its metrics."""

    def __init__(self, metrics: MetricResults) -> None:
        super().__init__(PipelineState.DONE)
        self._metrics = metrics

    def wait_until_finish(self, duration: int | None = None) -> str:
        """The state; the run has ended."""
        return str(self.state)

    def metrics(self) -> MetricResults:
        """What the run counted."""
        return self._metrics


def run(build: Build, engine: BatchEngine, follow: Callable[[BatchProgress], None]) -> BatchResult:
    """Run a graph to its end; `follow` gets the progress about once a second.

    If a process is lost, Flink runs again what was lost, a few times; a cluster does so only if its own
    configuration has a restart strategy. Where that cannot help, the whole graph is run again as another job,
    which a graph of repeatable writes allows. If a step raises an error, the run ends. `follow` may raise to
    end the run. If this process is killed, an embedded Flink dies with it; a cluster completes the job.

    Raises:
        StepFailed: a step raised an error.
        FlinkFailed: the job or its Java process ended.
        FlinkMissing: Java or Flink's jars are missing.
        TakenOptionError: Beam options that the engine decides itself.
        KeyboardInterrupt: it was interrupted by SIGINT or SIGTERM.
    """
    with start_job_server(engine) as server:
        return _Run(engine, server, follow).run_jobs(build)


class _Run:
    """A run: a job, and another one if a lost worker stays with it; and its progress."""

    def __init__(
        self, engine: BatchEngine, server: JobServer, follow: Callable[[BatchProgress], None]
    ) -> None:
        self._engine, self._server, self._follow = engine, server, follow
        self._progress = BatchProgress()
        self._restarts_before = 0  # of the jobs before this one

    def run_jobs(self, build: Build) -> BatchResult:
        """Submit the graph and wait for its end, however that comes."""
        self._follow(self._progress)
        write_batch_configuration(self._engine)
        for _ in range(_MOST_JOBS):
            try:
                return self._run_job(build)
            except _LostWorkerKept as kept:
                self._server.warn(f"{kept}: the graph is run again as another job")
                self._restarts_before = self._progress.restarts + 1
        raise self._fail_in_vain()

    def _run_job(self, build: Build) -> BatchResult:
        """Submit the graph once and wait for the end of the job."""
        job = BatchJob(f"kpiflow-{uuid.uuid4().hex[:12]}", self._server.find_rest)
        try:
            submission = self._server.submit(
                build, lambda port, pool: make_batch_options(self._engine, job.name, port, pool)
            )
            self._wait(submission, job)
        except BaseException:
            job.cancel()  # a cluster would run it without this process
            raise
        if submission.is_done:
            return BatchResult(submission.ask_metrics())
        self._raise_error_of(submission.text)
        raise self._server.explain_end(submission)

    def _wait(self, submission: Submission, job: BatchJob) -> None:
        """Wait until the job is over.

        Raises:
            StepFailed: a step raised an error.
            FlinkFailed: Java ended, or processes are lost again and again.
            KeyboardInterrupt: the run was interrupted.
            _LostWorkerKept: the job cannot get new workers.
        """
        while not submission.wait(REPORT_SECONDS):
            if self._server.interrupted.is_set():
                self._progress = replace(self._progress, state="stopping")
                self._follow(self._progress)
                raise KeyboardInterrupt
            self._server.check()
            if (report := job.ask_report()) is not None:
                self._raise_error_of(report.trace or "")
                self._progress = self._make_progress(report, job.restarts)
                self._check_restarts(job.restarts, report.trace or "")
            self._follow(self._progress)

    def _check_restarts(self, restarts: int, trace: str) -> None:
        """Raise if Flink restarts the job in vain."""
        if restarts > _MOST_RESTARTS:
            raise self._fail_in_vain()
        if restarts > _MOST_RESTARTS_ON_A_LOST_WORKER and is_lost_worker(trace):
            raise _LostWorkerKept(self._progress.failure or "")

    def _fail_in_vain(self) -> FlinkFailed:
        return self._server.fail("Flink restarts the job in vain", self._progress.failure or "")

    def _raise_error_of(self, trace: str) -> None:
        """Raise StepFailed if a step raised an error. Flink would repeat the work and meet it again."""
        if is_python_error(trace):
            failure = self._server.fail("a step failed", self._server.find_cause(trace) or "")
            raise StepFailed(str(failure)) from RuntimeError(trace)

    def _make_progress(self, report: BatchReport, restarts: int) -> BatchProgress:
        rest = self._server.find_rest()
        runs = report.state in ("RUNNING", "FINISHED")
        return BatchProgress(
            "running" if runs else "restarting" if report.trace else "starting",
            report.steps,
            report.steps_done,
            report.bytes,
            self._restarts_before + restarts,
            self._server.find_cause(report.trace),
            rest.url if rest else "",
        )
