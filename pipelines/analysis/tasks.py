"""The tasks of an experiment: what the comparison of its variants is made from."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
BLOCK_MINUTES = 5


class Unit(StrEnum):
    """What was assigned to the variants."""

    TASK = "task"
    AGENT = "agent"


class Tasks(NamedTuple):
    """The tasks of an experiment, ascending in time.

    There is one at least. `variant`: a number of `names`, int64[n]; `agent`: the number of its agent among
    all agents, int64[n]; `block`: the number of the five minutes of its first report, int64[n]; `values`: by
    metric the mean of the task's reports, float64[n], NaN where it is unknown.
    """

    names: Sequence[str]
    variant: Ints
    agent: Ints
    block: Ints
    values: Mapping[str, Floats]


class Measure(NamedTuple):
    """What of a metric is compared: the mean of its values, or a percentile (0 < p < 100)."""

    metric: str
    percentile: float | None = None

    def __str__(self) -> str:
        return self.metric if self.percentile is None else f"{self.metric}:p{self.percentile:g}"
