import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.record_columns import EXECUTION_CONTEXT
from schemas.tables import ENRICHMENT, REPORT, TIME
from transforms.core.record_batches import build_batch
from transforms.enrich import Enrich, EnrichOptions, enrich

UTC_OFFICE = EnrichOptions(reference_latency_ms=1000.0, time_zone="UTC", peak_start_hour=9, peak_end_hour=17)
MONDAY = datetime(2024, 1, 1, 12, tzinfo=UTC)
ROW = {
    "recorded_at": MONDAY,
    "latency_ms": 250.0,
    "accuracy": 0.9,
    "cpu_usage": 0.5,
    "memory_mb": 2000.0,
    "network_bytes": 1_000_000,
    "available_memory_mb": 8000.0,
}


def reports(*rows: dict) -> pa.RecordBatch:
    """Reports that differ from ROW in some fields."""
    whole = [ROW | row for row in rows]
    types = {"recorded_at": TIME, "network_bytes": pa.int64()}
    columns = {
        name: pa.array([row[name] for row in whole], types.get(name, pa.float64()))
        for name in ROW
        if name in REPORT.names
    }
    contexts = [{"available_memory_mb": row["available_memory_mb"]} for row in whole]
    columns["execution_context"] = pa.array(contexts, EXECUTION_CONTEXT)
    return build_batch(columns, REPORT, len(whole))


def added(batch: pa.RecordBatch, options: EnrichOptions = UTC_OFFICE) -> list[dict]:
    return enrich(batch, options).select(ENRICHMENT.names).to_pylist()


def at(*times: datetime, zone: str = "UTC", start: int = 9, end: int = 17) -> list[tuple[int, int, bool]]:
    rows = added(reports(*({"recorded_at": time} for time in times)), EnrichOptions(1000.0, zone, start, end))
    return [(row["hour_of_day"], row["day_of_week"], row["is_peak_hour"]) for row in rows]


def test_a_report_gains_its_scores_at_its_end():
    batch = reports({})
    rich = enrich(batch, UTC_OFFICE)
    assert rich.schema == pa.schema([*REPORT, *ENRICHMENT])
    assert rich.select(REPORT.names) == batch
    assert added(batch) == [
        {
            "performance_score": pytest.approx(0.9 * 1000 / 1250),
            "efficiency_ratio": pytest.approx(0.9 * 1000 / 1250 / 0.375),
            "resource_efficiency": pytest.approx(0.9 * 0.625),
            "cpu_efficiency": pytest.approx(1 / (1 + 0.5 * 0.25)),
            "memory_efficiency": pytest.approx(1 / (1 + 2.0 * 0.25)),
            "network_efficiency": pytest.approx(1 / 2),
            "hour_of_day": 12,
            "day_of_week": 1,
            "is_peak_hour": True,
        }
    ]


def test_at_the_reference_latency_the_score_is_half_the_accuracy():
    (row,) = added(reports({"latency_ms": 40.0, "accuracy": 0.8}), EnrichOptions(40.0, "UTC", 9, 17))
    assert row["performance_score"] == pytest.approx(0.4)


def test_memory_beyond_what_is_available_counts_as_all_of_it():
    over, full = added(reports({"memory_mb": 9000.0}, {"memory_mb": 8000.0}))
    assert over["resource_efficiency"] == full["resource_efficiency"] == pytest.approx(0.9 * 0.25)


def test_what_cannot_be_known_is_null():
    no_network, no_use = added(reports({"network_bytes": None}, {"cpu_usage": 0.0, "memory_mb": 0.0}))
    assert no_network["network_efficiency"] is None
    assert no_network["efficiency_ratio"] is not None
    assert no_use["efficiency_ratio"] is None
    assert no_use["network_efficiency"] is not None


def test_hours_follow_the_zone_through_both_clock_changes():
    spring, autumn = datetime(2024, 3, 31, 0, 30, tzinfo=UTC), datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    times = [change + timedelta(hours=hour) for change in (spring, autumn) for hour in range(3)]
    assert [hour for hour, _, _ in at(*times, zone="Europe/Berlin")] == [1, 3, 4, 2, 2, 3]


def test_the_day_is_the_local_one():
    sunday_late = datetime(2023, 12, 31, 23, 30, tzinfo=UTC)
    assert at(sunday_late) == [(23, 7, False)]
    assert at(sunday_late, zone="Asia/Kathmandu", start=5) == [(5, 1, True)]


