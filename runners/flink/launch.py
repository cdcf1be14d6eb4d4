"""Run a streaming graph on Flink: by default on one embedded in a Java process that this one starts and ends.

    this process ---- job server and Flink (Java)
          |                    | asks for workers
          '---- worker pool ---'---- workers (Python), in which the graph's steps run

All of it dies with this process. What a run keeps lies in one folder: checkpoints, logs and Flink's configuration. The next run of
the same graph goes on from the newest checkpoint that is whole. While a run lasts Flink does so by itself whenever a step fails.
"""

import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import apache_beam as beam
import grpc

from runners.direct import TakenOptionError
from runners.flink.checkpoints import (
    Choice,
    choose,
    find_newest_checkpoint,
    list_complete_checkpoints,
    remove_other_jobs,
    seal,
)
from runners.flink.engine import Engine, configure, folders, make_java_arguments, options, refuse_taken
from runners.flink.jars import FlinkMissing, ensure_jars, find_java
from runners.flink.processes import Child, Log, start
from runners.flink.rest import Rest, Unreachable, find_root_cause
from runners.flink.submission import Submission, submit
from runners.flink.workers import WorkerPool, serve_pool
from runners.progress import Progress

__all__ = [
    "CheckpointRefused", "Engine", "FlinkFailed", "FlinkMissing", "Progress", "TakenOptionError",
    "find_newest_checkpoint", "run",
]  # fmt: skip

_PORTS = re.compile(rb"JobService started on \S*?:(?P<job>\d+)|Rest endpoint listening at \S*?:(?P<rest>\d+)")
_HUNG_UP = re.compile("CANCELLED|UNAVAILABLE|[Cc]losed|[Cc]ancelled|INTERNAL")
_START_SECONDS = 180.0
_LAST_CHECKPOINT_SECONDS = 30.0
_TICK = 0.1
_TOLD_EVERY = 1.0
_ENDED = ("FAILED", "CANCELED", "FINISHED", "SUSPENDED")
_CANCEL_SECONDS = 15.0
_REFUSED = "JobInitializationException"
_UNREADABLE = re.compile(
    "Could not restore (keyed|operator) state|BackendBuildingException|unable to deserialize"
)
_OTHER_GRAPH = re.compile("Cannot map checkpoint/savepoint state|[Mm]ax(imum)? parallelism")
_NO_SPACE = "No space left"
_UNREADABLE_TRIES = 2
_RENEW_LATER_SECONDS = 60.0


class FlinkFailed(RuntimeError):  # noqa: N818 (an end, not only an error)
    """Flink, or the job on it, ended for good; the message has the cause and names the log."""


class CheckpointRefused(RuntimeError):  # noqa: N818 (an end, not only an error)
    """Flink cannot go on from the checkpoint since the graph is another one, or all checkpoints are damaged."""


class _Unreadable(RuntimeError):  # noqa: N818 (the next older checkpoint is tried)
    """Flink cannot read the checkpoint, which was not sealed."""


def run(build: Callable[[beam.Pipeline], None], engine: Engine, follow: Callable[[Progress], None]) -> None:
    """Run a graph until it is interrupted; `follow` is told how it does about once a second.

    `build` wires the graph into an empty pipeline. It is called again for each renewal of the job, so it must make its transforms
    itself: Beam allows a transform in one pipeline only.

    The first SIGINT or SIGTERM makes a last checkpoint and ends the run in order, the second one ends it at once.

    Raises:
        KeyboardInterrupt: it was interrupted; nothing of it runs any more.
        FlinkMissing: Java or Flink's jars are not there.
        TakenOptionError: Beam options that the engine decides itself.
        CheckpointRefused: Flink cannot go on from the newest checkpoint that is whole, or none is.
        FlinkFailed: the job or its Java process ended; another run goes on from the newest checkpoint.
    """
    refuse_taken(engine.beam_options)
    program = find_java()
    jars = ensure_jars(engine.jars, lambda line: print(line, file=sys.stderr))
    engine = replace(engine, folder=engine.folder.absolute())
    logs = engine.folder / "logs"
    with (
        folders(engine.folder),
        _interruption() as interrupted,
        serve_pool(Log(logs / "workers.log"), engine.hold) as (pool, port),
    ):
        command, log = [program, *make_java_arguments(engine, jars)], Log(logs / "flink.log")
        server = start(command, log, listen=_PORTS, hold=engine.hold)
        try:
            _Run(engine, server, log, pool, interrupted, follow).through(build, port)
        finally:
            server.stop(patience=0)


