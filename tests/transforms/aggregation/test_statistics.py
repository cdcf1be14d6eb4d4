import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.tables import AGGREGATION, ENRICHMENT, FLAGS, FLEET, GRANULARITIES, METRICS, REPORT
from transforms.aggregation.statistics import (
    PARTIAL,
    coarsen,
    finish,
    make_partials,
    merge_by_agent,
    merge_by_type,
    merge_partials,
)
from transforms.core.histogram_scales import SCALES
from transforms.core.record_batches import make_empty

ENRICHED = pa.schema([*REPORT, pa.field("revision", pa.int64()), *ENRICHMENT, *FLAGS])
KEY = ["granularity", "agent_id", "time_window_start"]
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
ROW = {
    "agent_id": "a",
    "recorded_at": NOON,
    "latency_ms": 100.0,
    "accuracy": 0.9,
    "cpu_usage": 0.5,
    "memory_mb": 512.0,
    "network_bytes": 10,
    "error_details": None,
    "performance_score": 0.8,
    "efficiency_ratio": 1.5,
    "revision": 30,
    **{f"is_{metric}_outlier": False for metric in METRICS},
}


def reports(*rows: dict) -> pa.RecordBatch:
    """Enriched reports that differ from ROW in some fields."""
    return pa.RecordBatch.from_pylist([ROW | row for row in rows], schema=ENRICHED)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def aggregated(batch: pa.RecordBatch, granularity: str = "5s") -> list[dict]:
    return finish(merge_by_agent(make_partials(batch), granularity)).to_pylist()


def ordered(batch: pa.RecordBatch, key: Sequence[str] = KEY) -> pd.DataFrame:
    return batch.to_pandas().sort_values(list(key), ignore_index=True)


def least(texts: pd.Series) -> str | None:
    return min((text for text in texts if isinstance(text, str)), default=None)


def oracle(batch: pa.RecordBatch, granularity: str, by: str = "agent_id") -> pd.DataFrame:
    """The rows of AGGREGATION, or of FLEET, of reports by pandas and numpy, percentiles exact."""
    frame = batch.to_pandas()
    width = timedelta(seconds=GRANULARITIES[granularity])
    frame["time_window_start"] = frame["recorded_at"].dt.floor(f"{GRANULARITIES[granularity]}s")
    rows = []
    for (_, start), group in frame.groupby([by, "time_window_start"], dropna=False):
        latency = group["latency_ms"]
        percentiles = {
            f"latency_p{p}_ms": np.percentile(latency, p, method="inverted_cdf") for p in (50, 95, 99)
        }
        rows.append(
            {
                "granularity": granularity,
                "time_window_start": start,
                "time_window_end": start + width,
                "agent_id": least(group["agent_id"]),
                "target_agent_type": least(group["target_agent_type"]),
                "task_count": len(group),
                "success_rate": group["error_details"].isna().mean(),
                "avg_latency_ms": latency.mean(),
                "latency_stddev": latency.std(ddof=1),
                "min_latency_ms": latency.min(),
                "max_latency_ms": latency.max(),
                **percentiles,
                "avg_accuracy": group["accuracy"].mean(),
                "accuracy_stddev": group["accuracy"].std(ddof=1),
                "avg_cpu_usage": group["cpu_usage"].mean(),
                "avg_memory_mb": group["memory_mb"].mean(),
                "total_network_bytes": group["network_bytes"].sum(min_count=1),
                "performance_score": group["performance_score"].mean(),
                "efficiency_ratio": group["efficiency_ratio"].mean(),
                **{f"{metric}_outlier_count": group[f"is_{metric}_outlier"].sum() for metric in METRICS},
                "revision": (group["revision"] + 1).sum(),
            }
        )
    names, key = (AGGREGATION.names, KEY) if by == "agent_id" else (FLEET.schema.names, FLEET.key)
    return (
        pd.DataFrame(rows, columns=names)
        .astype({"target_agent_type": "str"})
        .sort_values(list(key), ignore_index=True)
    )


fractions = st.floats(0, 1)
rows = st.fixed_dictionaries(
    {
        "agent_id": st.sampled_from("abc"),
        "target_agent_type": st.sampled_from([None, "", "cpu", "gpu", "é"]),
        "recorded_at": st.floats(-4000, 4000).map(after),
        "latency_ms": st.floats(0.001, 299_999),
        "accuracy": fractions,
        "cpu_usage": fractions,
        "memory_mb": st.floats(0.1, 1e5),
        "network_bytes": st.none() | st.integers(0, 10**11),
        "error_details": st.none() | st.just("{}"),
        "performance_score": fractions,
        "efficiency_ratio": st.none() | st.floats(0, 100),
        "revision": st.integers(0, 1000),
        **{f"is_{metric}_outlier": st.booleans() for metric in METRICS},
    }
)
many_reports = st.lists(rows, min_size=1, max_size=40).map(lambda drawn: reports(*drawn))


