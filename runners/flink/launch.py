"""Run a streaming graph on Flink, by default embedded in a Java process that this process starts and ends.

    this process ---- job server and Flink (Java)
          |                    | asks for workers
          '---- worker pool ---'---- workers (Python), in which the graph's steps run

All of it dies with this process. One folder keeps what a run leaves: checkpoints, logs and Flink's
configuration. The next run of the same graph goes on from the newest checkpoint that is whole. During a run
Flink restarts the job by itself whenever a step fails.
"""

import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import apache_beam as beam
import grpc

from runners.flink.checkpoints import Choice, choose_checkpoints
from runners.flink.engine import (
    Engine,
    make_beam_options,
    make_folders,
    make_java_arguments,
    refuse_taken,
    write_configuration,
)
from runners.flink.jars import ensure_jars, find_java
from runners.flink.job import FlinkJob
from runners.flink.processes import Child, Log, start
from runners.flink.rest import JobReport, Rest, find_root_cause
from runners.flink.restore import (
    CheckpointRefused,
    CheckpointUnreadable,
    explain_refusal,
    is_refusal,
    is_unreadable,
)
from runners.flink.submission import Submission, submit
from runners.flink.workers import WorkerPool, serve_pool
from runners.progress import Progress

Build = Callable[[beam.Pipeline], None]

_PORTS = re.compile(rb"JobService started on \S*?:(?P<job>\d+)|Rest endpoint listening at \S*?:(?P<rest>\d+)")
_HUNG_UP = re.compile("CANCELLED|UNAVAILABLE|[Cc]losed|[Cc]ancelled|INTERNAL")
"""Causes that only say that a worker is gone."""
_START_SECONDS = 180.0
_TICK = 0.1
_REPORT_SECONDS = 1.0
_UNREADABLE_TRIES = 2
_RENEW_LATER_SECONDS = 60.0


class FlinkFailed(RuntimeError):  # noqa: N818 (an end, not only an error)
    """Flink, or the job on it, ended for good; the message has the cause and names the log."""


def run(build: Build, engine: Engine, follow: Callable[[Progress], None]) -> None:
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
    refuse_taken(engine.beam_options)
    java = find_java()
    jars = ensure_jars(engine.jars, lambda line: print(line, file=sys.stderr))
    engine = replace(engine, folder=engine.folder.absolute())
    logs = engine.folder / "logs"
    with (
        make_folders(engine.folder),
        _catch_interruption() as interrupted,
        serve_pool(Log(logs / "workers.log"), engine.keep_open) as (pool, port),
    ):
        command, log = [java, *make_java_arguments(engine, jars)], Log(logs / "flink.log")
        server = start(command, log, pattern=_PORTS, keep_open=engine.keep_open)
        try:
            _Run(engine, server, log, pool, interrupted, follow).run_jobs(build, port)
        finally:
            server.stop(patience=0)


