"""Baselines of a batch: the quartiles of an agent's own past hour, for every report and metric.

`transforms.history.time_rules` says which reports are in the window of a report.

Values count as the bucket of `transforms.core.histogram_scales.SCALES` that they are in. The quantile p of n
values is the one of rank ceil(p n) (inverse of the empirical distribution function: Hyndman and Fan 1996,
definition 1), read as if the values of a bucket were spread evenly over it.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import BASELINE, METRIC_COLUMNS, METRICS
from transforms.core.grouping import group_rows, sort_rows
from transforms.core.histogram_scales import SCALES, Scale
from transforms.core.record_batches import build_batch, make_empty
from transforms.history.time_rules import GAP_MINUTES, LOOKBACK_MINUTES, find_minutes, mark_late
from transforms.history.wavelet_matrix import Ints, NthValues, WaveletMatrix

INPUTS = ("agent_id", "recorded_at", "received_at", *METRIC_COLUMNS.values())
"""The report columns that a baseline is computed from."""

STATES = pa.array(["warmup", "flat", "ready"])
"""Too few values for quartiles; both quartiles in one bucket; quartiles apart."""
WARMUP, FLAT, READY = range(3)
NORMAL_IQR = 1.349
"""Interquartile range of a normal distribution, in standard deviations: scales a robust z to a plain one."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BaselineWindows:
    """The distinct windows that are asked for, one for each (agent, minute): ranges of the feeding reports.

    `feeding` (int64[f]) are the rows of the feeding reports, by agent and minute; `first` and `end`
    (int32[w]) index into it; `of_row` (int64[n]) is the window of each report that asks.
    """

    feeding: NDArray[np.int64]
    first: Ints
    end: Ints
    of_row: NDArray[np.int64]

    @property
    def samples(self) -> Ints:
        """int32[w]: how many reports feed each window."""
        return self.end - self.first


def compute_baselines(reports: pa.Table, lookback: pa.Table, min_samples: int) -> pa.RecordBatch:
    """The BASELINE columns of the reports, row for row.

    `reports` has the columns INPUTS, each report once, in any order; only received_at may be null. `lookback`
    (`transforms.history.blocks.LOOKBACK`) are other reports that feed, each once. With fewer than
    `min_samples` (at least 1) values the state is `warmup` and the quartiles are null.
    """
    if not reports.num_rows:
        return make_empty(BASELINE)
    windows = _find_windows(reports, lookback)
    enough = windows.samples >= min_samples
    columns = {"baseline_n": pa.array(windows.samples.astype(np.int64)[windows.of_row])}
    for metric in METRICS:
        values = reports[METRIC_COLUMNS[metric]].to_numpy()
        buckets = np.concatenate([SCALES[metric].index(values), lookback[f"{metric}_bucket"].to_numpy()])
        columns |= _compute_metric(metric, values, buckets.astype(np.int32), windows, enough)
    return build_batch(columns, BASELINE, reports.num_rows)


def find_buckets(reports: pa.Table | pa.RecordBatch) -> tuple[dict[str, Floats], NDArray[np.int16]]:
    """The metrics of reports, float64[n] each, and their buckets, int16[n, 4] in the order of METRICS."""
    values = {metric: reports[METRIC_COLUMNS[metric]].to_numpy() for metric in METRICS}
    buckets = [SCALES[metric].index(values[metric]).astype(np.int16) for metric in METRICS]
    return values, np.stack(buckets, axis=1)


def interpolate(scale: Scale, found: NthValues) -> Floats:
    """float64[m]: the value at `place` of the `equals` values that are spread evenly over bucket `value`."""
    low, high = scale.edges[found.value], scale.edges[found.value + 1]
    return low + (high - low) * ((found.place + 0.5) / found.equals)


