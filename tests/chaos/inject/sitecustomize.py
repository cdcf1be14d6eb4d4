"""Dies at a named point. Python imports this by itself in every process of a run whose PYTHONPATH has this folder.

FAULT names the point (see POINTS), FAULT_AT the how many-th time it is passed, FAULT_KILLS whom it takes along (worker, java, all), and
FAULT_DONE a file that is made first, so that it happens once in all processes of all runs.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

POINTS = {
    "after read": ("transforms.sources.positions", "Reader.read", "after"),
    "before write": ("transforms.sinks.parquet", "write", "before"),
    "after write": ("transforms.sinks.parquet", "write", "after"),
    "before rename": ("pathlib", "Path.replace", "before"),
    "after rename": ("pathlib", "Path.replace", "after"),
    "before commit": ("transforms.sources.positions", "Reader.commit", "before"),
    "after commit": ("transforms.sources.positions", "Reader.commit", "after"),
}


def die() -> None:
    """End this process, as FAULT_KILLS says, if no other has done so yet."""
    try:
        os.close(os.open(os.environ["FAULT_DONE"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    launcher = os.getppid()
    victims = {"worker": [os.getpid()], "java": _children(launcher, "java"), "all": [launcher, os.getpid()]}
    for victim in victims[os.environ["FAULT_KILLS"]]:
        os.kill(victim, signal.SIGKILL)


def _children(parent: int, name: str) -> list[int]:
    stats = (path.read_text().rpartition(")") for path in Path("/proc").glob("[0-9]*/stat"))
    found = [(int(head.split()[0]), head.partition("(")[2], int(tail.split()[1])) for head, _, tail in stats]
    return [pid for pid, called, above in found if above == parent and called == name]


def faulty(function: Callable[..., Any], side: str, at: int) -> Callable[..., Any]:
    """The function, whose `at`-th call is the point."""
    calls = itertools.count(1)

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        due = next(calls) == at
        if due and side == "before":
            die()
        result = function(*args, **kwargs)
        if due and side == "after":
            die()
        return result

    return called


def patch(module: ModuleType, name: str, side: str, at: int) -> None:
    """Put the faulty function in the place of the module's."""
    *owners, last = name.split(".")
    owner: Any = module
    for each in owners:
        owner = getattr(owner, each)
    setattr(owner, last, faulty(getattr(owner, last), side, at))


class Patching(importlib.abc.MetaPathFinder):
    """Finds the module as usual, and patches it once it is loaded."""

    def __init__(self, module: str, name: str, side: str, at: int) -> None:
        self.module, self.how = module, (name, side, at)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            patch(module, *self.how)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "FAULT" in os.environ and "runners.workers" in sys.orig_argv:
    module, name, side = POINTS[os.environ["FAULT"]]
    at = int(os.environ["FAULT_AT"])
    if module in sys.modules:
        patch(sys.modules[module], name, side, at)
    else:
        sys.meta_path.insert(0, Patching(module, name, side, at))
