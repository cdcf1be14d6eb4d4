"""The processes with which a job on Flink is run: Java, and the Python workers.

    this process ---- job server and Flink (Java)
          |                    | asks for workers
          '---- worker pool ---'---- workers (Python), in which the graph's steps run

All of them die with this process. Where a cluster is used, Java is only the job server.
"""

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import apache_beam as beam
import grpc

from runners.flink.engine import Engine, make_folders, make_java_arguments, refuse_taken
from runners.flink.jars import ensure_jars, find_java
from runners.flink.processes import LOOPBACK, Child, Log, start
from runners.flink.rest import Rest, find_root_cause
from runners.flink.submission import Submission, submit
from runners.flink.workers import WorkerPool, serve_pool

Build = Callable[[beam.Pipeline], None]

REPORT_SECONDS = 1.0
"""From one report of a job's progress to the next."""
_PORTS = re.compile(rb"JobService started on \S*?:(?P<job>\d+)|Rest endpoint listening at \S*?:(?P<rest>\d+)")
_HUNG_UP = re.compile("CANCELLED|UNAVAILABLE|[Cc]losed|[Cc]ancelled|INTERNAL")
"""Causes that only say that a worker is gone."""
_START_SECONDS = 180.0
_END_SECONDS = 15.0
_TICK = 0.1


class FlinkFailed(RuntimeError):  # noqa: N818 (an end, not only an error)
    """Flink, or the job on it, ended for good; the message has the cause and names the log."""


class JobServer:
    """The running processes of an engine.

    `interrupted` is set by the first SIGINT or SIGTERM; the second one raises KeyboardInterrupt.
    """

    def __init__(
        self, engine: Engine, java: Child, pool: WorkerPool, pool_port: int, interrupted: threading.Event
    ) -> None:
        self._engine, self._java, self._pool, self._pool_port = engine, java, pool, pool_port
        self.interrupted = interrupted

    @property
    def log(self) -> Path:
        """What Java writes."""
        return self._engine.folder / "logs" / "flink.log"

    def wait_for_start(self) -> None:
        """Wait until jobs can be submitted.

        Raises:
            FlinkFailed: Java ended, or does not get there in time.
            KeyboardInterrupt: it was interrupted.
        """
        self._wait_until(lambda: "job" in self._java.matches, "Flink's job server does not start")

    def submit(self, build: Build, make_options: Callable[[str, int], Sequence[str]]) -> Submission:
        """Submit a graph, and wait until Flink's REST interface is known or the job is over.

        Args:
            make_options: from the job server's port and that of the worker pool, the job's Beam options.

        Raises:
            FlinkFailed: the job is not accepted.
            KeyboardInterrupt: it was interrupted.
        """
        self._java.matches.pop("rest", None)  # each job of the embedded Flink has a port of its own
        try:
            submission = submit(build, make_options(self._java.matches["job"], self._pool_port))
        except grpc.RpcError as error:
            self._check_end()
            raise self.fail("Flink's job server does not accept the job", self._java.last_line) from error
        self._wait_until(lambda: self.find_rest() is not None or submission.is_over, "Flink does not start")
        return submission

    def find_rest(self) -> Rest | None:
        """Flink's REST interface, once its address is known."""
        if self._engine.master is not None:
            return Rest(f"http://{self._engine.master}")
        port = self._java.matches.get("rest")
        return Rest(f"http://{LOOPBACK}:{port}") if port else None

    def check(self) -> None:
        """Raise FlinkFailed with how the Java process has ended, if it has."""
        if (code := self._java.exit_code) is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise self.fail(f"Flink's Java process {how}", self._java.last_line)

    def find_cause(self, trace: str | None) -> str | None:
        """Why a job failed: if Flink only knows that a worker is gone, what the pool knows of it."""
        cause = find_root_cause(trace) if trace else None
        return self._pool.find_death() or cause if cause and _HUNG_UP.search(cause) else cause

    def explain_end(self, submission: Submission) -> FlinkFailed:
        """The error for a job that is over without success."""
        if submission.has_hung_up:
            self._check_end()
        return self.fail("the job ended", self.find_cause(submission.text) or "")

    def fail(self, what: str, why: str) -> FlinkFailed:
        """The error for an end of the job: what happened, and its cause."""
        return FlinkFailed(f"{what}: {why or 'it gave no reason'}; the whole story is in {self.log}")

    def warn(self, what: str) -> None:
        """Write a warning to the log."""
        self._java.write_log(f"WARN kpiflow: {what}\n".encode())

    def _check_end(self) -> None:
        """Wait until a Java process that has hung up has ended, which takes seconds on a busy machine; raise
        FlinkFailed with how it ended. Return if it lives on."""
        end = time.monotonic() + _END_SECONDS
        while self._java.exit_code is None and not self.interrupted.is_set() and time.monotonic() < end:
            time.sleep(_TICK)
        self.check()

    def _wait_until(self, is_reached: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + _START_SECONDS
        while not is_reached():
            if self.interrupted.is_set():
                raise KeyboardInterrupt
            if self._java.exit_code is not None or time.monotonic() > end:
                raise self.fail(otherwise, self._java.last_line)
            time.sleep(_TICK)


@contextmanager
def start_job_server(engine: Engine) -> Iterator[JobServer]:
    """Start the processes, and end them with the block.

    Raises:
        FlinkMissing: Java or Flink's jars are missing.
        TakenOptionError: Beam options that the engine decides itself.
        FlinkFailed: Java ended, or does not start in time.
    """
    refuse_taken(engine.beam_options)
    java = find_java()
    jars = ensure_jars(engine.jars, lambda line: print(line, file=sys.stderr))

    def open_log(name: str) -> Log:
        return Log(engine.folder / "logs" / name, form=engine.form)

    with (
        make_folders(engine.folder),
        _catch_interruption() as interrupted,
        serve_pool(open_log("workers.log"), engine.keep_open, engine.within) as (pool, port),
    ):
        command, log = [java, *make_java_arguments(engine, jars)], open_log("flink.log")
        child = start(command, log, pattern=_PORTS, keep_open=engine.keep_open)
        try:
            server = JobServer(engine, child, pool, port, interrupted)
            server.wait_for_start()
            yield server
        finally:
            child.stop(patience=0)


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
