"""Baselines: the quartiles of an agent's own past hour, for every report and metric.

A report of minute m (floor of recorded_at / 60 s) is judged by the agent's reports of minutes [m - 62, m - 2). The newest two
minutes are left out, because what may still be on its way falls into them; for the same reason a report that arrived more
than a minute late feeds no baseline. So a baseline depends on which reports there are, never on the order they came in.

Values count as the bucket of `transforms.core.histogram_scales.SCALES` they fall into. The quantile p of n values is the one of rank
ceil(p n) (inverse of the empirical distribution function: Hyndman and Fan 1996, definition 1), read as if the values of a
bucket lay evenly over it.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import BASELINE, METRIC_COLUMNS, METRICS
from transforms.core.histogram_scales import SCALES, Scale
from transforms.core.record_batches import build_batch, make_empty
from transforms.history.time_rules import GAP_MINUTES, REACH_MINUTES, find_minutes, mark_late
from transforms.history.wavelet_matrix import Found, Ints, WaveletMatrix

THREADS = 2
"""Metrics worked on at a time: numpy lets go of the interpreter lock in sorts and look-ups."""

INPUTS = ("agent_id", "recorded_at", "received_at", *METRIC_COLUMNS.values())
"""The report columns that a baseline is made of."""

STATES = pa.array(["warmup", "flat", "ready"])
"""Too few values for quartiles; both quartiles in one bucket; quartiles apart."""
WARMUP, FLAT, READY = range(3)
NORMAL_IQR = 1.349
"""Interquartile range of a normal distribution, in standard deviations: what makes a robust z comparable to a plain one."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Windows:
    """The windows asked for, one for each (agent, minute), as ranges of the reports that feed.

    `feeding` (int64[f]) are the rows of the reports that feed, by agent and minute; `first` and `end` (int32[w]) index into
    it; `of_row` (int64[n]) is the window of each report.
    """

    feeding: NDArray[np.int64]
    first: Ints
    end: Ints
    of_row: NDArray[np.int64]

    @property
    def samples(self) -> Ints:
        """int32[w]: how many reports feed each window."""
        return self.end - self.first


def compute_baselines(reports: pa.Table, min_samples: int) -> pa.RecordBatch:
    """The BASELINE columns of the reports, row for row.

    `reports` has the columns INPUTS, each report once, in any order; only received_at may be null. With fewer than
    `min_samples` (at least 1) values the state is `warmup` and the quartiles are null.
    """
    if not reports.num_rows:
        return make_empty(BASELINE)
    windows = _windows(reports)

    def judged(metric: str) -> dict[str, pa.Array]:
        return _judged(
            metric, reports[METRIC_COLUMNS[metric]].to_numpy(), windows, windows.samples >= min_samples
        )

    columns = {"baseline_n": pa.array(windows.samples.astype(np.int64)[windows.of_row])}
    with ThreadPoolExecutor(THREADS) as pool:
        for judgement in pool.map(judged, METRICS):
            columns |= judgement
    return build_batch(columns, BASELINE, reports.num_rows)


def interpolate(scale: Scale, found: Found) -> Floats:
    """float64[m]: the value at `place` of the `equals` values that lie evenly in bucket `value`."""
    low, high = scale.edges[found.value], scale.edges[found.value + 1]
    return low + (high - low) * ((found.place + 0.5) / found.equals)


def compute_quartiles(scale: Scale, first: Found, third: Found) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """float64[m] q1 and q3, and whether they are flat: in one bucket, whose middle both then are."""
    flat = first.value == third.value
    middle = (scale.edges[first.value] + scale.edges[first.value + 1]) / 2
    return (
        np.where(flat, middle, interpolate(scale, first)),
        np.where(flat, middle, interpolate(scale, third)),
        flat,
    )


def _windows(reports: pa.Table) -> Windows:
    """The windows of the reports' own minutes, over those of the reports that feed."""
    agent = reports["agent_id"].dictionary_encode().combine_chunks().indices.to_numpy()
    minute = find_minutes(reports)
    minute -= minute.min() - REACH_MINUTES
    key = agent * (minute.max() + 1) + minute

    feeding = np.flatnonzero(~mark_late(reports))
    feeding = feeding[np.argsort(key[feeding])]
    asked, of_row = np.unique(key, return_inverse=True)
    bounds = (asked - REACH_MINUTES, asked - GAP_MINUTES)
    first, end = (np.searchsorted(key[feeding], bound).astype(np.int32) for bound in bounds)
    return Windows(feeding, first, end, of_row)


def _judged(metric: str, values: Floats, windows: Windows, enough: NDArray[np.bool_]) -> dict[str, pa.Array]:
    """The columns of one metric, whose `values` are float64[n]; `enough` (bool[w]) are the windows out of warm-up."""
    scale = SCALES[metric]
    buckets = scale.index(values).astype(np.int32)
    matrix = WaveletMatrix(buckets[windows.feeding], scale.size)
    first, end, samples = (column[enough] for column in (windows.first, windows.end, windows.samples))

    def quarter(quarters: int) -> Found:
        return matrix.nth(first, end, (quarters * samples + 3) // 4 - 1)

    def by_row(answers: Floats) -> Floats:
        spread = np.full(len(enough), np.nan)
        spread[enough] = answers
        return spread[windows.of_row]

    q1, q3, flat = compute_quartiles(scale, quarter(1), quarter(3))
    state = np.full(len(enough), WARMUP, np.int8)
    state[enough] = np.where(flat, FLAT, READY)
    columns = {"q1": by_row(q1), "q3": by_row(q3)}
    if metric == "latency":
        sigma = np.where(flat, np.nan, (q3 - q1) / NORMAL_IQR)
        columns["zscore"] = (values - by_row(interpolate(scale, quarter(2)))) / by_row(sigma)
    if metric == "accuracy":
        columns["percentile"] = _percentiles(matrix, buckets, windows, enough)
    judged = {f"{metric}_{name}": pa.array(column, from_pandas=True) for name, column in columns.items()}
    return judged | {f"{metric}_baseline_state": STATES.take(pa.array(state[windows.of_row]))}


def _percentiles(matrix: WaveletMatrix, buckets: Ints, windows: Windows, enough: NDArray[np.bool_]) -> Floats:
    """float64[n]: the share of its window that lies below each report's bucket, half of that bucket included, in percent."""
    rows = np.flatnonzero(enough[windows.of_row])
    window = windows.of_row[rows]
    counted = matrix.rank(windows.first[window], windows.end[window], buckets[rows])
    percentiles = np.full(len(buckets), np.nan)
    percentiles[rows] = 100 * (counted.smaller + counted.equals / 2) / windows.samples[window]
    return percentiles
