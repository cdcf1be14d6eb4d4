"""Which reports are late, and which hours a report affects: against the rule, applied minute by minute."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import TIME
from transforms.history.time_rules import (
    GAP_MINUTES,
    LATE_SECONDS,
    LOOKBACK_HOURS,
    LOOKBACK_MINUTES,
    MAX_FUTURE_SECONDS,
    find_affected_hours,
    find_minutes,
    mark_late,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def reports(*times: tuple[float, float | None]) -> pa.RecordBatch:
    """Reports by the second (since 1970) they were recorded at, and the seconds until they were received."""
    columns = {
        "recorded_at": [EPOCH + timedelta(seconds=recorded) for recorded, _ in times],
        "received_at": [
            None if delay is None else EPOCH + timedelta(seconds=recorded + delay)
            for recorded, delay in times
        ],
    }
    return pa.RecordBatch.from_pydict(columns, pa.schema([(name, TIME) for name in columns]))


def test_a_report_is_late_if_it_came_more_than_a_minute_after_it_was_recorded() -> None:
    batch = reports((0, 60), (0, 60.000001), (-90, 61), (5, -60), (5, None))
    assert mark_late(batch).tolist() == [False, True, True, False, False]
    assert mark_late(pa.Table.from_batches([batch])).tolist() == mark_late(batch).tolist()


def test_minutes_are_floors_before_1970_too() -> None:
    assert find_minutes(reports((0, 0), (59.999999, 0), (60, 0), (-0.000001, 0))).tolist() == [0, 0, 1, -1]


def last_window(minute: int) -> int:
    """The last minute whose window [n - 62, n - 2) holds a minute."""
    return max(n for n in range(minute, minute + 100) if n - LOOKBACK_MINUTES <= minute < n - GAP_MINUTES)


@given(st.lists(st.integers(-10_000, 10_000), max_size=4))
def test_every_hour_from_a_report_to_the_last_baseline_it_feeds_is_affected(minutes: list[int]) -> None:
    expected = {hour for each in minutes for hour in range(each // 60, last_window(each) // 60 + 1)}
    assert find_affected_hours(reports(*((60 * minute + 59, 1) for minute in minutes))) == expected


@pytest.mark.parametrize("minute", range(60))
def test_no_hour_after_the_lookback_is_affected(minute: int) -> None:
    assert max(find_affected_hours(reports((60 * minute, 1)))) <= LOOKBACK_HOURS


def test_what_feeds_a_window_was_received_before_a_report_of_its_minute_can_be() -> None:
    last_to_feed = 60 * -GAP_MINUTES + LATE_SECONDS
    assert last_to_feed == -MAX_FUTURE_SECONDS
