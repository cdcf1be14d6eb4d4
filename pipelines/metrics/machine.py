"""What a job's processes use of this machine, and what they may use, from /proc and the control group."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipelines.jobs.run_record import COMMAND, WORKER

JAVA, OTHER = "java", "other"
_MARKS = {"FlinkJobServerDriver": JAVA, "runners.flink.workers": WORKER}
"""What the command lines of a role's processes contain."""
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_PAGE, _TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
_UTIME, _STIME = 11, 12
"""Their places in /proc/PID/stat, counted after the name."""


class Usage(NamedTuple):
    """Resident memory in bytes by role, and the CPU seconds of Java, which measures nothing by itself."""

    memory: dict[str, int]
    java_cpu: float | None


class MachineLimits(NamedTuple):
    """What the control group of a process allows, or else what the machine has: bytes of memory, cores."""

    memory: int
    cores: float


def measure_usage(pid: int) -> Usage:
    """What a command and the processes below it use; nothing if it does not run."""
    memory: Counter[str] = Counter()
    java = None
    for process in _list_below(pid):
        with suppress(OSError, IndexError, ValueError):
            role = COMMAND if process == pid else _find_role(process)
            memory[role] += int(_read(process, "statm").split()[1]) * _PAGE
            java = _read_cpu(process) if role == JAVA else java
    return Usage(dict(memory), java)


def read_limits() -> MachineLimits:
    """The limits of this process; those of a job on the same machine are the same."""
    memory, cores = os.sysconf("SC_PHYS_PAGES") * _PAGE, float(os.cpu_count() or 1)
    for folder in _list_groups():
        with suppress(OSError, ValueError):
            memory = min(memory, int((folder / "memory.max").read_text()))
        with suppress(OSError, ValueError):
            quota, period = map(int, (folder / "cpu.max").read_text().split())
            cores = min(cores, quota / period)
    return MachineLimits(memory, cores)


def _list_groups() -> Iterator[Path]:
    """The folders of the control group of this process (version 2), and of those around it."""
    with suppress(OSError):
        for line in (_PROC / "self" / "cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = _CGROUPS / line.removeprefix("0::").strip().lstrip("/")
                yield from (each for each in (own, *own.parents) if each.is_relative_to(_CGROUPS))


def _list_below(pid: int) -> Iterator[int]:
    """A process that runs, and those below it. Java has a hundred threads, so their files are read without
    pathlib: that takes half of the time."""
    tasks = f"{_PROC}/{pid}/task"
    with suppress(OSError):
        threads = os.listdir(tasks)
        yield pid
        for thread in threads:
            with suppress(OSError), open(f"{tasks}/{thread}/children", encoding="ascii") as file:
                for child in file.read().split():
                    yield from _list_below(int(child))


def _find_role(pid: int) -> str:
    line = _read(pid, "cmdline")
    return next((role for mark, role in _MARKS.items() if mark in line), OTHER)


def _read_cpu(pid: int) -> float:
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS


def _read(pid: int, name: str) -> str:
    return (_PROC / str(pid) / name).read_text(errors="replace")
