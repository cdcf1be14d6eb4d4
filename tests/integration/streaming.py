"""A stream job on the real Redis and the real Flink, as tests run it: short intervals, processes that can be
killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from pipelines.cli import run
from tests.patience import PATIENCE
from tests.servers import RedisServer

ROOT = Path(__file__).parents[2]
INJECT = ROOT / "tests" / "chaos" / "inject"
KEY = "layer4_kpi_reports"
QUICK = ("--checkpoint-seconds", "1", "--flush-seconds", "1", "--read-count", "500")


@dataclass
class Scene:
    """A Redis server, a folder, and what is done between them. With `elsewhere` tables go to these URLs only,
    and the folder is the job's home. Commands that are asked run in this process, or `apart` from it with the
    environment as it is then."""

    server: RedisServer
    folder: Path
    keys: tuple[str, ...] = (KEY,)
    runs: list[subprocess.Popen[str]] = field(default_factory=list)
    elsewhere: tuple[str, ...] = ()
    apart: bool = False

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def add(self, reports: int = 2000, seed: int = 1, key: str = KEY, rate: int = 0) -> None:
        """Put generated messages into a stream, at a rate a minute or at once."""
        words = ["--reports", reports, "--agents", 20, "--seed", seed, "--rate", rate]
        self.ask("generate", "--redis", self.server.url, "--stream", key, *words)

    def start(self, *words: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """The streaming job, in a process of its own; what it says goes to a file."""
        command = [
            sys.executable,
            "-m",
            "pipelines.cli",
            "stream",
            "--redis",
            self.server.url,
            "--stream",
            *self.keys,
        ]
        outputs = [word for url in self.elsewhere or (str(self.output),) for word in ("--output", url)]
        command += [*outputs, *(("--state", str(self.output)) if self.elsewhere else ())]
        command += ["--archive", str(self.folder / "archive"), *QUICK, *map(str, words)]
        said = (self.folder / f"run-{len(self.runs)}.log").open("w")
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=said, stderr=said, text=True, env=os.environ | (env or {})
        )
        self.runs.append(process)
        return process

    def finish(self, *words: object) -> None:
        """Run the job until all is in the tables."""
        process = self.start("--until-idle", *words)
        assert process.wait(PATIENCE) == 0, self.said()

    def survive(self, env: Mapping[str, str], *words: object) -> int:
        """Run the job, again after each time that it dies, until all is in the tables: how often it was
        started."""
        for start in range(1, 30):
            if self.start("--until-idle", *words, env=env).wait(PATIENCE) == 0:
                return start
        raise AssertionError(f"it never ends well: {self.said()}")

    def said(self) -> str:
        """What the newest run said."""
        return (self.folder / f"run-{len(self.runs) - 1}.log").read_text()

    def until(self, reached: Any) -> None:
        """Wait until something holds, while the newest run lives."""
        end = time.monotonic() + PATIENCE
        while not reached():
            assert self.runs[-1].poll() is None, f"the run ended: {self.said()}"
            assert time.monotonic() < end, f"never got there: {self.said()}"
            time.sleep(0.05)

    def read(self) -> int:
        """Messages that the readers of the newest run have read."""
        reports = (self.output / "_stream" / "readers").glob("reader-*.json")
        return sum(json.loads(path.read_text())["read"] for path in reports)

    def ask(self, *words: object, code: int = 0) -> str:
        """What a command says on stdout."""
        ended, out, err = (_run_apart if self.apart else _run_here)([str(word) for word in words])
        assert ended == code, f"{words}: {ended}\n{out}\n{err}"
        return out

    def verdict(self) -> dict[str, Any]:
        """What reconcile says of the output and the streams."""
        return json.loads(
            self.ask("reconcile", self.output, "--redis", self.server.url, "--stream", *self.keys, "--json")
        )

    def prove(self) -> dict[str, Any]:
        """Nothing is missing or counted twice, and a backfill of the archive that the stream wrote gives the
        same tables."""
        verdict = self.verdict()
        assert [verdict[name] for name in ("missing", "surplus", "unreadable", "uncommitted")] == [
            0,
            0,
            0,
            0,
        ], verdict
        again = self.folder / f"backfill-{len(self.runs)}"
        self.ask("backfill", "--input", self.folder / "archive", "--output", again)
        self.ask("parity", self.output, again)
        return verdict


def _run_here(words: list[str]) -> tuple[int, str, str]:
    """A command's exit code, and what it says on stdout and on stderr."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        return run(words), out.getvalue(), err.getvalue()


def _run_apart(words: list[str]) -> tuple[int, str, str]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "pipelines.cli", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


def children(parent: int) -> dict[int, str]:
    """The command lines of the processes that a process has started, and those of theirs."""
    found: dict[int, str] = {}
    above = {parent}
    stats = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            ppid = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            line = path.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode()
            stats[int(path.name)] = (ppid, line)
        except (FileNotFoundError, ProcessLookupError):
            continue
    while above:
        below = {pid: line for pid, (ppid, line) in stats.items() if ppid in above and pid not in found}
        found |= below
        above = set(below)
    return found


def kill(process: subprocess.Popen[str], part: str) -> None:
    """SIGKILL a part of a run: `all` (the launcher, which takes the rest along), `java`, or `worker` (one of
    them)."""
    if part == "all":
        process.kill()
        process.wait(PATIENCE)
        return
    mark = {"java": "FlinkJobServerDriver", "worker": "runners.flink.workers --worker"}[part]
    for pid, line in children(process.pid).items():
        if mark in line:
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError(f"no {part} among {children(process.pid)}")


@contextmanager
def end_runs(scene: Scene) -> Iterator[Scene]:
    """No run outlives its test."""
    try:
        yield scene
    finally:
        for process in scene.runs:
            if process.poll() is None:
                process.kill()
                process.wait(PATIENCE)
