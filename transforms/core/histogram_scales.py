"""The histogram scales that baselines and aggregates share: the bucket of a value, and the edges of a bucket.

The edges alone define a scale. `index` corrects the rounding of its logarithm by them, so that a value is in
the same bucket on every platform and in every batch.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LogScale:
    """Buckets whose edges grow by `ratio` from `low`.

    The first begins at 0, the last also holds everything above.

    With ratio 1.005 any point of a bucket is within 0.5 % of any other.
    """

    low: float
    high: float
    ratio: float = 1.005

    @cached_property
    def edges(self) -> NDArray[np.float64]:
        """float64[size + 1], ascending; bucket i is [edges[i], edges[i + 1])."""
        steps = int(np.ceil(np.log(self.high / self.low) / np.log(self.ratio)))
        grown = np.multiply.accumulate(np.concatenate([[self.low], np.full(steps, self.ratio)]))
        return np.concatenate([[0.0], grown])

    @property
    def size(self) -> int:
        """Number of buckets."""
        return len(self.edges) - 1

    def index(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """int64[n]: the bucket of each value >= 0."""
        steps = np.floor(np.log(np.maximum(values, self.low) / self.low) / np.log(self.ratio))
        guess = np.clip(np.where(values < self.low, 0, steps.astype(np.int64) + 1), 0, self.size - 1)
        # A logarithm is off by at most one bucket at an edge.
        guess -= values < self.edges[guess]
        guess += (values >= self.edges[guess + 1]) & (guess < self.size - 1)
        return guess


@dataclass(frozen=True)
class LinearScale:
    """Equal buckets over [0, 1]; 1 is in the last.

    For fractions, which crowd where the buckets of a LogScale are wide.
    """

    size: int = 2000

    @cached_property
    def edges(self) -> NDArray[np.float64]:
        """float64[size + 1], ascending; bucket i is [edges[i], edges[i + 1])."""
        return np.arange(self.size + 1) / self.size

    def index(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """int64[n]: the bucket of each value in [0, 1]."""
        guess = np.clip((values * self.size).astype(np.int64), 0, self.size - 1)
        guess -= values < self.edges[guess]
        guess += (values >= self.edges[guess + 1]) & (guess < self.size - 1)
        return guess


Scale = LogScale | LinearScale

SCALES: dict[str, Scale] = {
    "latency": LogScale(1e-3, 3e5),
    "accuracy": LinearScale(),
    "cpu": LinearScale(),
    "memory": LogScale(1e-3, 1e6),
}
"""The scale of each metric in `schemas.tables.METRICS`."""