def test_a_peak_may_run_over_midnight_and_leaves_the_weekend_out():
    hours = [datetime(2024, 1, 5, 21, 59, tzinfo=UTC) + timedelta(hours=hour) for hour in (0, 1, 2, 3)]
    assert [peak for _, _, peak in at(*hours, start=22, end=2)] == [False, True, True, False]
    thursday = [hour - timedelta(days=1) for hour in hours] + [datetime(2024, 1, 5, 2, 0, tzinfo=UTC)]
    assert [peak for _, _, peak in at(*thursday, start=22, end=2)] == [False, True, True, True, False]


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin", "Africa/Casablanca", "Asia/Manila"])
def test_every_second_around_a_clock_change_has_its_own_offset(zone: str) -> None:
    changes = [datetime(1883, 11, 18, 16, 55, 58), datetime(1893, 3, 31, 23, 6, 28)]
    changes += [datetime(2038, 3, 14, 7), datetime(9999, 3, 14, 7)]
    times = [
        (change + timedelta(seconds=second)).replace(tzinfo=UTC)
        for change in changes
        for second in range(-100, 100)
    ]
    local = [time.astimezone(ZoneInfo(zone)) for time in times]
    assert [found[:2] for found in at(*times, zone=zone)] == [
        (each.hour, each.isoweekday()) for each in local
    ]


def test_the_first_and_the_last_moment_of_the_calendar_have_an_hour() -> None:
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert [found[:2] for found in at(first, last, zone="Etc/GMT+5")] == [(19, 7), (18, 5)]
    assert [found[:2] for found in at(first, last, zone="Etc/GMT-5")] == [(5, 1), (4, 6)]


def test_a_ratio_to_next_to_no_use_is_null_and_no_column_is_infinite() -> None:
    extreme = [0.0, 5e-324, 1e-320, 1e-300, 1e-12, 1.0]
    rows = added(
        reports(
            *(
                {"cpu_usage": cpu, "memory_mb": memory}
                for cpu in extreme
                for memory in (5e-324, 1e-300, 999999.0)
            )
        )
    )
    numbers = [value for row in rows for value in row.values() if value is not None]
    assert all(math.isfinite(value) for value in numbers)
    assert max(row["efficiency_ratio"] or 0 for row in rows) <= 1e9
    assert rows[3]["efficiency_ratio"] is None


def test_a_slice_gains_what_its_rows_would_gain_in_the_whole():
    batch = reports(
        {"available_memory_mb": 4000.0}, {"available_memory_mb": 16000.0}, {"network_bytes": None}
    )
    assert enrich(batch.slice(1), UTC_OFFICE) == enrich(batch, UTC_OFFICE).slice(1)


def test_no_reports_stay_none():
    assert enrich(reports({}).slice(1), UTC_OFFICE).num_rows == 0


def test_an_unknown_zone_is_named():
    with pytest.raises(ZoneInfoNotFoundError, match="Mars/Phobos"):
        added(reports({}), EnrichOptions(1000.0, "Mars/Phobos", 9, 17))


@settings(max_examples=50, deadline=None)
@given(
    times=st.lists(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), min_size=1, max_size=20),
    zone=st.sampled_from(
        [
            "UTC",
            "Europe/Berlin",
            "America/St_Johns",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "America/New_York",
            "Africa/Monrovia",
        ]
    ),
    start=st.integers(0, 23),
    end=st.integers(1, 24),
)
def test_the_calendar_is_that_of_the_standard_library(times, zone, start, end):
    aware = [time.replace(tzinfo=UTC) for time in times]
    local = [time.astimezone(ZoneInfo(zone)) for time in aware]
    peak_hours = set(range(start, end)) if start <= end else set(range(24)) - set(range(end, start))
    expected = [(t.hour, t.isoweekday(), t.hour in peak_hours and t.isoweekday() <= 5) for t in local]
    assert at(*aware, zone=zone, start=start, end=end) == expected


def test_the_transform_enriches_every_batch():
    batch = reports({}, {"accuracy": 0.1})
    with beam.Pipeline(FnApiRunner()) as pipeline:
        rich = (pipeline | beam.Create([(3, batch)]) | Enrich(UTC_OFFICE)).reports
        assert_that(rich, equal_to([(3, enrich(batch, UTC_OFFICE))]))