class _Run:
    """A run: a job, and after each renewal another one that goes on from it."""

    def __init__(
        self,
        engine: Engine,
        server: Child,
        log: Log,
        pool: WorkerPool,
        interrupted: threading.Event,
        follow: Callable[[Progress], None],
    ) -> None:
        self._engine, self._server, self._log, self._pool = engine, server, log, pool
        self._interrupted, self._follow = interrupted, follow
        self._progress = Progress()
        self._before = self._progress  # totals of the jobs before this one
        self._choice = Choice([], False, [])

    def run_jobs(self, build: Build, pool_port: int) -> None:
        """Run jobs until there is a reason not to; it ends by an exception only."""
        self._go_on_from(choose_checkpoints(self._engine.folder))
        self._wait_until(lambda: "job" in self._server.matches, "Flink's job server does not start")
        while True:
            job = FlinkJob(f"kpiflow-{uuid.uuid4().hex[:12]}", self._engine.folder, self._find_rest)
            try:
                self._run_job(job, build, pool_port)
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
            self._log.write(f"WARN kpiflow: {why}; going on from {choice.newest}\n".encode())
        self._progress = replace(
            self._progress,
            restored_from=str(choice.newest) if choice.newest else None,
            left_out=(*self._progress.left_out, *choice.left_out),
        )
        self._follow(self._progress)

    def _run_job(self, job: FlinkJob, build: Build, pool_port: int) -> None:
        """Submit the graph and follow the job until it is to be renewed."""
        self._before = self._progress
        self._server.matches.pop("rest", None)  # each job of the embedded Flink has a port of its own
        submission = self._submit(job, build, pool_port)
        self._wait_until(lambda: self._find_rest() is not None or submission.is_over, "Flink does not start")
        due: float | None = None
        while not self._interrupted.is_set():
            self._check(job, submission)
            self._update(job)
            self._follow(self._progress)
            if due is None and self._progress.state == "running":
                due = time.monotonic() + self._engine.renew_seconds
            if due is not None and time.monotonic() > due:
                if job.make_checkpoint():
                    return self._end(job)
                due = time.monotonic() + min(_RENEW_LATER_SECONDS, self._engine.renew_seconds)
            self._interrupted.wait(_REPORT_SECONDS)
        self._progress = replace(self._progress, state="stopping")
        self._follow(self._progress)
        job.make_checkpoint()
        self._end(job)
        raise KeyboardInterrupt

    def _submit(self, job: FlinkJob, build: Build, pool_port: int) -> Submission:
        newest = self._choice.newest
        write_configuration(self._engine, newest)
        options = make_beam_options(self._engine, job.name, self._server.matches["job"], pool_port, newest)
        try:
            return submit(build, options)
        except grpc.RpcError as error:
            self._interrupted.wait(_REPORT_SECONDS)  # a process hangs up before it has ended
            self._check_server()
            raise self._fail("Flink's job server does not accept the job", self._server.last_line) from error

    def _wait_until(self, is_reached: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + _START_SECONDS
        while not is_reached():
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            if self._server.exit_code is not None or time.monotonic() > end:
                raise self._fail(otherwise, self._server.last_line)
            time.sleep(_TICK)

    def _find_rest(self) -> Rest | None:
        """Flink's REST interface, once its address is known."""
        if self._engine.master is not None:
            return Rest(f"http://{self._engine.master}")
        port = self._server.matches.get("rest")
        return Rest(f"http://localhost:{port}") if port else None

    def _check(self, job: FlinkJob, submission: Submission) -> None:
        """Raise why the run has ended, if it has."""
        self._check_server()
        if not submission.is_over:
            return
        if self._choice.newest and not job.has_checkpoint and is_refusal(submission.text):
            raise explain_refusal(self._choice, submission.cause)
        raise self._fail("the job ended", submission.cause)

    def _check_server(self) -> None:
        """Raise how the Java process has ended, if it has."""
        if (code := self._server.exit_code) is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise self._fail(f"Flink's Java process {how}", self._server.last_line)

    def _update(self, job: FlinkJob) -> None:
        """Bring the progress up to date and seal a new checkpoint; without an answer of Flink do nothing."""
        if (report := job.ask_report()) is None:
            return
        self._progress = self._add(report)
        try:
            job.seal_new_checkpoint(report.checkpoints.completed)
        except OSError as error:
            self._warn_of_sync(error)
        is_tried = report.restarts >= _UNREADABLE_TRIES and is_unreadable(report.trace or "")
        if is_tried and self._choice.newest and not job.has_checkpoint:
            raise explain_refusal(self._choice, find_root_cause(report.trace or ""))

    def _add(self, report: JobReport) -> Progress:
        """The progress with what a job reports, and the totals of the jobs before it."""
        runs, checkpoints = report.is_running, report.checkpoints
        has_begun = self._progress.state != "starting" or report.trace is not None
        failure = (checkpoints.failure if runs else None) or self._find_cause(report.trace)
        rest = self._find_rest()
        return replace(
            self._progress,
            state="running" if runs else "restarting" if has_begun else "starting",
            checkpoints=self._before.checkpoints + checkpoints.completed,
            checkpoint_bytes=checkpoints.bytes,
            checkpoint_age=time.time() - checkpoints.at if checkpoints.at else None,
            checkpoint_seconds=checkpoints.seconds,
            restarts=self._before.restarts + report.restarts,
            failure=failure or self._before.failure,
            rest=rest.url if rest else "",
        )

    def _find_cause(self, trace: str | None) -> str | None:
        """Why the job failed: if Flink only knows that a worker is gone, what the pool knows of it."""
        cause = find_root_cause(trace) if trace else None
        return self._pool.find_death() or cause if cause and _HUNG_UP.search(cause) else cause

    def _end(self, job: FlinkJob) -> None:
        """End the job and seal its last checkpoint."""
        job.cancel()
        try:
            job.seal_newest_checkpoint()
        except OSError as error:
            self._warn_of_sync(error)

    def _warn_of_sync(self, error: OSError) -> None:
        failure = f"the newest checkpoint cannot be synced to disk: {error}"
        self._progress = replace(self._progress, failure=failure)

    def _fail(self, what: str, why: str) -> FlinkFailed:
        log = self._engine.folder / "logs" / "flink.log"
        return FlinkFailed(f"{what}: {why or 'it gave no reason'}; the whole story is in {log}")


@contextmanager
def _catch_interruption() -> Iterator[threading.Event]:
    """Set by the first SIGINT or SIGTERM; the second raises KeyboardInterrupt wherever the program is."""
    interrupted = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield interrupted
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
