"""Dies at named points. Python imports this by itself in every process of a run whose PYTHONPATH has this folder.

FAULTS is a JSON list of faults that happen one after the other, each once in all processes of all runs: `point` (see POINTS), `at`
(the how many-th time it is passed), `kills` (worker, java or all) and `done`, a file that is made first.
"""

import importlib.abc
import importlib.machinery
import itertools
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

POINTS = {
    "after read": ("transforms.sources.reader", "Reader.read", "after"),
    "before write": ("transforms.sinks.parquet", "write", "before"),
    "after write": ("transforms.sinks.parquet", "write", "after"),
    "before rename": ("pathlib", "Path.replace", "before"),
    "after rename": ("pathlib", "Path.replace", "after"),
    "before commit": ("transforms.sources.reader", "Reader.commit", "before"),
    "after commit": ("transforms.sources.reader", "Reader.commit", "after"),
}
RENAME = Path.replace
FAULTS: list[dict[str, Any]] = json.loads(os.environ.get("FAULTS", "[]"))


def die(fault: dict[str, Any]) -> None:
    """End whom the fault ends, if they live and no other process has done so yet."""
    launcher = os.getppid()
    victims = {"worker": [os.getpid()], "java": children(launcher, "java"), "all": [launcher, os.getpid()]}[fault["kills"]]
    if not victims:
        return
    try:
        os.close(os.open(fault["done"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    for victim in victims:
        os.kill(victim, signal.SIGKILL)


def children(parent: int, name: str) -> list[int]:
    """The living children of a process whose program has this name."""
    stats = (path.read_text().rpartition(")") for path in Path("/proc").glob("[0-9]*/stat"))
    found = [(int(head.split()[0]), head.partition("(")[2], *tail.split()[:2]) for head, _, tail in stats]
    return [pid for pid, called, state, above in found if int(above) == parent and called == name and state != "Z"]


def faulty(function: Callable[..., Any], side: str, due: list[tuple[int, dict[str, Any]]]) -> Callable[..., Any]:
    """The function with faults at it; each counts the calls since all faults before it have happened."""
    calls = {place: itertools.count(1) for place, _ in due}

    def pass_by(args: tuple[Any, ...]) -> None:
        if function is RENAME and not args[0].name.endswith(".kpiflow"):
            return
        for place, fault in due:
            armed = all(os.path.exists(before["done"]) for before in FAULTS[:place])
            if armed and not os.path.exists(fault["done"]) and next(calls[place]) >= fault["at"]:
                die(fault)

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if side == "before":
            pass_by(args)
        result = function(*args, **kwargs)
        if side == "after":
            pass_by(args)
        return result

    return called


def patch(module: ModuleType) -> None:
    """Put faulty functions in the place of the module's."""
    by_point = defaultdict(list)
    for place, fault in enumerate(FAULTS):
        by_point[POINTS[fault["point"]]].append((place, fault))
    for (home, name, side), due in by_point.items():
        if home == module.__name__:
            *owners, last = name.split(".")
            owner: Any = module
            for each in owners:
                owner = getattr(owner, each)
            setattr(owner, last, faulty(getattr(owner, last), side, due))


class Patching(importlib.abc.MetaPathFinder):
    """Finds modules as usual, and patches those with points once they are loaded."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname not in {home for home, _, _ in POINTS.values()}:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if FAULTS and "--worker" in sys.orig_argv:
    patch(sys.modules["pathlib"])
    sys.meta_path.insert(0, Patching())
