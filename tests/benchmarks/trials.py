"""A streaming job under measurement: a Redis of its own, what is sent to it, the job's processes, and what
can be seen of them."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis
from numpy.typing import NDArray

from pipelines.jobs.job_description import FOLDER
from pipelines.jobs.job_status import READERS, Health, read_health
from tests.integration.streaming import children
from tests.servers import RedisServer
from transforms.redis.connection import Connection
from transforms.sources.archives import archive_files, archive_reader
from transforms.sources.redis.redis_source import RedisStreams

ROOT = Path(__file__).parents[2]
STAMPS = Path(__file__).parent / "stamps"
KEY = "kpi_reports"
KPIFLOW = [sys.executable, "-m", "pipelines.cli"]
PATIENCE = 1200.0
DERIVES = "derive"
"""The name here of the process that derives tables beside the stream."""
_TICK = 0.05
_AT_ONCE = 5000

Stamps = NDArray[np.int64]
"""int64[n, 2], microseconds since 1970: when a message was received, and when it was validated, in the order
of the latter."""


Passed = NDArray[np.int64]
"""int64[n, 2]: the id of a message, milliseconds << 20 | number, and when it passed a point, in microseconds
since 1970."""


@dataclass(frozen=True)
class Spent:
    """CPU seconds, of user and system, that a process has spent since it began."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Sample:
    """A job at a moment (seconds since 1970): unread entries, MiB resident in its processes, MiB of its
    newest checkpoint."""

    at: float
    lag: int
    rss: dict[str, float]
    checkpoint: float