def agree(batch: pa.RecordBatch, granularity: str) -> None:
    alike(ordered(finish(merge_by_agent(make_partials(batch), granularity))), oracle(batch, granularity))


def alike(got: pd.DataFrame, expected: pd.DataFrame) -> None:
    estimated = ["latency_p50_ms", "latency_p95_ms", "latency_p99_ms"]
    np.testing.assert_allclose(got[estimated], expected[estimated], rtol=0.01)
    deviations = ["latency_stddev", "accuracy_stddev"]
    np.testing.assert_allclose(
        got[deviations].astype(float), expected[deviations].astype(float), rtol=1e-9, atol=1e-9
    )
    rest = [name for name in expected.columns if name not in estimated + deviations]
    pd.testing.assert_frame_equal(got[rest], expected[rest], check_dtype=False, rtol=1e-9, atol=1e-12)


def test_reports_of_a_window_become_one_row():
    (row,) = aggregated(
        reports(
            {"latency_ms": 100.0, "accuracy": 0.8, "is_latency_outlier": True, "target_agent_type": "gpu"},
            {
                "latency_ms": 300.0,
                "accuracy": 0.6,
                "error_details": '"timeout"',
                "network_bytes": 5,
                "recorded_at": after(4.9),
            },
        )
    )
    assert row == {
        "granularity": "5s",
        "time_window_start": NOON,
        "time_window_end": after(5),
        "agent_id": "a",
        "target_agent_type": "gpu",
        "task_count": 2,
        "success_rate": 0.5,
        "avg_latency_ms": 200.0,
        "latency_stddev": pytest.approx(math.sqrt(20_000)),
        "min_latency_ms": 100.0,
        "max_latency_ms": 300.0,
        "latency_p50_ms": pytest.approx(100.0, rel=0.005),
        "latency_p95_ms": pytest.approx(300.0, rel=0.005),
        "latency_p99_ms": pytest.approx(300.0, rel=0.005),
        "avg_accuracy": pytest.approx(0.7),
        "accuracy_stddev": pytest.approx(math.sqrt(0.02)),
        "avg_cpu_usage": 0.5,
        "avg_memory_mb": 512.0,
        "total_network_bytes": 15,
        "performance_score": 0.8,
        "efficiency_ratio": 1.5,
        "latency_outlier_count": 1,
        "accuracy_outlier_count": 0,
        "cpu_outlier_count": 0,
        "memory_outlier_count": 0,
        "revision": 62,
    }


def test_a_single_report_is_its_own_percentiles_and_has_no_deviation():
    (row,) = aggregated(reports({"latency_ms": 123.4}))
    assert [row[f"latency_{name}"] for name in ("p50_ms", "p95_ms", "p99_ms", "stddev")] == [
        123.4,
        123.4,
        123.4,
        None,
    ]
    assert row["accuracy_stddev"] is None


def test_equal_values_keep_their_mean_and_deviate_by_nothing():
    batch = reports(
        *({"latency_ms": 0.1, "accuracy": 0.7, "recorded_at": after(second)} for second in range(0, 300, 7))
    )
    (row,) = aggregated(batch, "1h")
    assert (row["avg_latency_ms"], row["latency_stddev"], row["latency_p95_ms"]) == (0.1, 0.0, 0.1)
    assert (row["avg_accuracy"], row["accuracy_stddev"]) == (0.7, 0.0)


def test_a_window_starts_at_the_floor_of_its_reports_before_1970_too():
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    moments = [epoch - timedelta(microseconds=1), epoch, epoch + timedelta(seconds=4, microseconds=999_999)]
    found = aggregated(reports(*({"recorded_at": moment} for moment in moments)))
    assert [(row["time_window_start"], row["task_count"]) for row in found] == [
        (epoch - timedelta(seconds=5), 1),
        (epoch, 2),
    ]


def test_what_no_report_of_a_window_has_is_null():
    bare = {"network_bytes": None, "efficiency_ratio": None}
    (none,) = aggregated(reports(bare, bare))
    (some,) = aggregated(reports(bare, {}))
    assert (none["total_network_bytes"], none["efficiency_ratio"]) == (None, None)
    assert (some["total_network_bytes"], some["efficiency_ratio"]) == (10, 1.5)


