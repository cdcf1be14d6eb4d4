"""Windows by agent as arrays, and their merging: see `pipelines.queries.sums`."""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.queries.sums import WINDOWS
from schemas.tables import AGGREGATIONS
from transforms.core.record_batches import conform

_SCHEMA = pa.schema([AGGREGATIONS.schema.field(name) for name in WINDOWS])


class WindowSums(NamedTuple):
    """One value for each window.

    `agents`: int32, numbers of AgentNames. `starts`: int64, in microseconds since 1970. `counts`: int64, of
    reports. `means` and `squares`: float64, of latency the mean and the squared distances from it, summed.
    `accuracies`: float64, the mean.
    """

    agents: NDArray[np.int32]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    squares: NDArray[np.float64]
    accuracies: NDArray[np.float64]

    def keep_within(self, start: int, end: int) -> "WindowSums":
        """The windows that begin from `start` to before `end`."""
        is_within = (self.starts >= start) & (self.starts < end)
        return WindowSums._make(values[is_within] for values in self)


_EMPTY = WindowSums._make(
    np.zeros(0, dtype) for dtype in ("int32", "int64", "int64", "float64", "float64", "float64")
)


def join_sums(parts: Sequence[WindowSums]) -> WindowSums:
    """All windows of the parts."""
    return WindowSums._make(np.concatenate(values) for values in zip(_EMPTY, *parts, strict=True))


def merge_sums(sums: WindowSums) -> WindowSums:
    """The windows of each agent as one, with the earliest start of all."""
    counts = np.bincount(sums.agents, sums.counts)
    found = np.flatnonzero(counts)
    total = np.maximum(counts, 1)
    means = np.bincount(sums.agents, sums.counts * sums.means) / total
    squares = np.bincount(
        sums.agents, sums.squares + sums.counts * np.square(sums.means - means[sums.agents])
    )
    accuracies = np.bincount(sums.agents, sums.counts * sums.accuracies) / total
    starts = np.full(len(found), sums.starts.min(initial=np.iinfo(np.int64).max) if len(found) else 0)
    return WindowSums(
        found.astype(np.int32),
        starts,
        counts[found].astype(np.int64),
        means[found],
        squares[found].astype(np.float64),
        accuracies[found],
    )


class AgentNames:
    """A number for each agent. Thread-safe."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()

    def read(self, batch: pa.RecordBatch) -> WindowSums:
        """The windows of a batch with columns of kpi_aggregations."""
        rows = conform(batch, _SCHEMA)
        with self._lock:
            numbers = [
                self._numbers.setdefault(name, len(self._numbers)) for name in rows["agent_id"].to_pylist()
            ]
        counts = rows["task_count"].to_numpy()
        deviation = pc.fill_null(rows["latency_stddev"], 0.0).to_numpy()
        return WindowSums(
            np.array(numbers, np.int32),
            rows["time_window_start"].cast(pa.int64()).to_numpy(),
            counts,
            rows["avg_latency_ms"].to_numpy(),
            np.square(deviation) * (counts - 1),
            rows["avg_accuracy"].to_numpy(),
        )

    def make_rows(self, sums: WindowSums) -> pa.Table:
        """Windows as rows with the columns WINDOWS."""
        names = pa.array(list(self._numbers), pa.string())
        spread = np.sqrt(sums.squares / np.maximum(sums.counts - 1, 1))
        columns = [
            pa.array(sums.starts).cast(_SCHEMA.field("time_window_start").type),
            names.take(pa.array(sums.agents)),
            pa.array(sums.counts),
            pa.array(sums.means),
            pa.array(spread, mask=sums.counts < 2),
            pa.array(sums.accuracies),
        ]
        return pa.Table.from_arrays(columns, schema=_SCHEMA)
