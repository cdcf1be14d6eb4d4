"""How many rows passed each stage of this process, and how long they took, for progress bars and benchmarks.

A runner shows its metrics only when a job has ended. These counts can be read at any time, but only within
one process, to which its worker processes pass theirs on. What a command reports at its end comes from
`transforms.core.run_metrics`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import pyarrow as pa

from transforms.core.run_metrics import count_in_run

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass
class Stage:
    """Rows that entered a stage, bytes it read, and the seconds spent in it, over all threads."""

    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0


_stages: dict[str, Stage] = {}
_lock = threading.Lock()


@contextmanager
def time_stage(name: str, rows: int = 0) -> Iterator[None]:
    """Count `rows` and the time of the block under a stage's name."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        add(name, rows=rows, seconds=seconds)
        count_in_run(name, rows, seconds)


def count_stage(
    name: str, kernel: Callable[Concatenate[pa.RecordBatch, P], Result]
) -> Callable[Concatenate[pa.RecordBatch, P], Result]:
    """The kernel, wrapped so that the rows of its batch and its time are counted under a stage's name."""

    @wraps(kernel)
    def counted(batch: pa.RecordBatch, *args: P.args, **kwargs: P.kwargs) -> Result:
        with time_stage(name, batch.num_rows):
            return kernel(batch, *args, **kwargs)

    return counted


def add(name: str, rows: int = 0, bytes: int = 0, seconds: float = 0.0) -> None:
    """Count towards a stage."""
    with _lock:
        stage = _stages.setdefault(name, Stage())
        stage.rows += rows
        stage.bytes += bytes
        stage.seconds += seconds


def snapshot() -> dict[str, Stage]:
    """A copy of the counts of every stage so far, in the order in which the stages began."""
    with _lock:
        return {name: Stage(stage.rows, stage.bytes, stage.seconds) for name, stage in _stages.items()}


def take() -> dict[str, Stage]:
    """The counts of every stage so far, which begin again at 0: a worker process passes them on."""
    global _stages
    with _lock:
        taken, _stages = _stages, {}
    return taken


def add_stages(stages: dict[str, Stage]) -> None:
    """Add the counts that `take` gave in a worker process."""
    for name, stage in stages.items():
        add(name, stage.rows, stage.bytes, stage.seconds)


def reset() -> None:
    """Forget all counts."""
    with _lock:
        _stages.clear()
