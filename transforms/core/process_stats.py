"""What a process of a stream measures of itself, for `kpiflow metrics`: latencies, attempts, CPU time.

Nothing is measured unless the process works within `record_process`. It then keeps a status file of its own,
which is replaced once a second; a process that is killed loses what it measured in its last second. These are
process counters: a message that is read again after a restart is measured again.
"""

import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.status_files import write_status
from transforms.core.typed_json import Count

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0)
"""Upper bounds of the buckets of latencies, in seconds; a last bucket has what is longer."""
VALIDATED, PUBLISHED, WRITTEN = "validated", "published", "written"
"""The stages that a latency is measured to, from the time at which the message was received."""
REDIS = "redis"
"""The peer that Redis is; a sink is called by its name."""
_SECONDS = 1.0
_BOUNDS = np.array([round(bound * 1e6) for bound in LATENCY_BOUNDS])


_Buckets = Annotated[
    list[Count], msgspec.Meta(min_length=len(LATENCY_BOUNDS) + 1, max_length=len(LATENCY_BOUNDS) + 1)
]


class StatsFile(TypedDict, total=False):
    """What a process writes of its ProcessStats; earlier versions wrote less."""

    latency: dict[str, tuple[_Buckets, float]]
    attempts: dict[str, Count]
    errors: dict[str, Count]
    expired: dict[str, Count]
    cpu: dict[str, float]


@dataclass
class Latency:
    """Messages by bucket of LATENCY_BOUNDS, and the sum of their latencies in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    seconds: float = 0.0

    def add(self, counts: list[int], seconds: float) -> None:
        """Add messages."""
        self.counts = [one + other for one, other in zip(self.counts, counts)]
        self.seconds += seconds


@dataclass
class ProcessStats:
    """What processes have measured.

    Attributes:
        latency: by stage.
        attempts, errors: uses of each peer, and those of them that failed.
        expired: messages that were not written because their rows would lie in what has expired, by kind.
        cpu: seconds of CPU time, by what the processes are for.
    """

    latency: dict[str, Latency] = field(default_factory=lambda: defaultdict(Latency))
    attempts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    expired: Counter[str] = field(default_factory=Counter)
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, other: "ProcessStats") -> None:
        """Add what another process has measured."""
        for stage, latency in other.latency.items():
            self.latency[stage].add(latency.counts, latency.seconds)
        self.attempts.update(other.attempts)
        self.errors.update(other.errors)
        self.expired.update(other.expired)
        for role, seconds in other.cpu.items():
            self.cpu[role] += seconds

    def as_json(self) -> dict[str, Any]:
        """The same as JSON's types, as a copy: it can be written while other threads go on counting."""
        latency = {stage: [each.counts, each.seconds] for stage, each in self.latency.items()}
        counted = {"attempts": self.attempts, "errors": self.errors, "expired": self.expired}
        counts = {name: dict(counter) for name, counter in counted.items()}
        return {"latency": latency, **counts, "cpu": dict(self.cpu)}

    @classmethod
    def of(cls, content: StatsFile | None) -> "ProcessStats":
        """From the content of a status file; nothing without one."""
        stats, given = cls(), content or StatsFile()
        for stage, (counts, seconds) in given.get("latency", {}).items():
            stats.latency[stage].add(counts, seconds)
        stats.attempts.update(given.get("attempts", {}))
        stats.errors.update(given.get("errors", {}))
        stats.expired.update(given.get("expired", {}))
        stats.cpu.update(given.get("cpu", {}))
        return stats


_lock = threading.Lock()
_stats: ProcessStats | None = None


@contextmanager
def record_process(folder: Path, role: str) -> Iterator[None]:
    """Measure in this process, into a file of its own in `folder`, which exists. `role`: what it is for."""
    global _stats
    _stats = ProcessStats()
    path = folder / f"{os.getpid()}-{time.time_ns()}.json"
    ended = threading.Event()
    writer = threading.Thread(
        target=_write_often, args=(path, role, ended), name="process stats", daemon=True
    )
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()
        _stats = None


def is_recording() -> bool:
    """Whether this process measures."""
    return _stats is not None


def observe_latency(stage: str, received_at: pa.Array) -> None:
    """Messages have reached a stage now. `received_at`: timestamp[us]; those without a time are left out."""
    if _stats is None:
        return
    received = pc.drop_null(received_at).cast(pa.int64()).to_numpy()
    waited = np.maximum(time.time_ns() // 1000 - received, 0)
    counts = np.bincount(np.searchsorted(_BOUNDS, waited), minlength=len(LATENCY_BOUNDS) + 1)
    with _lock:
        _stats.latency[stage].add(counts.tolist(), float(waited.sum()) / 1e6)


def count_attempt(peer: str, failed: bool = False) -> None:
    """A peer was used, or could not be."""
    if _stats is None:
        return
    with _lock:
        _stats.attempts[peer] += 1
        _stats.errors[peer] += failed


def count_expired(kind: str, messages: int) -> None:
    """Messages of a kind were not written, because their rows would lie in what has expired."""
    if _stats is None:
        return
    with _lock:
        _stats.expired[kind] += messages


def _write_often(path: Path, role: str, ended: threading.Event) -> None:
    is_last = False
    while not is_last:
        is_last = ended.wait(_SECONDS)
        with _lock:
            assert _stats is not None
            _stats.cpu[role] = round(time.process_time(), 3)
            content = _stats.as_json()
        write_status(path, content)
