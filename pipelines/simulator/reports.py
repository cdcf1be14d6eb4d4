"""The reports of the simulator by number: generated from a seed, or those of archives.

Neither grows in memory: a block of reports is made, or read from disk, when it is asked for.
"""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from pipelines.synthetic.columns import SECOND, ReportTimes, draw_columns
from pipelines.synthetic.fleet import Fleet, make_random
from pipelines.synthetic.json_columns import format_reports
from pipelines.synthetic.reports import KpiTestGenerator

BLOCK = 1000
"""Reports of a block."""
_MEAN_LAG, _LEAST_LAG, _LONGEST_LAG = 0.2 * SECOND, 2000, 2 * SECOND


class Reports(Protocol):
    """Reports with the numbers from 0."""

    @property
    def count(self) -> int | None:
        """How many there are; None if there is no end."""

    def make_block(self, number: int) -> list[bytes]:
        """The JSON of the reports from BLOCK * number on, at most BLOCK."""


@dataclass(frozen=True)
class Schedule:
    """When reports are offered: `history` of them before `start` (microseconds since 1970), then
    `per_minute`.
    """

    start: int
    per_minute: float
    history: int = 0

    def times(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The times at which reports are offered, int64[n] microseconds since 1970."""
        interval = 60 * SECOND / (self.per_minute or 60)
        return self.start + ((numbers + 1 - self.history) * interval).astype(np.int64)

    def count(self, elapsed: float) -> int:
        """How many reports were offered until so many seconds after the start."""
        return self.history + int(elapsed * self.per_minute / 60 + 1e-9)


@dataclass(frozen=True)
class GeneratedReports:
    """Valid reports of a fleet. The same fields give the same bytes.

    A report was recorded 2 ms to 2 s before it is offered, so the order is not that of recorded_at. A share
    of `ties` has the recorded_at of the report before it.
    """

    generator: KpiTestGenerator
    schedule: Schedule
    ties: float = 0.0
    count: None = None

    @cached_property
    def _fleet(self) -> Fleet:
        return self.generator.fleet("normal")

    def make_block(self, number: int) -> list[bytes]:
        """The JSON of the reports from BLOCK * number on, at most BLOCK."""
        seed = (self.generator.seed << 64) + number
        random = make_random(seed, "offers")
        times = self.schedule.times(BLOCK * number + np.arange(BLOCK))
        lag = np.minimum(_LEAST_LAG + random.exponential(_MEAN_LAG, BLOCK), _LONGEST_LAG).astype(np.int64)
        # A report that ties takes the time of the nearest report before it that does not.
        own = np.where(random.random(BLOCK) < self.ties, 0, np.arange(BLOCK))
        recorded = (times - lag)[np.maximum.accumulate(own)]
        agent = random.integers(0, self.generator.agents, BLOCK)
        moments = ReportTimes(agent, recorded, int(times[0]), int(times[-1] - times[0]) + 1)
        columns = draw_columns(self._fleet, moments, seed)
        return [text.encode() for text in format_reports(columns, self._fleet).to_pylist()]


class ArchivedReports:
    """The payloads of messages, in their order, copied to an unnamed file on disk.

    In memory are 8 bytes for each block. `skipped` payloads are not JSON objects, which no page can hold.
    """

    def __init__(self, payloads: Iterable[bytes]) -> None:
        """A line end within a payload becomes a space.

        Raises:
            OSError: the disk is full.
        """
        self._file = tempfile.TemporaryFile(prefix="kpiflow-simulate-")  # noqa: SIM115
        self._ends: list[int] = [0]
        self.count = self.skipped = 0
        for payload in payloads:
            if not _is_object(payload):
                self.skipped += 1
                continue
            self._file.write(payload.strip().replace(b"\r", b" ").replace(b"\n", b" ") + b"\n")
            self.count += 1
            if self.count % BLOCK == 0:
                self._ends.append(self._file.tell())
        if self.count % BLOCK:
            self._ends.append(self._file.tell())
        self._file.flush()

    def make_block(self, number: int) -> list[bytes]:
        """The JSON of the reports from BLOCK * number on, at most BLOCK."""
        if not 0 <= number < len(self._ends) - 1:
            return []
        first, end = self._ends[number : number + 2]
        return os.pread(self._file.fileno(), end - first, first).split(b"\n")[:-1]


def _is_object(payload: bytes) -> bool:
    try:
        return isinstance(orjson.loads(payload), dict)
    except orjson.JSONDecodeError:
        return False
