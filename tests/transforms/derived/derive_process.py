"""`kpiflow derive` in processes of their own that are killed at a named step.

A fork server loads the program once, so that a process costs little.
"""

import importlib
import os
import signal
from collections.abc import Callable
from functools import wraps
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.cli import run
from tests.patience import PATIENCE

STEPS = {
    "lock": ("pipelines.jobs.derive", "lock_home"),
    "read what files were made of": ("transforms.derived.derived_files", "DerivedFiles.read"),
    "keep a stored file": ("transforms.derived.snapshot", "FileSnapshot.hold"),
    "run the SQL": ("transforms.derived.engine", "run_sql"),
    "write a new file": ("transforms.core.durable_files", "_write_new"),
    "rename it": ("pathlib", "Path.replace"),
    "sync its folder": ("transforms.core.durable_files", "sync_path"),
    "remove a file without rows": ("transforms.storage.local_folder", "LocalFolder.remove"),
    "write the state": ("pipelines.jobs.derive", "write_state"),
}
"""By name: the module and function of each step of `derive`."""


class Kill(NamedTuple):
    """A kill `before` or `after` a step, the `at`-th time that it is done."""

    side: str
    step: str
    at: int = 1


def start_derive(output: Path, kill: Kill | None = None) -> BaseProcess:
    """The command, running."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_derive, args=(output, kill))
    process.start()
    return process


def finish(process: BaseProcess) -> int:
    """The exit code of a process; of one that was killed the negative signal."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "it never ends"
    return process.exitcode


def _derive(output: Path, kill: Kill | None) -> None:
    if kill is not None:
        _arm(kill)
    os._exit(run(["derive", str(output)]))


def _arm(kill: Kill) -> None:
    module, name = STEPS[kill.step]
    *owners, last = name.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    setattr(owner, last, _deadly(getattr(owner, last), kill))


def _deadly(function: Callable[..., Any], kill: Kill) -> Callable[..., Any]:
    calls = iter(range(kill.at - 1))

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        is_last = next(calls, None) is None
        if is_last and kill.side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called
