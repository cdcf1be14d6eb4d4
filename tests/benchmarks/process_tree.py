"""What a command takes with all the processes that it starts: wall and CPU seconds, and memory at one moment.

Memory is the sum of PSS: a page that several processes share counts once.
"""

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.2
_LEAST_PAUSE = 20
"""The pause after a look, in units of what the look took: looking takes at most a twentieth of a core."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code, what it printed, its wall and CPU seconds, peak MiB (PSS)."""

    code: int
    output: str
    seconds: float
    cpu: float
    peak_mib: float


def run(command: Sequence[str], folder: Path) -> Ended:
    """Run a command to its end, with `folder` as its working directory."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
    assert process.stdout is not None
    watch = _Watch(process.pid)
    watch.start()
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    watch.end()
    process.returncode = os.waitstatus_to_exitcode(status)
    waited_for = usage.ru_utime + usage.ru_stime
    cpu = max(waited_for, sum(watch.cpu.values()))  # a process for which no parent waits is only seen
    return Ended(process.returncode, output, seconds, cpu, watch.peak_mib)


class _Watch(threading.Thread):
    """Looks at a process and those below it until `end`: the peak of their MiB together, and the CPU seconds
    of each when it was seen last."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.peak_mib = 0.0
        self.cpu: dict[int, float] = {}
        self._root, self._ended = root, threading.Event()

    def run(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            began = time.thread_time()
            tree = list(list_tree(self._root))
            self.peak_mib = max(self.peak_mib, sum(map(measure_pss, tree)))
            for process in tree:
                with suppress(OSError):
                    self.cpu[process] = _measure_cpu(process)
            pause = max(_POLL_SECONDS, _LEAST_PAUSE * (time.thread_time() - began))

    def end(self) -> None:
        """End the thread."""
        self._ended.set()
        self.join()


def list_tree(root: int) -> Iterator[int]:
    """The process, and all below it that live."""
    yield root
    for thread in Path(f"/proc/{root}/task").glob("*/children"):
        with suppress(OSError):  # the thread or the process has ended
            for child in thread.read_text().split():
                yield from list_tree(int(child))


def measure_pss(process: int) -> float:
    """The MiB of a process, its part of shared pages; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _measure_cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