def test_a_report_without_a_flag_or_revision_counts_as_unflagged_and_first():
    (row,) = aggregated(
        reports({"revision": None, "is_cpu_outlier": None}, {"revision": 0, "is_cpu_outlier": True})
    )
    assert (row["revision"], row["cpu_outlier_count"]) == (2, 1)


def test_no_reports_give_no_rows():
    assert make_partials(make_empty(ENRICHED)) == make_empty(PARTIAL)
    assert merge_partials([]) == make_empty(PARTIAL)
    assert finish(coarsen(make_empty(PARTIAL), "1h")) == make_empty(AGGREGATION)
    assert (
        merge_by_agent(make_empty(PARTIAL), "1h")
        == merge_by_type(make_empty(PARTIAL), "1h")
        == make_empty(PARTIAL)
    )


def test_granularities_and_agents_stay_apart_in_a_merge():
    fine = make_partials(reports({}, {"agent_id": "b"}))
    hours = coarsen(fine, "1h")
    merged = merge_partials([hours, fine, fine])
    assert merged.select(KEY).to_pylist() == [
        {"granularity": granularity, "agent_id": agent, "time_window_start": NOON}
        for granularity in ("1h", "5s")
        for agent in ("a", "b")
    ]
    assert merged["task_count"].to_pylist() == [1, 1, 2, 2]


def test_a_slice_of_a_partial_merges_as_its_rows_alone():
    fine = make_partials(
        reports(*({"recorded_at": after(second), "latency_ms": 1.0 + second} for second in range(0, 60, 2)))
    )
    tail = fine.slice(7)
    assert coarsen(tail, "1m") == coarsen(fine.take(pa.array(range(7, fine.num_rows))), "1m")
    assert finish(tail) == finish(fine).slice(7)


@settings(max_examples=60, deadline=None)
@given(batch=many_reports, granularity=st.sampled_from(list(GRANULARITIES)))
def test_aggregates_are_those_of_pandas(batch, granularity):
    agree(batch, granularity)


@settings(max_examples=60, deadline=None)
@given(batch=many_reports, granularity=st.sampled_from(list(GRANULARITIES)))
def test_fleet_rows_are_those_of_pandas_over_all_agents(batch, granularity):
    rows = finish(merge_by_type(make_partials(batch), granularity))
    assert rows["agent_id"].null_count == rows.num_rows
    alike(
        ordered(rows.select(FLEET.schema.names), FLEET.key), oracle(batch, granularity, "target_agent_type")
    )


@settings(max_examples=40, deadline=None)
@given(batch=many_reports, cut=st.integers(0, 40))
def test_fleet_rows_are_the_same_however_agents_are_spread(batch, cut):
    ends = [0, min(cut, batch.num_rows), batch.num_rows]
    spread = merge_partials(
        [
            merge_by_type(make_partials(batch.slice(start, end - start)), "5s")
            for start, end in zip(ends, ends[1:])
        ]
    )
    for granularity in GRANULARITIES:
        together, apart = (
            finish(merge_by_type(part, granularity)) for part in (make_partials(batch), spread)
        )
        pd.testing.assert_frame_equal(together.to_pandas(), apart.to_pandas(), rtol=1e-9, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(batch=many_reports, more=many_reports)
def test_further_reports_take_nothing_from_a_fleet_row_and_raise_its_revision(batch, more):
    before, after = fleet_hours(batch), fleet_hours(batch, more)
    for key, row in before.items():
        assert after[key]["task_count"] >= row["task_count"]
        assert (after[key]["revision"] > row["revision"]) == (after[key]["task_count"] > row["task_count"])


def fleet_hours(*batches: pa.RecordBatch) -> dict[tuple, dict]:
    """Rows of the fleet at 1 h, by their key."""
    rows = finish(merge_by_type(make_partials(pa.concat_batches(batches)), "1h")).to_pylist()
    return {tuple(row[name] for name in FLEET.key): row for row in rows}


def test_a_window_has_the_smallest_type_that_its_agent_names():
    types = [{"target_agent_type": name} for name in (None, "planner", "gpu", None, "Worker")]
    ((row,), (none,)) = (aggregated(reports(*rows)) for rows in (types, [types[0], types[3]]))
    assert (row["target_agent_type"], row["task_count"]) == ("Worker", 5)
    assert (none["target_agent_type"], none["task_count"]) == (None, 2)


def test_a_report_counts_under_the_type_that_it_names_itself():
    named = [("gpu", "a"), (None, "a"), ("cpu", "a"), ("gpu", "b")]
    rows = finish(
        merge_by_type(
            make_partials(
                reports(*({"target_agent_type": name, "agent_id": agent} for name, agent in named))
            ),
            "5s",
        )
    )
    counts = [
        tuple(row.values())
        for row in rows.select(["target_agent_type", "task_count", "revision"]).to_pylist()
    ]
    assert counts == [("cpu", 1, 31), ("gpu", 2, 62), (None, 1, 31)]


def test_more_agents_types_and_years_than_a_key_can_number_stay_apart():
    count = 13_000
    years = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)]
    names = [f"{number:05d}" for number in range(count)]
    batch = reports({})
    columns = {name: batch[name].take(pa.array([0] * count)) for name in batch.schema.names}
    columns |= {name: pa.array(names) for name in ("agent_id", "target_agent_type")}
    columns["recorded_at"] = pa.array(
        [years[number % 2] for number in range(count)], ENRICHED.field("recorded_at").type
    )
    whole = make_partials(pa.RecordBatch.from_pydict(columns, schema=ENRICHED))
    merged = merge_partials([whole, whole])
    assert merged["agent_id"].to_pylist() == merged["target_agent_type"].to_pylist() == names
    assert set(merged["task_count"].to_pylist()) == {2}


