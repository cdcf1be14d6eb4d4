"""How a command begins and ends, where its log is JSON."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

from pipelines.failures import Failure
from transforms.core.events import COMMAND_ENDED, COMMAND_FAILED, COMMAND_STARTED, log_event


@contextmanager
def follow_command(command: str) -> Iterator[Callable[[Failure | int], int]]:
    """Log that a command starts; yields what logs its end and returns the exit code."""
    began = time.perf_counter()
    log_event(COMMAND_STARTED, command=command, version=version("kpiflow"))

    def report(end: Failure | int) -> int:
        seconds = round(time.perf_counter() - began, 3)
        code = end if isinstance(end, int) else end.code
        facts = {"command": command, "exit_code": code, "seconds": seconds}
        if isinstance(end, Failure):
            log_event(COMMAND_FAILED, **facts, error=str(end), fix=end.fix)
        else:
            log_event(COMMAND_ENDED, **facts)
        return code

    yield report
