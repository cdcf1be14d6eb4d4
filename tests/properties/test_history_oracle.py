"""History and flags against plain loops over windows, exact quantiles and dictionaries."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.tables import DUPLICATE, METRIC_COLUMNS, METRICS
from tests.transforms.history.builders import NO_LOOKBACK
from transforms.core.histogram_scales import SCALES
from transforms.core.record_batches import BASELINED, REPORT_BATCH
from transforms.history.batch_history import apply_history
from transforms.history.dedup import deduplicate
from transforms.outliers import flag_outliers

MIN_SAMPLES = 3
IQR_FACTOR, FLAT_MARGIN = 0.8, 0.1
NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
FRACTIONS = st.one_of(st.sampled_from([0.9, 0.9, 0.9, 0.5, 1.0]), st.floats(0, 1))
SIZES = st.one_of(st.sampled_from([100.0, 100.0, 100.001, 101.0, 5000.0]), st.floats(1e-6, 299_999))
METRIC_VALUES = {"latency_ms": SIZES, "memory_mb": SIZES, "accuracy": FRACTIONS, "cpu_usage": FRACTIONS}
DELIVERIES = st.fixed_dictionaries(
    {
        "source": st.sampled_from("st"),
        "message_id": st.sampled_from(["1", "2"]),
        "received_at": st.sampled_from([0, 59.5, 60, 60.5, 3000, None]),
    }
)
REPORTS = st.tuples(
    st.fixed_dictionaries(
        {"agent_id": st.sampled_from("aab"), "recorded_at": st.integers(-2700, 2700), **METRIC_VALUES}
    ),
    st.lists(DELIVERIES, min_size=1, max_size=3),
)


def delivered(reports: list[tuple[dict, list[dict]]]) -> list[dict]:
    """A row for every delivery; times are seconds after noon, and after that."""
    rows = []
    for number, (report, deliveries) in enumerate(reports):
        recorded = NOON + timedelta(seconds=report["recorded_at"])
        for delivery in deliveries:
            delay = delivery["received_at"]
            received = None if delay is None else recorded + timedelta(seconds=delay)
            message = {"received_at": received, "message_id": f"{number}-{delivery['message_id']}"}
            message |= {"context": False}
            rows.append(
                report | delivery | message | {"recorded_at": recorded, "report_id": f"{number:032x}"}
            )
    return rows


SHARDS = st.lists(REPORTS, min_size=12, max_size=40).map(delivered)
"""Rows of two agents over an hour and a half: some late, some of one report, some of one message."""


def apply_to(rows: list[dict], cuts: tuple[int, ...] = ()) -> tuple[pa.Table, pa.Table]:
    """The reports and the duplicates of the rows, given in batches cut at `cuts`, each sorted by its key."""
    whole = pa.RecordBatch.from_pylist(rows, REPORT_BATCH)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    reports, duplicates = apply_history(
        [whole.slice(first, end - first) for first, end in zip(edges, edges[1:])], NO_LOOKBACK, MIN_SAMPLES
    )
    return sort_results(reports, [duplicates])


def sort_results(
    reports: Iterable[pa.RecordBatch], duplicates: Iterable[pa.RecordBatch]
) -> tuple[pa.Table, pa.Table]:
    """BASELINED batches and DUPLICATE batches as a table each, sorted by its key."""
    by_message = [("source", "ascending"), ("message_id", "ascending")]
    return (
        pa.Table.from_batches(reports, BASELINED).sort_by("report_id"),
        pa.Table.from_batches(duplicates, DUPLICATE).sort_by(by_message),
    )


def fates(rows: list[dict]) -> tuple[dict[str, dict], list[dict]]:
    """The row that is kept of each report, its `context`, and the first rows of the messages that are
    duplicates.
    """
    deliveries: dict[str, dict[tuple, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=_order):
        deliveries[row["report_id"]][row["source"], row["message_id"]].append(row)
    kept_rows, lost = {}, []
    for report, messages in deliveries.items():
        kept, *others = messages.values()
        context = all(row["context"] for copies in messages.values() for row in copies)
        kept_rows[report] = kept[0] | {"context": context}
        lost += [copies[0] for copies in others if not all(row["context"] for row in copies)]
    return kept_rows, sorted(lost, key=lambda row: (row["source"], row["message_id"]))


def _order(row: dict) -> tuple:
    received = row["received_at"]
    return received is not None, received or NOON, row["source"], row["message_id"]


def window(row: dict, kept_rows: dict[str, dict]) -> list[dict]:
    """The reports that row is compared with."""
    minute = row["recorded_at"].replace(second=0, microsecond=0)
    first, end = minute - timedelta(minutes=62), minute - timedelta(minutes=2)
    return [
        other
        for other in kept_rows.values()
        if other["agent_id"] == row["agent_id"]
        and first <= other["recorded_at"] < end
        and (
            other["received_at"] is None
            or other["received_at"] - other["recorded_at"] <= timedelta(seconds=60)
        )
    ]


def width(metric: str, value: float) -> float:
    """The span of the bucket of a value: how far a value read from a histogram may be from the true one."""
    scale = SCALES[metric]
    bucket = scale.index(np.array([value]))
    return float(scale.edges[bucket + 1][0] - scale.edges[bucket][0])


@settings(max_examples=25, deadline=None)
@given(SHARDS)
def test_every_message_is_kept_for_its_report_or_is_its_duplicate(rows):
    check_fates(rows, *apply_to(rows))


def check_fates(rows: list[dict], reports: pa.Table, duplicates: pa.Table) -> None:
    """Check which messages are kept, and which are duplicates."""
    kept_rows, lost = fates(rows)
    kept = [kept_rows[report] for report in sorted(kept_rows)]
    names = ["report_id", "source", "message_id", "received_at"]
    assert reports.select(names).to_pylist() == _columns(kept, names)
    assert duplicates.select(names).to_pylist() == _columns(lost, names)


@settings(max_examples=25, deadline=None)
@given(SHARDS, st.data())
def test_what_was_there_before_is_context_and_no_duplicate_again(rows, data):
    rows = [row | {"context": data.draw(st.sampled_from([False, False, True]))} for row in rows]
    done = deduplicate(pa.Table.from_pylist(rows, REPORT_BATCH))
    kept_rows, lost = fates(rows)
    found = {rows[row]["report_id"]: bool(mark) for row, mark in zip(done.rows, done.context)}
    assert found == {report: row["context"] for report, row in kept_rows.items()}
    by_message = sorted(done.duplicates.to_pylist(), key=lambda row: (row["source"], row["message_id"]))
    names = ["report_id", "source", "message_id", "received_at"]
    assert _columns(by_message, names) == _columns(lost, names)


def _columns(rows: list[dict], names: list[str]) -> list[dict]:
    return [{name: row[name] for name in names} for row in rows]


@settings(max_examples=25, deadline=None)
@given(SHARDS, st.randoms(use_true_random=False), st.lists(st.integers(0, 80), max_size=3))
def test_neither_order_nor_batches_change_what_leaves(rows, random, cuts):
    shuffled = random.sample(rows, len(rows))
    assert apply_to(shuffled, tuple(cuts)) == apply_to(rows)


@settings(max_examples=25, deadline=None)
@given(SHARDS)
def test_baselines_are_those_of_a_loop_over_windows_to_a_bucket(rows):
    check_baselines(rows, apply_to(rows)[0])


def check_baselines(rows: list[dict], reports: pa.Table) -> None:
    """Check the baseline of each report against exact quantiles of its window."""
    kept_rows, _ = fates(rows)
    for row in reports.to_pylist():
        past = window(row, kept_rows)
        assert row["baseline_n"] == row["revision"] == len(past)
        for metric, column in METRIC_COLUMNS.items():
            state, q1, q3 = (row[f"{metric}_{name}"] for name in ("baseline_state", "q1", "q3"))
            if len(past) < MIN_SAMPLES:
                assert (state, q1, q3) == ("warmup", None, None)
                continue
            values = [other[column] for other in past]
            for quartile, share in ((q1, 0.25), (q3, 0.75)):
                exact = np.quantile(values, share, method="inverted_cdf")
                assert abs(quartile - exact) <= width(metric, exact)
            assert state == ("flat" if q1 == q3 else "ready")
        _check_scores(row, past)


def _check_scores(row: dict, past: list[dict]) -> None:
    if row["latency_baseline_state"] == "ready":
        exact = np.quantile([other["latency_ms"] for other in past], 0.5, method="inverted_cdf")
        deviation = (row["latency_q3"] - row["latency_q1"]) / 1.349
        assert abs(row["latency_zscore"] * deviation - (row["latency_ms"] - exact)) <= 1.001 * width(
            "latency", exact
        )
    else:
        assert row["latency_zscore"] is None
    if len(past) >= MIN_SAMPLES:
        *buckets, bucket = (
            SCALES["accuracy"].index(np.array([other["accuracy"] for other in [*past, row]])).tolist()
        )
        middle = sum(other < bucket for other in buckets) + buckets.count(bucket) / 2
        assert row["accuracy_percentile"] == 100 * middle / len(past)
    else:
        assert row["accuracy_percentile"] is None


@settings(max_examples=25, deadline=None)
@given(SHARDS)
def test_flags_are_those_of_exact_fences_but_within_a_bucket_of_one(rows):
    reports, _ = apply_to(rows)
    kept_rows, _ = fates(rows)
    for batch in reports.to_batches():
        for row in flag_outliers(batch, IQR_FACTOR, FLAT_MARGIN).to_pylist():
            past = window(row, kept_rows)
            for metric in METRICS:
                _check_flag(metric, row, [other[METRIC_COLUMNS[metric]] for other in past])


def _check_flag(metric: str, row: dict, past: list[float]) -> None:
    value, flagged = row[METRIC_COLUMNS[metric]], row[f"is_{metric}_outlier"]
    if len(past) < MIN_SAMPLES:
        assert not flagged
        return
    q1, q3 = (np.quantile(past, share, method="inverted_cdf") for share in (0.25, 0.75))
    error = width(metric, q1) + width(metric, q3)
    reach, error = IQR_FACTOR * (q3 - q1), error * (1 + IQR_FACTOR)
    if row[f"{metric}_baseline_state"] == "flat":
        reach = FLAT_MARGIN * (q1 if metric in ("latency", "memory") else 1)
    if min(abs(value - (q1 - reach)), abs(value - (q3 + reach))) > error:
        assert flagged == (not q1 - reach <= value <= q3 + reach)