def compute_quartiles(
    scale: Scale, first: NthValues, third: NthValues
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """float64[m] q1 and q3, and bool[m] whether they are flat: in one bucket, whose middle both then are."""
    flat = first.value == third.value
    middle = (scale.edges[first.value] + scale.edges[first.value + 1]) / 2
    q1, q3 = (np.where(flat, middle, interpolate(scale, found)) for found in (first, third))
    return q1, q3, flat


def _find_windows(reports: pa.Table, lookback: pa.Table) -> BaselineWindows:
    """The windows of the reports' own minutes, over those that feed: rows of both, one after the other."""
    agents = pa.chunked_array([*reports["agent_id"].chunks, *lookback["agent_id"].chunks])
    agent = agents.dictionary_encode().combine_chunks().indices.to_numpy()
    minute = np.concatenate([find_minutes(reports), lookback["minute"].to_numpy()])
    minute -= minute.min() - LOOKBACK_MINUTES
    # Agent and minute in one integer, with room below each agent's first minute: a window is a range of keys,
    # of its agent only.
    key = agent * (minute.max() + 1) + minute

    late = mark_late(reports)
    feeding = np.flatnonzero(~np.concatenate([late, np.zeros(lookback.num_rows, bool)]))
    feeding = feeding[sort_rows(key[feeding])]
    distinct = group_rows(key[: reports.num_rows])
    asked = key[distinct.picks]
    bounds = (asked - LOOKBACK_MINUTES, asked - GAP_MINUTES)
    first, end = (np.searchsorted(key[feeding], bound).astype(np.int32) for bound in bounds)
    return BaselineWindows(feeding, first, end, distinct.ids)


def _compute_metric(
    metric: str, values: Floats, buckets: Ints, windows: BaselineWindows, enough: NDArray[np.bool_]
) -> dict[str, pa.Array]:
    """The columns of one metric.

    `values` (float64[n]) are those of the reports that ask, `buckets` (int32[n + l]) of these and then of the
    lookback; `enough` (bool[w]) are the windows out of warm-up.
    """
    scale = SCALES[metric]
    matrix = WaveletMatrix(buckets[windows.feeding], scale.size)
    first, end, samples = (column[enough] for column in (windows.first, windows.end, windows.samples))

    def find_quarter(quarters: int) -> NthValues:
        return matrix.find_nth(first, end, (quarters * samples + 3) // 4 - 1)

    def spread_to_rows(answers: Floats) -> Floats:
        spread = np.full(len(enough), np.nan)
        spread[enough] = answers
        return spread[windows.of_row]

    q1, q3, flat = compute_quartiles(scale, find_quarter(1), find_quarter(3))
    state = np.full(len(enough), WARMUP, np.int8)
    state[enough] = np.where(flat, FLAT, READY)
    columns = {"q1": spread_to_rows(q1), "q3": spread_to_rows(q3)}
    if metric == "latency":
        sigma = np.where(flat, np.nan, (q3 - q1) / NORMAL_IQR)
        median = interpolate(scale, find_quarter(2))
        columns["zscore"] = (values - spread_to_rows(median)) / spread_to_rows(sigma)
    if metric == "accuracy":
        columns["percentile"] = _compute_percentiles(matrix, buckets[: len(values)], windows, enough)
    named = {f"{metric}_{name}": pa.array(column, from_pandas=True) for name, column in columns.items()}
    return named | {f"{metric}_baseline_state": STATES.take(pa.array(state[windows.of_row]))}


def _compute_percentiles(
    matrix: WaveletMatrix, buckets: Ints, windows: BaselineWindows, enough: NDArray[np.bool_]
) -> Floats:
    """float64[n]: the percentage of its window below each report's bucket, half of that bucket included."""
    rows = np.flatnonzero(enough[windows.of_row])
    window = windows.of_row[rows]
    counted = matrix.rank(windows.first[window], windows.end[window], buckets[rows])
    percentiles = np.full(len(buckets), np.nan)
    percentiles[rows] = 100 * (counted.smaller + counted.equals / 2) / windows.samples[window]
    return percentiles
