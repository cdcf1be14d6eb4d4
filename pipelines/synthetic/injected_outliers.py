"""Injected outliers: values far outside an agent's usual spread, in the adverse direction, once it has a
baseline.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic.columns import SECOND, Columns, ReportTimes, clip_to_schema
from pipelines.synthetic.fleet import LEVEL_PATTERNS, Fleet, make_random
from schemas.tables import METRICS
from transforms.history.time_rules import GAP_MINUTES, LOOKBACK_MINUTES

HISTORY = 40
"""Reports that an agent needs in its baseline before one of its values becomes an outlier."""
NEAREST, FARTHEST = 9.0, 14.0
"""Distance from the nearer quartile, in interquartile ranges."""
CROWD = 5
"""At most one in this many candidates becomes an outlier: one in twenty of a metric, which leaves quartiles
as they are.
"""
ADVERSE = {"latency": 1, "accuracy": -1, "cpu": 1, "memory": 1}
_WINDOW = (LOOKBACK_MINUTES, GAP_MINUTES)


@dataclass(frozen=True)
class Injected:
    """The columns with outliers, and their rows by metric, int64[k] each, ascending."""

    columns: Columns
    rows: dict[str, NDArray[np.int64]]

    @property
    def count(self) -> int:
        """Reports with an outlier, each in one metric."""
        return sum(map(len, self.rows.values()))


def inject_outliers(
    columns: Columns,
    moments: ReportTimes,
    fleet: Fleet,
    feeding: NDArray[np.bool_],
    asked: int,
    seed: int,
    warm: bool = False,
    spared: NDArray[np.bool_] | None = None,
) -> Injected:
    """Make outliers of `asked` of the `feeding` reports (bool[n]), evenly over the metrics; fewer if history
    is short.

    A candidate feeds baselines, its agent has a constant level, and its agent has HISTORY feeding reports in
    minutes [m - 62, m - 2) before its minute m: among these reports or, if `warm`, among those of an earlier
    run. Reports that are `spared` (bool[n]) do not become outliers.
    """
    random = make_random(seed, "outliers")
    holds = np.isin(fleet.patterns, list(LEVEL_PATTERNS))[columns.agent]
    known = warm | (count_history(columns.agent, columns.recorded, feeding) >= HISTORY)
    if spared is not None:
        holds &= ~spared
    candidates = np.flatnonzero(feeding & holds & known)
    chosen = random.permutation(candidates)[: min(asked, len(candidates) // CROWD)]
    rows = {metric: np.sort(chosen[i :: len(METRICS)]) for i, metric in enumerate(METRICS)}
    metrics = dict(columns.metrics)
    for metric, at in rows.items():
        q1, q3 = fleet.quartiles(metric, moments.levels(fleet, at)[metric])
        distance = random.uniform(NEAREST, FARTHEST, len(at)) * (q3 - q1)
        metrics[metric] = metrics[metric].copy()
        metrics[metric][at] = clip_to_schema(metric, q3 + distance if ADVERSE[metric] > 0 else q1 - distance)
    return Injected(replace(columns, metrics=metrics), rows)


def count_history(
    agent: NDArray[np.int64], recorded: NDArray[np.int64], feeding: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The feeding reports of the same agent in minutes [m - 62, m - 2) before each report's minute m,
    int64[n].
    """
    minute = recorded // (60 * SECOND)
    minute -= minute.min(initial=0) - _WINDOW[0]
    # One sorted key of agent and minute: a count of a range of minutes is the distance of two binary
    # searches.
    key = agent * (int(minute.max(initial=0)) + 1) + minute
    fed = np.sort(key[feeding])
    first, last = (np.searchsorted(fed, key - back) for back in _WINDOW)
    return last - first
