"""Windows by agent as arrays, and their merging: see `pipelines.queries.sums`.

Numbers merge exactly. Sums of squared distances merge after Chan, Golub and LeVeque (1979), up to rounding.
Sums of accuracy are integers, in units of 1e-12, so they do not depend on the order of windows.
"""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.queries.sums import WINDOWS
from schemas.tables import AGGREGATIONS
from transforms.core.record_batches import conform

_SCHEMA = pa.schema([AGGREGATIONS.schema.field(name) for name in WINDOWS])
REPORT_COLUMNS = ["recorded_at", "agent_id", "latency_ms", "accuracy"]
_HOUR = 3600 * 10**6
_LARGEST = 1e9
"""Validation lets no value through that is nearly as large. Sums of larger ones would overflow, or lose
digits."""
_UNITS, _WHOLE = 1e12, 1e6
"""How many units of sums of accuracy are 1, and how many are one of `accuracies`: a float64 has all integers
up to 9e15 only."""


class WindowSums(NamedTuple):
    """One value for each window. A report is a window too.

    `agents`: int32, numbers of AgentNames. `starts`: int64, in microseconds since 1970. `counts`: int64, of
    reports. `means` and `squares`: float64, of latency the mean and the squared distances from it, summed.
    `accuracies` and `rests`: float64, integers: the sum of accuracy in units of 1e-6, and what is left of it
    in units of 1e-12.
    """

    agents: NDArray[np.int32]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    squares: NDArray[np.float64]
    accuracies: NDArray[np.float64]
    rests: NDArray[np.float64]

    def sort(self) -> "WindowSums":
        """The windows in the order of their starts."""
        if (self.starts[1:] >= self.starts[:-1]).all():
            return self
        order = np.argsort(self.starts, kind="stable")
        return WindowSums._make(values[order] for values in self)

    def check(self) -> "WindowSums":
        """The windows, all of whose values can be summed here.

        Raises:
            ValueError: one is larger, or no number: not kpiflow has written it.
        """
        for values in (self.means, np.sqrt(np.abs(self.squares)), self.accuracies / (_UNITS / _WHOLE)):
            if not (np.abs(values) <= _LARGEST * np.maximum(self.counts, 1)).all():
                raise ValueError("a value is no number, or is larger than those of valid reports")
        return self

    def keep_within(self, start: int, end: int) -> "WindowSums":
        """The windows that begin from `start` to before `end`, of some that are sorted."""
        first, last = np.searchsorted(self.starts, (start, end)).tolist()
        return WindowSums._make(values[first:last] for values in self)


_EMPTY = WindowSums._make(
    np.zeros(0, dtype) for dtype in ("int32", "int64", "int64", "float64", "float64", "float64", "float64")
)


def join_sums(parts: Sequence[WindowSums]) -> WindowSums:
    """All windows of the parts."""
    return WindowSums._make(np.concatenate(values) for values in zip(_EMPTY, *parts, strict=True))


@np.errstate(all="ignore")  # of an infinite value the spread is NaN, as it is for DuckDB
def merge_sums(sums: WindowSums, by_hour: bool = False) -> WindowSums:
    """The windows of each agent as one, which begins with the first of all; or those of each hour and
    agent."""
    if not len(sums.agents):
        return sums
    groups, starts, agents = _group(sums, by_hour)
    counts = np.bincount(groups, sums.counts)
    total = np.maximum(counts, 1)
    means = np.bincount(groups, sums.counts * sums.means) / total
    squares = np.bincount(groups, sums.squares + sums.counts * np.square(sums.means - means[groups]))
    rests = np.bincount(groups, sums.rests)
    carried = np.floor(rests / _WHOLE)
    accuracies = np.bincount(groups, sums.accuracies) + carried
    merged = agents, starts, counts.astype(np.int64), means, squares, accuracies, rests - carried * _WHOLE
    found = np.flatnonzero(counts)
    return WindowSums._make(values[found] for values in merged)


def _group(sums: WindowSums, by_hour: bool) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int32]]:
    """The number of the group of each window; the start and the agent of each group."""
    agents = np.arange(int(sums.agents.max()) + 1, dtype=np.int32)
    if not by_hour:
        return sums.agents, np.full(len(agents), sums.starts.min()), agents
    keys, groups = np.unique(sums.starts // _HOUR * len(agents) + sums.agents, return_inverse=True)
    return groups, keys // len(agents) * _HOUR, (keys % len(agents)).astype(np.int32)


class AgentNames:
    """A number for each agent. Thread-safe."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()

    @np.errstate(all="ignore")  # `WindowSums.check` finds what overflows
    def read_windows(self, batch: pa.RecordBatch) -> WindowSums:
        """The windows of a batch with columns of kpi_aggregations, in the order of their starts."""
        rows = conform(batch, _SCHEMA)
        counts = rows["task_count"].to_numpy()
        deviation = pc.fill_null(rows["latency_stddev"], 0.0).to_numpy()
        return WindowSums(
            self._number(rows["agent_id"]),
            pc.fill_null(rows["time_window_start"].cast(pa.int64()), 0).to_numpy(),
            counts,
            rows["avg_latency_ms"].to_numpy(),
            np.square(deviation) * (counts - 1),
            *_split_accuracy(rows["avg_accuracy"].to_numpy() * counts),
        ).sort()

    @np.errstate(all="ignore")  # `WindowSums.check` finds what overflows
    def read_reports(self, batch: pa.RecordBatch) -> WindowSums:
        """The reports of a batch with the columns REPORT_COLUMNS, in the order of their times.

        Raises:
            pyarrow.ArrowInvalid: a value is null.
        """
        times = batch["recorded_at"].cast(pa.int64()).to_numpy()
        return WindowSums(
            self._number(batch["agent_id"]),
            times,
            np.ones(len(times), np.int64),
            batch["latency_ms"].to_numpy(),
            np.zeros(len(times)),
            *_split_accuracy(batch["accuracy"].to_numpy()),
        ).sort()

    def make_rows(self, sums: WindowSums) -> pa.Table:
        """Windows as rows with the columns WINDOWS."""
        names = pa.array(list(self._numbers), pa.string())
        spread = np.sqrt(sums.squares / np.maximum(sums.counts - 1, 1))
        accuracies = (sums.accuracies * _WHOLE + sums.rests) / sums.counts / _UNITS
        columns = [
            pa.array(sums.starts).cast(_SCHEMA.field("time_window_start").type),
            names.take(pa.array(sums.agents)),
            pa.array(sums.counts),
            pa.array(sums.means),
            pa.array(spread, mask=sums.counts < 2),
            pa.array(accuracies),
        ]
        return pa.Table.from_arrays(columns, schema=_SCHEMA)

    def _number(self, names: pa.Array) -> NDArray[np.int32]:
        """The numbers of names; of those that are new, too."""
        coded = names.dictionary_encode()
        texts = coded.dictionary.to_pylist()
        numbers = list(map(self._numbers.get, texts))
        if None in numbers:
            with self._lock:
                numbers = [self._numbers.setdefault(name, len(self._numbers)) for name in texts]
        return np.array(numbers, np.int32)[coded.indices.to_numpy()]


def _split_accuracy(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of accuracy as `WindowSums.accuracies` and `WindowSums.rests`."""
    units = np.floor(sums * _UNITS + 0.5)
    accuracies = np.floor(units / _WHOLE)
    return accuracies, units - accuracies * _WHOLE