class _Run:
    """One run, from the job server's start to its end: a job, and after each renewal another one that goes on from it."""

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
        self._before = self._progress
        self._restored: Path | None = None
        self._name = ""
        self._job: str | None = None
        self._own_checkpoint = False
        self._choice = Choice([], False, [])
        self._completed = 0

    def through(self, build: Callable[[beam.Pipeline], None], port: int) -> None:
        """Run jobs until there is a reason not to; it ends by an exception only."""
        self._choose(choose(self._engine.folder))
        self._await(lambda: "job" in self._server.said, "Flink's job server does not start")
        while True:
            try:
                self._run_job(build, port)
            except _Unreadable as error:
                self._cancel()
                _, *older = self._choice.checkpoints
                self._choose(Choice(older, False, [f"{self._restored} cannot be read: {error}"]))
            else:
                self._progress = replace(self._progress, renewals=self._progress.renewals + 1, left_out=())
                self._choose(choose(self._engine.folder))
            self._progress = replace(self._progress, state="starting")

    def _choose(self, choice: Choice) -> None:
        """Go on from the first of some checkpoints, and warn of newer ones that cannot be used.

        Raises:
            CheckpointRefused: there are checkpoints, and all of them are damaged.
        """
        self._choice = choice
        self._restored = choice.checkpoints[0] if choice.checkpoints else None
        if choice.left_out and self._restored is None:
            raise CheckpointRefused(
                f"no checkpoint can be read: {'; '.join(choice.left_out)}. Start with --fresh: it reads again from before the "
                "group's place, and no message is lost"
            )
        for why in choice.left_out:
            self._log.write(f"WARN kpiflow: {why}; going on from {self._restored}\n".encode())
        restored = str(self._restored) if self._restored else None
        left_out = (*self._progress.left_out, *choice.left_out)
        self._progress = replace(self._progress, restored_from=restored, left_out=left_out)
        self._follow(self._progress)

    def _run_job(self, build: Callable[[beam.Pipeline], None], port: int) -> None:
        """Submit the graph and follow it until it is to be renewed."""
        self._name, self._job = f"kpiflow-{uuid.uuid4().hex[:12]}", None
        self._own_checkpoint, self._completed = False, 0
        self._before = self._progress
        self._server.said.pop("rest", None)
        configure(self._engine, self._restored)
        try:
            submission = submit(
                build, options(self._engine, self._name, self._server.said["job"], port, self._restored)
            )
        except grpc.RpcError as error:
            self._interrupted.wait(_TOLD_EVERY)  # a process hangs up before it has ended
            self._check_server()
            raise self._failed("Flink's job server does not take the job", self._server.last_line) from error
        self._await(lambda: self._rest is not None or submission.over, "Flink does not start")
        due: float | None = None
        while not self._interrupted.is_set():
            self._check(submission)
            self._look()
            self._follow(self._progress)
            if due is None and self._progress.state == "running":
                due = time.monotonic() + self._engine.renew_seconds
            if due is not None and time.monotonic() > due:
                if self._checkpointed():
                    return self._end()
                due = time.monotonic() + min(_RENEW_LATER_SECONDS, self._engine.renew_seconds)
            self._interrupted.wait(_TOLD_EVERY)
        self._progress = replace(self._progress, state="stopping")
        self._follow(self._progress)
        self._checkpointed()
        self._end()
        raise KeyboardInterrupt

    def _await(self, reached: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + _START_SECONDS
        while not reached():
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            if self._server.exit_code is not None or time.monotonic() > end:
                raise self._failed(otherwise, self._server.last_line)
            time.sleep(_TICK)

    @property
    def _rest(self) -> Rest | None:
        """Flink's REST interface, once it is known where that is."""
        if self._engine.master is not None:
            return Rest(f"http://{self._engine.master}")
        port = self._server.said.get("rest")
        return Rest(f"http://localhost:{port}") if port else None

    def _check(self, submission: Submission) -> None:
        """Raise why the run has ended, if it has."""
        self._check_server()
        if not submission.over:
            return
        if (
            self._restored
            and not self._own_checkpoint
            and _REFUSED in submission.said
            and _NO_SPACE not in submission.said
        ):
            raise self._refused(submission.cause)
        raise self._failed("the job ended", submission.cause)

    def _check_server(self) -> None:
        """Raise how the Java process has ended, if it has."""
        if (code := self._server.exit_code) is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise self._failed(f"Flink's Java process {how}", self._server.last_line)

    def _look(self) -> None:
        """Bring the progress up to date; what cannot be asked just now stays as it was."""
        rest = self._rest
        if rest is None:
            return
        with suppress(Unreachable):
            self._job = self._job or rest.find_job(self._name)
            if self._job is None:
                return
            _, runs = rest.state(self._job)
            checkpoints, trace, restarts = (
                rest.checkpoints(self._job),
                rest.trace(self._job),
                rest.restarts(self._job),
            )
            begun = self._progress.state != "starting" or trace is not None
            self._progress = replace(
                self._progress,
                state="running" if runs else "restarting" if begun else "starting",
                checkpoints=self._before.checkpoints + checkpoints.completed,
                checkpoint_bytes=checkpoints.bytes,
                checkpoint_age=time.time() - checkpoints.at if checkpoints.at else None,
                checkpoint_seconds=checkpoints.seconds,
                restarts=self._before.restarts + restarts,
                failure=(checkpoints.failure if runs else None) or self._why(trace) or self._before.failure,
                rest=rest.url,
            )
            self._settle(checkpoints.completed, trace or "", restarts)

    def _why(self, trace: str | None) -> str | None:
        """Why the job failed: where Flink only knows that a worker is gone, what the pool knows of it."""
        cause = find_root_cause(trace) if trace else None
        return self._pool.died() or cause if cause and _HUNG_UP.search(cause) else cause

    def _settle(self, completed: int, trace: str, restarts: int) -> None:
        """Seal a checkpoint of this job that is new; give up on one to go on from whose files cannot be read."""
        if completed > self._completed and self._seal():
            self._completed = completed
        if (
            not self._own_checkpoint
            and self._restored
            and restarts >= _UNREADABLE_TRIES
            and _UNREADABLE.search(trace)
        ):
            raise self._refused(find_root_cause(trace))

    def _seal(self) -> bool:
        """Sync the newest checkpoint of this job; the other jobs' go once there is one. Whether it is on disk."""
        own = [
            path for path in list_complete_checkpoints(self._engine.folder) if path.parent.name == self._job
        ]
        if not own:
            return False
        try:
            seal(own[-1])
        except OSError as error:
            self._progress = replace(self._progress, failure=f"{own[-1]} cannot be synced to disk: {error}")
            return False
        if not self._own_checkpoint:
            self._own_checkpoint = True
            remove_other_jobs(self._engine.folder, self._job)
        return True

    def _end(self) -> None:
        """End the job, and seal the checkpoint that it leaves."""
        self._cancel()
        self._seal()

    def _checkpointed(self) -> bool:
        """Make a checkpoint if the job runs; whether it is complete."""
        with suppress(Unreachable):
            if self._rest is not None and self._job is not None and self._rest.state(self._job)[1]:
                return self._rest.make_checkpoint(self._job, _LAST_CHECKPOINT_SECONDS)
        return False

    def _cancel(self) -> None:
        """End the job."""
        with suppress(Unreachable):
            if self._rest is None or self._job is None:
                return
            self._rest.cancel(self._job)
            end = time.monotonic() + _CANCEL_SECONDS
            while self._rest.state(self._job)[0] not in _ENDED and time.monotonic() < end:
                time.sleep(_TICK)

    def _failed(self, what: str, why: str) -> FlinkFailed:
        log = self._engine.folder / "logs" / "flink.log"
        return FlinkFailed(f"{what}: {why or 'it gave no reason'}; the whole story is in {log}")

    def _refused(self, why: str) -> Exception:
        """What to raise where Flink does not go on from the checkpoint: one that is known to be whole is another graph's."""
        if not self._choice.sealed and not _OTHER_GRAPH.search(why):
            return _Unreadable(why)
        why = why.partition(" If you want to allow")[0].rstrip(".")
        return CheckpointRefused(
            f"Flink cannot go on from {self._restored}: {why}. The graph is another one now: run it as it was, "
            "or start with --fresh"
        )


@contextmanager
def _interruption() -> Iterator[threading.Event]:
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
