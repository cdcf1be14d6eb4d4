"""The algebra of aggregates: reports become partials, partials merge, and merged partials become rows.

    reports --make_partials--> PARTIAL --merge_by_agent 5 s, 1 m, 1 h--> PARTIAL --finish--> AGGREGATION
                     ^-merge_partials-'--merge_by_type 5 s, 1 m, 1 h---> PARTIAL --finish--> FLEET

A report is a partial of one row, so one reduction serves every step, a stream and a batch. The result does
not depend on the order of merging: counts, extremes and histograms exactly, sums and moments up to rounding.

A partial is of one agent and one type, as the agent's reports name it. So a report always counts under the
same type, and a late one changes no other type's row: a fleet row can only grow.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.readers.formats import LAST_US
from schemas.tables import AGGREGATION, GRANULARITIES, METRICS, OUTLIER_FLAGS, TIME
from transforms.aggregation.histograms import Histograms
from transforms.core.grouping import Groups, group_rows, rank_texts
from transforms.core.record_batches import concat, make_empty

FINEST = "5s"
MICROSECONDS = 1_000_000

_COUNTED = ("task_count", "success_count", "network_count", "efficiency_count", "network_bytes", "revision")
_OUTLIERS = tuple(f"{metric}_outlier_count" for metric in METRICS)
_TOTALLED = ("cpu_sum", "memory_sum", "performance_sum", "efficiency_sum")
_MOMENTS = ("latency", "accuracy")

PARTIAL = pa.schema(
    [
        ("granularity", pa.string()),
        ("time_window_start", TIME),
        ("agent_id", pa.string()),
        ("target_agent_type", pa.string()),
    ]
    + [(name, pa.int64()) for name in (*_COUNTED, *_OUTLIERS)]
    + [(name, pa.float64()) for name in _TOTALLED]
    + [(f"{name}_{moment}", pa.float64()) for name in _MOMENTS for moment in ("mean", "m2")]
    + [("latency_min", pa.float64()), ("latency_max", pa.float64())]
    + [("latency_buckets", pa.list_(pa.int32())), ("latency_counts", pa.list_(pa.int64()))]
)
"""Mergeable statistics of a window, agent and type; agent_id is null in those of all agents. m2 is the sum of
squared distances from the mean; network_count and efficiency_count are how many reports had a value; the two
lists are a sparse histogram (see `transforms.aggregation.histograms`)."""
KEY = ("granularity", "agent_id", "time_window_start", "target_agent_type")
"""The columns that partials are merged by; they are in this order, null last."""
_NUMBERS = tuple(field.name for field in PARTIAL if field.type in (pa.int64(), pa.float64()))


def make_partials(reports: pa.RecordBatch) -> pa.RecordBatch:
    """PARTIAL at 5 s of enriched reports (REPORT columns, revision, FLAGS and ENRICHMENT): a row per KEY.

    A window is floor(recorded_at / 5 s), before 1970 too.
    """
    return merge_partials([_make_singles(reports)])


def merge_partials(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """PARTIAL with each KEY of the batches once, ascending by it.

    Means and m2 after Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for
    computing sample variances", for any number of parts at once: mean = sum(n_i mean_i) / n, m2 = sum(m2_i +
    n_i (mean_i - mean)^2).
    """
    batches = [batch for batch in batches if batch.num_rows]
    if not batches:
        return make_empty(PARTIAL)
    rows = concat(batches)
    return _merge_groups(rows, _group_rows_by(rows, KEY))


def coarsen(partial: pa.RecordBatch, granularity: str) -> pa.RecordBatch:
    """The same statistics in windows of a coarser (or the same) granularity."""
    return merge_partials([_move_to(partial, granularity)])


def merge_by_agent(partial: pa.RecordBatch, granularity: str) -> pa.RecordBatch:
    """The same statistics, coarsened too, with one row for all types of an agent.

    The row has the smallest of the types by code point.
    """
    rows = _move_to(partial, granularity)
    if not rows.num_rows:
        return rows
    groups = _group_rows_by(rows, KEY[:-1])
    merged = _merge_groups(rows, groups)
    if merged is rows:
        return rows
    place, types = rank_texts(rows["target_agent_type"])
    smallest = types.take(pa.array(groups.reduce(np.minimum, place)))
    return _replace_column(merged, "target_agent_type", smallest)


def merge_by_type(partial: pa.RecordBatch, granularity: str) -> pa.RecordBatch:
    """The same statistics, coarsened too, with one row for all agents of a type: agent_id is null."""
    rows = _move_to(partial, granularity)
    return merge_partials([_replace_column(rows, "agent_id", pa.nulls(rows.num_rows, pa.string()))])


def finish(partial: pa.RecordBatch) -> pa.RecordBatch:
    """A row of AGGREGATION for each row, in their order; docs/columns.md gives each formula.

    Partials by agent give kpi_aggregations; those by type give kpi_fleet, with an agent_id that is null.
    """
    numbers = {name: partial[name].to_numpy() for name in _NUMBERS}
    count = numbers["task_count"]
    width = pc.index_in(partial["granularity"], pa.array(list(GRANULARITIES))).to_numpy()
    seconds = np.array(list(GRANULARITIES.values()))[width]
    ends = np.minimum(_read_microseconds(partial["time_window_start"]) + seconds * MICROSECONDS, LAST_US)
    columns: dict[str, pa.Array] = {
        name: partial[name] for name in AGGREGATION.names if name in PARTIAL.names
    }
    columns |= {
        "time_window_end": pa.array(ends).cast(TIME),
        "success_rate": pa.array(numbers["success_count"] / count),
        "avg_latency_ms": partial["latency_mean"],
        "latency_stddev": _compute_deviation(numbers["latency_m2"], count),
        "min_latency_ms": partial["latency_min"],
        "max_latency_ms": partial["latency_max"],
        "avg_accuracy": partial["accuracy_mean"],
        "accuracy_stddev": _compute_deviation(numbers["accuracy_m2"], count),
        "avg_cpu_usage": pa.array(numbers["cpu_sum"] / count),
        "avg_memory_mb": pa.array(numbers["memory_sum"] / count),
        "total_network_bytes": pa.array(numbers["network_bytes"], mask=numbers["network_count"] == 0),
        "performance_score": pa.array(numbers["performance_sum"] / count),
        "efficiency_ratio": _compute_mean(numbers["efficiency_sum"], numbers["efficiency_count"]),
    }
    percentiles = _read_histograms(partial).compute_percentiles(
        count, numbers["latency_min"], numbers["latency_max"]
    )
    columns |= {f"latency_p{percent}_ms": pa.array(values) for percent, values in percentiles.items()}
    return pa.RecordBatch.from_arrays([columns[name] for name in AGGREGATION.names], schema=AGGREGATION)


def _make_singles(reports: pa.RecordBatch) -> pa.RecordBatch:
    """Each report as a PARTIAL row of its own."""
    rows = reports.num_rows
    ones, zeros = np.ones(rows, dtype=np.int64), np.zeros(rows)
    recorded = _read_microseconds(reports["recorded_at"])
    columns = {
        "granularity": pa.repeat(FINEST, rows),
        "time_window_start": pa.array(recorded - recorded % (GRANULARITIES[FINEST] * MICROSECONDS)).cast(
            TIME
        ),
        "agent_id": reports["agent_id"],
        "target_agent_type": reports["target_agent_type"],
        "task_count": pa.array(ones),
        "success_count": reports["error_details"].is_null().cast(pa.int64()),
        "network_count": reports["network_bytes"].is_valid().cast(pa.int64()),
        "efficiency_count": reports["efficiency_ratio"].is_valid().cast(pa.int64()),
        "network_bytes": pc.fill_null(reports["network_bytes"], 0),
        "revision": pc.add(pc.fill_null(reports["revision"], 0), 1),
        "cpu_sum": reports["cpu_usage"],
        "memory_sum": reports["memory_mb"],
        "performance_sum": reports["performance_score"],
        "efficiency_sum": pc.fill_null(reports["efficiency_ratio"], 0.0),
        "latency_mean": reports["latency_ms"],
        "latency_m2": pa.array(zeros),
        "accuracy_mean": reports["accuracy"],
        "accuracy_m2": pa.array(zeros),
        "latency_min": reports["latency_ms"],
        "latency_max": reports["latency_ms"],
    }
    for metric, name in zip(METRICS, _OUTLIERS):
        columns[name] = pc.fill_null(reports[OUTLIER_FLAGS[metric]], False).cast(pa.int64())
    return _build_partial(columns, Histograms.of_values(reports["latency_ms"].to_numpy()))


def _group_rows_by(rows: pa.RecordBatch, names: Sequence[str]) -> Groups:
    """The rows that agree in the named columns of KEY, groups ascending by those, null last."""
    keys, count = np.zeros(rows.num_rows, dtype=np.int64), 1
    for name in names:
        column, size = _number_column(rows, name)
        if count * size > np.iinfo(np.int64).max:  # closes up the numbers, which keeps their order
            distinct, keys = np.unique(keys, return_inverse=True)
            count = len(distinct)
        keys, count = keys * size + column, count * size
    return group_rows(keys)


def _number_column(rows: pa.RecordBatch, name: str) -> tuple[NDArray[np.int64], int]:
    """int64[n]: numbers from 0 in the order of the named column of KEY.

    And how many different ones there may be.
    """
    if name != "time_window_start":
        places, distinct = rank_texts(rows[name])
        return places, len(distinct)
    starts = _read_microseconds(rows[name])
    windows = (starts - starts.min()) // (GRANULARITIES[FINEST] * MICROSECONDS)
    return windows, int(windows.max()) + 1


def _merge_groups(rows: pa.RecordBatch, groups: Groups) -> pa.RecordBatch:
    """The rows of each group as one, under the KEY of its first.

    `rows` itself if each is a group of its own, in order.
    """
    if np.array_equal(groups.picks, np.arange(rows.num_rows)):
        return rows
    picks = pa.array(groups.picks)
    columns = {name: rows[name].take(picks) for name in KEY}
    columns |= {name: pa.array(values) for name, values in _reduce(rows, groups).items()}
    return _build_partial(columns, _read_histograms(rows).merge(groups))


def _move_to(partial: pa.RecordBatch, granularity: str) -> pa.RecordBatch:
    """Each row in its window of the granularity."""
    starts = _read_microseconds(partial["time_window_start"])
    width = GRANULARITIES[granularity] * MICROSECONDS
    moved = _replace_column(partial, "granularity", pa.repeat(granularity, partial.num_rows))
    return _replace_column(moved, "time_window_start", pa.array(starts - starts % width).cast(TIME))


def _replace_column(partial: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    """The partial with another column in place of the named one."""
    return partial.set_column(PARTIAL.get_field_index(name), PARTIAL.field(name), column)


def _reduce(rows: pa.RecordBatch, groups: Groups) -> dict[str, NDArray]:
    """Every number of PARTIAL, reduced over each group."""
    numbers = {name: rows[name].to_numpy() for name in _NUMBERS}
    reduced = {name: groups.total(numbers[name]) for name in (*_COUNTED, *_OUTLIERS, *_TOTALLED)}
    reduced["network_bytes"] = _saturate(reduced["network_bytes"], numbers["network_bytes"], groups)
    for name in _MOMENTS:
        means, m2s = numbers[f"{name}_mean"], numbers[f"{name}_m2"]
        mean, m2 = _merge_moments(numbers["task_count"], means, m2s, groups)
        reduced |= {f"{name}_mean": mean, f"{name}_m2": m2}
    reduced["latency_min"] = groups.reduce(np.minimum, numbers["latency_min"])
    reduced["latency_max"] = groups.reduce(np.maximum, numbers["latency_max"])
    return reduced


def _saturate(totals: NDArray[np.int64], values: NDArray[np.int64], groups: Groups) -> NDArray[np.int64]:
    """Sums of values >= 0 (int64[n]) over each group, at most int64's largest value.

    `totals` are the sums that may have wrapped.
    """
    most = np.iinfo(np.int64).max
    if int(values.max(initial=0)) <= most // max(1, len(values)):
        return totals
    # Halves of 32 bits add up without wrapping, and show exactly where the whole would have.
    upper = groups.total(values >> 32) + (groups.total(values & 0xFFFFFFFF) >> 32)
    return np.where(upper >= 1 << 31, most, totals)


def _merge_moments(counts: NDArray, means: NDArray, m2s: NDArray, groups: Groups) -> tuple[NDArray, NDArray]:
    """float64[g]: mean and m2 of each group, from counts (int64[n]), means and m2s (float64[n])."""
    # Distances from one part's mean: so equal values keep exactly that mean and an m2 of exactly 0.
    origin = means[groups.picks]
    mean = origin + groups.total(counts * (means - origin[groups.ids])) / groups.total(counts)
    return mean, groups.total(m2s + counts * (means - mean[groups.ids]) ** 2)


def _read_histograms(partial: pa.RecordBatch) -> Histograms:
    return Histograms.read(partial["latency_buckets"], partial["latency_counts"])


def _build_partial(columns: dict[str, pa.Array], histograms: Histograms) -> pa.RecordBatch:
    columns["latency_buckets"], columns["latency_counts"] = histograms.write()
    return pa.RecordBatch.from_arrays([columns[name] for name in PARTIAL.names], schema=PARTIAL)


def _compute_deviation(m2: NDArray[np.float64], count: NDArray[np.int64]) -> pa.Array:
    """The sample standard deviation; null of fewer than two."""
    return pa.array(np.sqrt(m2 / np.maximum(count - 1, 1)), mask=count < 2)


def _compute_mean(total: NDArray[np.float64], count: NDArray[np.int64]) -> pa.Array:
    """total / count; null of none."""
    return pa.array(total / np.maximum(count, 1), mask=count == 0)


def _read_microseconds(times: pa.Array) -> NDArray[np.int64]:
    return times.cast(pa.int64()).to_numpy()
