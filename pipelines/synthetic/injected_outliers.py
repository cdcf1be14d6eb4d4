"""Outliers on purpose: values far outside an agent's usual spread, in the adverse direction, once its baseline exists."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic.columns import SECOND, Columns, Moments, legal
from pipelines.synthetic.fleet import LEVEL_PATTERNS, Fleet, stream
from schemas.tables import METRICS
from transforms.history.time_rules import GAP_MINUTES, REACH_MINUTES

HISTORY = 40
"""Reports an agent must have in its baseline before one of its values is pushed out."""
NEAREST, FARTHEST = 9.0, 14.0
"""Distance from the nearer quartile, in interquartile ranges."""
CROWD = 5
"""At most one in so many candidates is pushed out: one in twenty a metric, which quartiles do not feel."""
ADVERSE = {"latency": 1, "accuracy": -1, "cpu": 1, "memory": 1}
_WINDOW = (REACH_MINUTES, GAP_MINUTES)


@dataclass(frozen=True)
class Injected:
    """The columns with outliers, and their rows by metric, int64[k] each, ascending."""

    columns: Columns
    rows: dict[str, NDArray[np.int64]]

    @property
    def count(self) -> int:
        """Reports that were pushed out, each in one metric."""
        return sum(map(len, self.rows.values()))


def inject(
    columns: Columns,
    moments: Moments,
    fleet: Fleet,
    feeding: NDArray[np.bool_],
    asked: int,
    seed: int,
    warm: bool = False,
) -> Injected:
    """Push `asked` of the `feeding` reports (bool[n]) out, spread evenly over the metrics; fewer where history is too thin.

    A candidate feeds, its agent's level holds, and its agent has HISTORY feeding reports in minutes [m - 62, m - 2) of its
    minute m: among these reports or, where `warm` says so, among those of an earlier run.
    """
    random = stream(seed, "outliers")
    holds = np.isin(fleet.patterns, list(LEVEL_PATTERNS))[columns.agent]
    known = warm | (history(columns.agent, columns.recorded, feeding) >= HISTORY)
    candidates = np.flatnonzero(feeding & holds & known)
    chosen = random.permutation(candidates)[: min(asked, len(candidates) // CROWD)]
    rows = {metric: np.sort(chosen[i :: len(METRICS)]) for i, metric in enumerate(METRICS)}
    metrics = dict(columns.metrics)
    for metric, at in rows.items():
        q1, q3 = fleet.quartiles(metric, moments.levels(fleet, at)[metric])
        distance = random.uniform(NEAREST, FARTHEST, len(at)) * (q3 - q1)
        metrics[metric] = metrics[metric].copy()
        metrics[metric][at] = legal(metric, q3 + distance if ADVERSE[metric] > 0 else q1 - distance)
    return Injected(replace(columns, metrics=metrics), rows)


def history(
    agent: NDArray[np.int64], recorded: NDArray[np.int64], feeding: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """int64[n]: feeding reports of the same agent in minutes [m - 62, m - 2), where m is the report's minute."""
    minute = recorded // (60 * SECOND)
    minute -= minute.min(initial=0) - _WINDOW[0]
    key = agent * (int(minute.max(initial=0)) + 1) + minute
    fed = np.sort(key[feeding])
    first, last = (np.searchsorted(fed, key - back) for back in _WINDOW)
    return last - first
