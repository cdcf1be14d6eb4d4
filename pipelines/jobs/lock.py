"""The job's lock: one job at a time writes to a folder of this machine.

The lock is the kernel's (`flock` on OUT/_lock), so it ends with the last process that has the file open,
however that process ends. A stream's workers inherit the open file: as long as one of them lives, no other
job can start.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipelines.failures import WrongUse

_FILE = "_lock"
_MAINTENANCE = "_maintain"
_RETRY_SECONDS = 0.1


@contextmanager
def lock_for_batch(*folders: Path) -> Iterator[tuple[int, ...]]:
    """Lock output folders for a batch: it adds rows to days that maintenance may be sealing or moving.

    Raises:
        WrongUse: another job, or maintenance, has one of them.
    """
    with lock_folders(*folders) as locks, lock_maintenance(*folders) as more:
        yield (*locks, *more)


@contextmanager
def lock_maintenance(*folders: Path) -> Iterator[tuple[int, ...]]:
    """Lock folders for what changes sealed days; a stream may be writing to them.

    Raises:
        WrongUse: a batch, or maintenance, has one of them.
    """
    with lock_folders(*folders, name=_MAINTENANCE) as locks:
        yield locks


@contextmanager
def lock_folders(*folders: Path, patience: float = 0.5, name: str = _FILE) -> Iterator[tuple[int, ...]]:
    """Lock folders for this job and yield the file descriptors; a process that inherits them keeps the locks.

    Raises:
        WrongUse: another job still has one after `patience` seconds, in which the processes of a killed job
            can end.
    """
    deadline = time.monotonic() + patience
    with ExitStack() as stack:
        descriptors = []
        for folder in dict.fromkeys(each.resolve() for each in folders):
            descriptor = stack.enter_context((folder / name).open("a")).fileno()
            while not _try_lock(descriptor):
                if time.monotonic() >= deadline:
                    fix = "wait for it, or name another output"
                    who = (
                        "another job is writing to"
                        if name == _FILE
                        else "`kpiflow maintain`, or a batch, has"
                    )
                    raise WrongUse(f"{who} {folder}", fix)
                time.sleep(_RETRY_SECONDS)
            descriptors.append(descriptor)
        yield tuple(descriptors)


def is_locked(folder: Path) -> bool:
    """Whether a job is writing to the folder. No file is created."""
    if not (folder / _FILE).exists():
        return False
    with (folder / _FILE).open("a") as file:
        return not _try_lock(file.fileno())


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
