"""The histogram scales that baselines and aggregates share: where a value falls, and the span of a bucket.

A scale is decided by its edges alone. `index` corrects the rounding of a logarithm against them, so that a value falls into the
same bucket on every platform and in every batch.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LogScale:
    """Buckets whose edges grow by `ratio` from `low`; the first reaches down to 0, the last catches everything above.

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
        guess = (
            np.floor(np.log(np.maximum(values, self.low) / self.low) / np.log(self.ratio)).astype(np.int64)
            + 1
        )
        guess = np.clip(np.where(values < self.low, 0, guess), 0, self.size - 1)
        guess -= values < self.edges[guess]
        guess += (values >= self.edges[guess + 1]) & (guess < self.size - 1)
        return guess


@dataclass(frozen=True)
class LinearScale:
    """Equal buckets over [0, 1]; 1 falls into the last. For fractions, which crowd where log buckets are wide."""

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