@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0])
def test_percentiles_of_long_windows_are_within_one_percent(spread):
    latencies = np.exp(np.random.default_rng(7).normal(3, spread, 4000)).clip(0.001, 299_999)
    agree(reports(*({"latency_ms": latency} for latency in latencies)), "1h")


@settings(max_examples=60, deadline=None)
@given(
    batch=many_reports,
    cuts=st.lists(st.integers(0, 40), max_size=6),
    shuffler=st.randoms(use_true_random=False),
)
def test_any_split_and_order_of_merging_gives_the_same_statistics(batch, cuts, shuffler):
    ends = sorted({0, batch.num_rows, *(min(cut, batch.num_rows) for cut in cuts)})
    parts = [make_partials(batch.slice(start, end - start)) for start, end in zip(ends, ends[1:])]
    shuffler.shuffle(parts)
    middle = shuffler.randint(0, len(parts))
    merged = merge_partials([merge_partials(parts[:middle]), *parts[middle:]])
    whole = make_partials(batch)
    rounded = [
        field.name
        for field in PARTIAL
        if field.type == pa.float64() and field.name[-4:] not in ("_min", "_max")
    ]
    exact = [name for name in PARTIAL.names if name not in rounded]
    assert merged.select(exact) == whole.select(exact)
    np.testing.assert_allclose(
        [merged[name].to_numpy() for name in rounded],
        [whole[name].to_numpy() for name in rounded],
        rtol=1e-9,
        atol=1e-9,
    )


@settings(max_examples=40, deadline=None)
@given(batch=many_reports)
def test_hours_of_minutes_are_hours_of_five_seconds(batch):
    fine = make_partials(batch)
    for coarser in (coarsen, merge_by_agent, merge_by_type):
        direct, by_minutes = coarser(fine, "1h"), coarser(coarser(fine, "1m"), "1h")
        pd.testing.assert_frame_equal(direct.to_pandas(), by_minutes.to_pandas(), rtol=1e-9, atol=1e-9)


def test_percentiles_interpolate_within_a_bucket():
    latency = SCALES["latency"]
    bucket = int(latency.index(np.array([100.0]))[0])
    low, high = latency.edges[bucket], latency.edges[bucket + 1]
    (row,) = aggregated(
        reports({"latency_ms": low}, *[{"latency_ms": 100.0}] * 2, {"latency_ms": np.nextafter(high, low)})
    )
    assert row["latency_p50_ms"] == pytest.approx(low + (high - low) * 1.5 / 4, rel=1e-12)
    assert row["latency_p99_ms"] == pytest.approx(low + (high - low) * 3.5 / 4, rel=1e-12)


def test_bytes_beyond_int64_stay_at_its_largest_value_in_any_order_of_merging():
    most = np.iinfo(np.int64).max
    parts = [make_partials(reports({"network_bytes": bytes_})) for bytes_ in (most - 5, 3, most, 1, 0)]
    assert finish(merge_partials(parts[:2]))["total_network_bytes"].to_pylist() == [most - 2]
    for order in (parts, parts[::-1], [merge_partials(parts[:3]), merge_partials(parts[3:])]):
        assert finish(merge_partials(order))["total_network_bytes"].to_pylist() == [most]
