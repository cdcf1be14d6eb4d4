from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from schemas.tables import BASELINE, METRICS, TIME
from transforms.core.histogram_scales import SCALES
from transforms.history.baseline import compute_baselines
from transforms.history.blocks import LOOKBACK

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def reports(
    seconds, start=NOON, agent="a", delay=0.0, latency=100.0, accuracy=0.9, cpu=0.5, memory=512.0
) -> pa.Table:
    """Reports recorded `seconds` after `start` and received `delay` seconds later (never, if None)."""
    count = len(seconds)
    recorded = [start + timedelta(seconds=second) for second in seconds]
    received = [None if delay is None else moment + timedelta(seconds=delay) for moment in recorded]
    metrics = {"latency_ms": latency, "accuracy": accuracy, "cpu_usage": cpu, "memory_mb": memory}
    times = {"recorded_at": pa.array(recorded, TIME), "received_at": pa.array(received, TIME)}
    values = {
        name: np.broadcast_to(np.asarray(value, float), count).copy() for name, value in metrics.items()
    }
    return pa.table({"agent_id": pa.array([agent] * count, pa.string()), **times, **values})


def bucket_of(metric: str, value: float) -> tuple[float, float]:
    scale = SCALES[metric]
    index = int(scale.index(np.array([value]))[0])
    return scale.edges[index], scale.edges[index + 1]


def compute_alone(asking: pa.Table, min_samples: int) -> pa.RecordBatch:
    """The baselines of reports without lookback."""
    return compute_baselines(asking, LOOKBACK.empty_table(), min_samples)


def samples(*tables: pa.Table) -> list[int]:
    return compute_alone(pa.concat_tables(tables), 30)["baseline_n"].to_pylist()


@pytest.mark.parametrize(
    "start", [NOON, EPOCH, EPOCH - timedelta(minutes=30), datetime(1815, 12, 10, tzinfo=UTC)]
)
def test_a_window_is_the_hour_that_ended_two_minutes_ago(start):
    edges = reports([-0.000001, 0, 3599.999999, 3600], start)
    asking = reports([62 * 60, 62 * 60 + 59.999999, 63 * 60, 2 * 60], start, delay=61)
    assert samples(edges, asking) == [0, 0, 2, 2, 2, 2, 2, 1]


def test_a_window_reaches_over_a_leap_day():
    leap = datetime(2024, 2, 29, 23, 30, tzinfo=UTC)
    assert samples(reports([0, 3599, 3600], leap), reports([3720, 86400 + 3720], leap)) == [0, 1, 1, 2, 0]


def test_a_report_later_than_a_minute_feeds_no_baseline_but_has_one():
    prompt, late = reports([0], delay=60), reports([10], delay=60.000001)
    assert samples(prompt, late, reports([600], delay=3000)) == [0, 0, 1]


def test_a_report_without_received_at_feeds():
    assert samples(reports([0], delay=None), reports([600], delay=None)) == [0, 1]


def test_an_agent_is_compared_with_its_own_reports_only():
    first, last = reports([0, 3600], agent="a"), reports([0, 3600], agent="c")
    assert samples(first, reports([0, 300], agent="b"), last) == [0, 1, 0, 1, 0, 1]


def test_no_reports_have_no_baselines():
    assert compute_alone(reports([]), 30) == pa.RecordBatch.from_pylist([], BASELINE)


def test_a_window_short_of_samples_is_in_warm_up():
    baselines = compute_alone(pa.concat_tables([reports(range(29)), reports([300])]), 30)
    states = {f"{metric}_baseline_state": "warmup" for metric in METRICS}
    assert baselines.to_pylist()[-1] == dict.fromkeys(BASELINE.names) | states | {"baseline_n": 29}
    assert baselines.schema == BASELINE


def test_equal_values_are_flat_and_both_quartiles_the_middle_of_their_bucket():
    baselines = compute_alone(
        pa.concat_tables([reports(range(30)), reports([300], latency=5000.0)]), 30
    ).to_pylist()[-1]
    given = {"latency": 100.0, "accuracy": 0.9, "cpu": 0.5, "memory": 512.0}
    expected = {"baseline_n": 30, "latency_zscore": None, "accuracy_percentile": 50.0}
    for metric, value in given.items():
        middle = sum(bucket_of(metric, value)) / 2
        expected |= {f"{metric}_baseline_state": "flat", f"{metric}_q1": middle, f"{metric}_q3": middle}
    assert baselines == expected


def test_quartiles_are_the_values_of_rank_a_quarter_and_three_quarters_of_n():
    fractions = (np.arange(10) * 100 + 50.5) / 2000
    past = reports(range(10), accuracy=fractions[::-1], cpu=fractions / 2 + 0.5)
    baselines = compute_alone(pa.concat_tables([past, reports([300])]), 10).to_pylist()[-1]
    assert (baselines["accuracy_q1"], baselines["accuracy_q3"]) == pytest.approx((fractions[2], fractions[7]))
    assert baselines["cpu_baseline_state"] == "ready"


def test_a_quartile_is_at_its_rank_within_a_crowded_bucket():
    crowded = [0.9] * 10 + [0.1] * 10
    baselines = compute_alone(
        pa.concat_tables([reports(range(20), cpu=crowded), reports([300])]), 20
    ).to_pylist()[-1]
    (low, low_end), (high, high_end) = bucket_of("cpu", 0.1), bucket_of("cpu", 0.9)
    assert baselines["cpu_q1"] == pytest.approx(low + (low_end - low) * 0.45)
    assert baselines["cpu_q3"] == pytest.approx(high + (high_end - high) * 0.45)


def test_the_z_score_is_the_distance_from_the_median_in_robust_deviations():
    latency = np.linspace(100, 200, 101)
    asking = reports([300, 301], latency=[150.0, 250.0])
    baselines = compute_alone(
        pa.concat_tables([reports(range(101), latency=latency), asking]), 30
    ).to_pylist()
    assert [row["latency_zscore"] for row in baselines[-2:]] == pytest.approx(
        [0.0, 100 / (50 / 1.349)], abs=0.05
    )


def test_the_percentile_counts_half_of_the_equals():
    past = reports(range(4), accuracy=[0.1, 0.5, 0.5, 0.9])
    asking = reports([300] * 5, accuracy=[0.0, 0.1, 0.5, 0.9, 1.0])
    baselines = compute_alone(pa.concat_tables([past, asking]), 4)
    assert baselines["accuracy_percentile"].to_pylist() == [None] * 4 + [0.0, 12.5, 50.0, 87.5, 100.0]
