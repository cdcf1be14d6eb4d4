"""Faults of a streaming job in tests: parts that are killed or stopped, changed code; and what to wait
for meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.streaming import INJECT, KEY, ROOT, Scene, children
from tests.patience import PATIENCE


def inject(faults: Sequence[Mapping[str, object]] = (), **variables: str) -> dict[str, str]:
    """The environment of runs whose code is changed by tests/chaos/inject."""
    path = os.pathsep.join([str(INJECT), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path, "FAULTS": json.dumps(list(faults)), **variables}


def kill_at(folder: Path, point: str, part: str, at: int = 2) -> dict[str, object]:
    """A kill of a part (worker, java, all) the `at`-th time that a worker passes a point."""
    return {"point": point, "kills": part, "at": at, "done": str(folder / f"{part} {point}")}


def hold_at(folder: Path, point: str, at: int = 2) -> dict[str, object]:
    """A worker that outlives its run: it is stopped at a point, until SIGCONT."""
    return {"point": point, "holds": "worker", "at": at, "done": str(folder / "held")}


def start_producer(scene: Scene, reports: int, rate: int, *more: str) -> subprocess.Popen[bytes]:
    """A producer that sends at a rate a minute, while the run dies and comes back."""
    words = ["--stream", KEY, "--reports", reports, "--rate", rate, "--agents", 20, *more]
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "generate",
        "--redis",
        scene.server.url,
        *map(str, words),
    ]
    return subprocess.Popen(command, cwd=ROOT)


def workers(run: subprocess.Popen[str]) -> list[int]:
    """The worker processes of a run."""
    return processes(run, "worker")


def processes(run: subprocess.Popen[str], part: str) -> list[int]:
    """The processes of a part of a run: worker, java, or all (the launcher)."""
    if part == "all":
        return [run.pid]
    mark = {"java": "FlinkJobServerDriver", "worker": "runners.flink.workers --worker"}[part]
    return [pid for pid, line in children(run.pid).items() if mark in line]


@contextmanager
def stop_workers(run: subprocess.Popen[str]) -> Iterator[None]:
    """Stop all workers of a run (SIGSTOP) while the block runs."""
    pids = workers(run)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGCONT)


def alive(pid: int) -> bool:
    """Whether a process runs, be it stopped."""
    return read_state(pid) not in "ZX"


def read_state(pid: int) -> str:
    """The kernel's letter for the state of a process: T if it is stopped, X if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def until(reached: Callable[[], Any]) -> None:
    """Wait until something holds, whatever lives or not."""
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def interrupt(scene: Scene) -> None:
    """End the newest run in order."""
    scene.runs[-1].send_signal(signal.SIGINT)
    assert scene.runs[-1].wait(PATIENCE) == 130, scene.said()


def read_offset(scene: Scene, group: str = "kpiflow") -> str:
    """The group's place in the stream."""
    with scene.server.client() as client:
        found = {
            each["name"].decode(): each["last-delivered-id"].decode() for each in client.xinfo_groups(KEY)
        }
    return str(found[group])


def is_caught_up(scene: Scene) -> bool:
    """Whether the group has come to the stream's end: all there is has been read, and is in a checkpoint."""
    with scene.server.client() as client:
        return read_offset(scene) == client.xinfo_stream(KEY)["last-generated-id"].decode()
