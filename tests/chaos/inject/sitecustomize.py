"""Inject faults into a run. Python imports this module in every process whose PYTHONPATH has this folder.

Environment variables name the faults:

FAULTS: a JSON list of faults that happen in workers one after the other, each once in all runs:
    `point` (see POINTS), `at` (at which passage of the point), `done` (a file that is made first), and
    either `kills` (worker, java or all) or `holds`: the worker stops (SIGSTOP), and does not die with its
    parent.
POISON: a text; validation raises at messages that contain it, in backfills too.
HASTY: the group's offset is committed as soon as entries are read, before a checkpoint holds them.
"""

import ctypes
import importlib.abc
import importlib.machinery
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

POINTS = {
    "after read": ("transforms.sources.redis.reader", "Reader.read", "after"),
    "before write": ("transforms.sinks.parquet.parquet_store", "write_rows", "before"),
    "after write": ("transforms.sinks.parquet.parquet_store", "write_rows", "after"),
    "before rename": ("pathlib", "Path.replace", "before"),
    "after rename": ("pathlib", "Path.replace", "after"),
    "before commit": ("transforms.sources.redis.offsets", "CommittedOffsets.commit", "before"),
    "after commit": ("transforms.sources.redis.offsets", "CommittedOffsets.commit", "after"),
}
RENAME = Path.replace
TABLE_FILE = re.compile(r"\..*\.parquet\..*\.kpiflow")
"""The name of a table's file before it is renamed. Other files are replaced in the same way."""
PR_SET_PDEATHSIG = 1
WORKER = "--worker" in sys.orig_argv
HOLDING = threading.Event()
"""Whether this worker is stopped, or was."""
FAULTS: list[dict[str, Any]] = json.loads(os.environ.get("FAULTS", "[]")) if WORKER else []

Edit = Callable[[Any], Any]
"""From a function to the one that takes its place."""
EDITS: dict[str, list[tuple[str, Edit]]] = defaultdict(list)
"""By module: names of functions in it, and what becomes of them."""


def happen(fault: dict[str, Any]) -> None:
    """Hold this process, or end whom the fault ends, if they live and no other process has done so yet."""
    launcher = os.getppid()
    parts = {
        "worker": [os.getpid()],
        "java": children(launcher, "java"),
        "all": [launcher, os.getpid()],
        None: [os.getpid()],
    }
    victims = parts[fault.get("kills")]
    if not victims:
        return
    try:
        os.close(os.open(fault["done"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if "holds" in fault:
        # The whole process: else it ends once Java hangs up, unless this thread is one that Python waits for.
        HOLDING.set()
        os.kill(os.getpid(), signal.SIGSTOP)
    for victim in victims if "kills" in fault else ():
        os.kill(victim, signal.SIGKILL)


def children(parent: int, name: str) -> list[int]:
    """The living children of a process whose program has this name."""
    stats = (path.read_text().rpartition(")") for path in Path("/proc").glob("[0-9]*/stat"))
    found = [(int(head.split()[0]), head.partition("(")[2], *tail.split()[:2]) for head, _, tail in stats]
    return [
        pid for pid, called, state, above in found if int(above) == parent and called == name and state != "Z"
    ]


def faulty(
    side: str, due: list[tuple[int, dict[str, Any]]], function: Callable[..., Any]
) -> Callable[..., Any]:
    """The function with faults at it; each counts the calls since all faults before it have happened."""
    calls = {place: itertools.count(1) for place, _ in due}

    def pass_by(args: tuple[Any, ...]) -> None:
        if function is RENAME and not TABLE_FILE.fullmatch(args[0].name):
            return
        for place, fault in due:
            armed = all(os.path.exists(before["done"]) for before in FAULTS[:place])
            if armed and not os.path.exists(fault["done"]) and next(calls[place]) >= fault["at"]:
                happen(fault)

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if side == "before":
            pass_by(args)
        result = function(*args, **kwargs)
        if side == "after":
            pass_by(args)
        return result

    return called


def poisoned(mark: bytes, validate: Callable[..., Any]) -> Callable[..., Any]:
    """A validation that raises at messages with a mark."""

    def called(messages: Any, *args: Any) -> Any:
        if any(mark in payload for payload in messages["payload"].to_pylist()):
            raise RuntimeError("this message is poison")
        return validate(messages, *args)

    return called


def hasty(end: Callable[..., Any]) -> Callable[..., Any]:
    """`Commits.end` without its patience."""

    def called(self: Any, positions: Any) -> Any:
        self._commit(positions)
        return end(self, positions)

    return called


def edits() -> None:
    """What the environment asks for."""
    by_point = defaultdict(list)
    for place, fault in enumerate(FAULTS):
        by_point[POINTS[fault["point"]]].append((place, fault))
    for (module, name, side), due in by_point.items():
        EDITS[module].append((name, partial(faulty, side, due)))
    if mark := os.environ.get("POISON"):
        EDITS["transforms.validation.validate"].append(("judge_block", partial(poisoned, mark.encode())))
    if "HASTY" in os.environ:
        EDITS["transforms.sources.redis.commits"].append(("Commits.end", hasty))


def patch(module: ModuleType) -> None:
    """Put edited functions in the place of the module's."""
    for name, edit in EDITS[module.__name__]:
        *owners, last = name.split(".")
        owner: Any = module
        for each in owners:
            owner = getattr(owner, each)
        setattr(owner, last, edit(getattr(owner, last)))


def die_with(parent: int) -> None:
    """End this process once its parent has ended, unless it is one that is held.

    The kernel does this for every worker. The signal belongs to the thread that asked for it, so it has to be
    given up at the start, before it is known which worker will be stopped.
    """
    while os.getppid() == parent or HOLDING.is_set():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


class Patching(importlib.abc.MetaPathFinder):
    """Finds modules as usual, and patches those with edits once they are loaded."""

    def find_spec(
        self, fullname: str, path: Any, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in EDITS:
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


edits()
if EDITS:
    patch(sys.modules["pathlib"])
    sys.meta_path.insert(0, Patching())
if any("holds" in fault for fault in FAULTS):
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
    threading.Thread(target=die_with, args=(os.getppid(),), daemon=True).start()
