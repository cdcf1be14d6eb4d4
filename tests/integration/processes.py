"""`kpiflow` as a process of its own, for tests in which it must die."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]


def start_command(*words: object) -> subprocess.Popen[str]:
    """The command, running. It can be interrupted, though this process may be in the background of a shell,
    where none can be."""
    command = [sys.executable, "-m", "pipelines.cli", *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, preexec_fn=_interruptible)


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Wait until something holds while the process runs; an AssertionError if it ends before, or never gets
    there."""
    end = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, f"the process ended before it got there: {process.communicate()}"
        assert time.monotonic() < end, "the process never got there"
        time.sleep(0.001)


def count_files(output: Path) -> int:
    """How many finished files of tables an output has."""
    return sum(1 for path in output.rglob("*.parquet") if not path.name.startswith("."))


def wait_for_ends(processes: Iterable[int]) -> None:
    """Wait until the processes run no more; an AssertionError if one never ends."""
    end = time.monotonic() + PATIENCE
    while left := [each for each in processes if _is_running(each)]:
        assert time.monotonic() < end, f"still running: {left}"
        time.sleep(0.01)


def _is_running(process: int) -> bool:
    """Whether a process is there and is no zombie: nobody may wait for orphans in a container."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