class Trial:
    """A Redis server and the jobs that read it, in a folder. Processes end with the `with` block; the folder
    stays if it failed."""

    def __init__(self, folder: Path, keys: Sequence[str] = (KEY,)) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder, self.keys = folder.absolute(), tuple(keys)
        self.output, self._stamps = self.folder / "out", self.folder / "stamps"
        self._stamps.mkdir(parents=True)
        self.server = RedisServer(self.folder)
        self.client: redis.Redis = self.server.client()
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Trial":
        self.server.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.server.kill()
        if kind is None:
            shutil.rmtree(self.folder)

    def stream(self, *words: object) -> subprocess.Popen[str]:
        """The job, reading the keys; it goes on where an earlier one was."""
        path = os.pathsep.join([str(STAMPS), os.environ.get("PYTHONPATH", "")])
        of_job = [
            "--redis",
            self.server.url,
            "--stream",
            *self.keys,
            "--output",
            self.output,
            "--archive",
            self.folder / "archive",
        ]
        return self.start("stream", *of_job, *words, PYTHONPATH=path, STAMPS=str(self._stamps))

    def send(self, messages: int, per_minute: int, *words: object, place: int = 0) -> subprocess.Popen[str]:
        """Generated messages, sent to the key of that place at a rate; each key has agents of its own."""
        rate = [
            "--stream",
            self.keys[place],
            "--reports",
            messages,
            "--rate",
            per_minute,
            "--agents",
            50,
            "--seed",
            1 + place,
        ]
        return self.start("generate", "--redis", self.server.url, *rate, *words)

    def run(self, module: str, *words: object) -> subprocess.Popen[str]:
        """Another program of Python, which ends with the others."""
        return self.start(*words, program=[sys.executable, "-m", module])

    def start(
        self, *words: object, program: Sequence[str] = KPIFLOW, **environment: str
    ) -> subprocess.Popen[str]:
        """A command of kpiflow, or of another program."""
        with (self.folder / f"run-{len(self._running)}.log").open("w") as said:
            command = [*program, *map(str, words)]
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=said, stderr=said, text=True, env=os.environ | environment
            )
        self._running.append(process)
        return process

    def until(
        self,
        reached: Callable[[], bool],
        *alive: subprocess.Popen[str],
        every: float = _TICK,
        patience: float = PATIENCE,
    ) -> None:
        """Wait until something holds; a process that must live meanwhile and ends, or too long a wait, ends
        the benchmark."""
        end = time.monotonic() + patience
        while not reached():
            if any(process.poll() is not None for process in alive):
                raise SystemExit(f"a process ended too early; what it said is in {self.folder}")
            if time.monotonic() > end:
                raise SystemExit(f"nothing more happens; what was said is in {self.folder}")
            time.sleep(every)

    def ends_well(self, process: subprocess.Popen[str]) -> None:
        """Wait for a process to end by itself, with exit code 0."""
        self.until(lambda: process.poll() is not None)
        if process.returncode:
            raise SystemExit(
                f"a process ended with exit code {process.returncode}; what it said is in {self.folder}"
            )

    @property
    def health(self) -> Health:
        """What `kpiflow status` sees."""
        source = RedisStreams(Connection(self.server.url), self.keys, "kpiflow")
        return read_health(self.output, source.read_state())

    def reads(self) -> bool:
        """Whether the first reader has reported a first read."""
        return (self.output / FOLDER / READERS / "reader-0.json").exists()

    def is_read(self) -> bool:
        """Whether all that was sent is read, but for what came in the last moments of a stream that goes
        on."""
        return self.reads() and self.health.lag == 0

    def sample(self, job: subprocess.Popen[str]) -> Sample:
        """How the job does now."""
        seen = self.health
        rss = {name: _rss_mib(pid) for pid, line in children(job.pid).items() if (name := _name(line))}
        return Sample(
            time.time(), seen.lag or 0, rss, seen.checkpoint.bytes / 2**20 if seen.checkpoint else 0.0
        )

    def stamps(self) -> Stamps:
        """What Validate has noted so far."""
        found = self.passed("validated")
        found[:, 0] = received_us(found[:, 0])
        return found

    def passed(self, point: str) -> Passed:
        """The messages that have passed a point of the job so far, in that order."""
        paths = self._stamps.glob(f"*.{point}.stamps")
        parts = [np.frombuffer(_whole_pairs(path.read_bytes()), np.int64).reshape(-1, 2) for path in paths]
        found = np.concatenate([np.empty((0, 2), np.int64), *parts])
        return found[np.argsort(found[:, 1], kind="stable")]

    def points(self) -> dict[int, set[str]]:
        """The points that messages have passed in each process."""
        found: dict[int, set[str]] = {}
        for path in self._stamps.glob("*.stamps"):
            pid, point, _ = path.name.split(".")
            found.setdefault(int(pid), set()).add(point)
        return found

    def cpu(self, job: subprocess.Popen[str]) -> dict[int, Spent]:
        """What each process of a job has spent, and redis-server, which serves it and who sends."""
        lines = children(job.pid)
        named = {
            pid: _name(line) or "launcher" for pid, line in lines.items() if line
        }  # what has ended has no line
        named[job.pid] = "launcher"
        if self.server.process:
            named[self.server.process.pid] = "redis-server"
        return {pid: Spent(name, _cpu_seconds(pid)) for pid, name in named.items()}

    def sent(self) -> int:
        """Entries that were ever added to the keys."""
        return sum(
            self.client.xinfo_stream(key)["entries-added"] for key in self.keys if self.client.exists(key)
        )

    def load(self, messages: int, minutes: int, *words: object, minutes_ago: int = 60, place: int = 0) -> int:
        """A backlog in the key of that place, as of `minutes` that ended some minutes ago (an hour): how many
        entries all keys have."""
        start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60 * (minutes + minutes_ago)))
        span = [
            "--reports",
            messages,
            "--agents",
            50,
            "--seed",
            1 + place,
            "--start",
            start,
            "--span",
            f"{minutes}m",
        ]
        backlog = self.folder / "backlog"
        self.ends_well(self.start("generate", "--output", backlog, *span, *words))
        for chunk in archive_reader.read_files(archive_files.find_files([str(backlog)])):
            assert isinstance(chunk, archive_reader.Chunk), chunk
            assert not chunk.rejected.num_rows, chunk.rejected
            ids, payloads = chunk.messages["message_id"].to_pylist(), chunk.messages["payload"].to_pylist()
            for first in range(0, len(ids), _AT_ONCE):
                with self.client.pipeline(transaction=False) as pipeline:
                    for message_id, payload in zip(
                        ids[first : first + _AT_ONCE], payloads[first : first + _AT_ONCE]
                    ):
                        pipeline.xadd(self.keys[place], {"data": payload[:-1]}, id=message_id)
                    pipeline.execute()
        shutil.rmtree(backlog)
        return self.sent()

    def reconcile(self) -> None:
        """End the benchmark unless every message has exactly one fate."""
        self.ends_well(
            self.start("reconcile", self.output, "--redis", self.server.url, "--stream", *self.keys)
        )

    def stop(self, job: subprocess.Popen[str]) -> None:
        """End a job as an operator would, and wait for it."""
        job.terminate()
        job.wait(PATIENCE)

    def written(self, *tables: str) -> float:
        """When the newest file of these tables was written, in seconds since 1970."""
        return max(
            path.stat().st_mtime for table in tables for path in (self.output / table).rglob("*.parquet")
        )

    def first_read(self) -> float:
        """When the first message was read, by any reader, in seconds since 1970."""
        return float(self.passed("read")[0, 1]) / 1_000_000


def received_us(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """When messages were received, in microseconds since 1970, by their ids."""
    return (ids >> 20) * 1000


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _whole_pairs(octets: bytes) -> bytes:
    """Without what is half written at the end."""
    return octets[: len(octets) // 16 * 16]


def _name(command_line: str) -> str | None:
    """What a process of a job is called here: a worker by its place, which it keeps when a renewal starts it
    anew."""
    if "FlinkJobServerDriver" in command_line:
        return "java"
    if "pipelines.jobs.derive_loop" in command_line:
        return DERIVES
    _, _, worker = command_line.partition("runners.flink.workers --worker ")
    return f"worker {worker.split()[0].rpartition('-')[2]}" if worker else None


def _rss_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next(
        (int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0
    )
