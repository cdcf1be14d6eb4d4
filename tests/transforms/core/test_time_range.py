"""Rows of a span of time."""

from datetime import datetime, timedelta, timezone

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from schemas.tables import TIME
from tests.builders import NOON
from transforms.core.keep_within import KeepWithin
from transforms.core.time_range import Span, keep_within

TICK, HOUR = timedelta(microseconds=1), timedelta(hours=1)
TIMES = [NOON - TICK, NOON, NOON + HOUR - TICK, NOON + HOUR, None]
BATCH = pa.RecordBatch.from_pydict({"at": pa.array(TIMES, TIME), "row": range(len(TIMES))})


@pytest.mark.parametrize(
    ("span", "rows"),
    [
        (Span(), [0, 1, 2, 3, 4]),
        (Span(NOON), [1, 2, 3, 4]),
        (Span(None, NOON), [0, 4]),
        (Span(NOON, NOON + HOUR), [1, 2, 4]),
        (Span(NOON.astimezone(timezone(timedelta(hours=2))), NOON + HOUR), [1, 2, 4]),
    ],
)
def test_a_span_holds_its_start_but_not_its_end_and_what_has_no_time(span: Span, rows: list[int]) -> None:
    (kept,) = keep_within(BATCH, span, "at")
    assert kept["row"].to_pylist() == rows


def test_nothing_is_left_of_a_batch_outside() -> None:
    assert keep_within(BATCH[:1], Span(NOON), "at") == []
    assert keep_within(BATCH[:0], Span(NOON), "at") == []


def test_only_a_span_without_bounds_is_everything() -> None:
    assert [Span().everything, Span(NOON).everything, Span(None, NOON).everything] == [True, False, False]


@pytest.mark.parametrize(("span", "rows"), [(Span(), [0, 1, 2, 3, 4]), (Span(NOON + HOUR), [3, 4])])
def test_the_transform_keeps_the_rows_of_the_span(span: Span, rows: list[int]) -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        kept = pipeline | beam.Create([BATCH, BATCH[:1]], reshuffle=False) | KeepWithin(span, "at")
        numbers = kept | beam.FlatMap(lambda batch: batch["row"].to_pylist()) | beam.Distinct()
        assert_that(numbers, equal_to(rows))


def test_times_before_1970_compare_as_times() -> None:
    old = datetime(1969, 7, 20, 20, 17, tzinfo=NOON.tzinfo)
    batch = pa.RecordBatch.from_pydict({"at": pa.array([old, old + HOUR], TIME)})
    assert keep_within(batch, Span(old, old + HOUR), "at")[0].num_rows == 1
