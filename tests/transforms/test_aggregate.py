from datetime import UTC, datetime, timedelta

import apache_beam as beam
import pandas as pd
import pyarrow as pa
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream as streams
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, AfterWatermark
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from schemas.tables import AGGREGATION, ENRICHMENT, FLAGS, GRANULARITIES, REPORT
from transforms.aggregate import GATHERED, Aggregate, MergePartials, Windows
from transforms.statistics import coarsen, finish, merge, partials

ENRICHED = pa.schema([*REPORT, pa.field("revision", pa.int64()), *ENRICHMENT, *FLAGS])
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
ROW = {"accuracy": 0.9, "cpu_usage": 0.5, "memory_mb": 512.0, "performance_score": 0.8, "revision": 0}


def reports(*seconds: float, agent: str = "a") -> pa.RecordBatch:
    """Reports of an agent, each so many seconds after noon and with a latency of its own."""
    rows = [
        ROW | {"agent_id": agent, "recorded_at": NOON + timedelta(seconds=second), "latency_ms": 100.0 + second}
        for second in seconds
    ]
    return pa.RecordBatch.from_pylist(rows, schema=ENRICHED)


def fixed(seconds: int) -> beam.WindowInto:
    """Fixed windows that come out at their end and again with every late element."""
    return beam.WindowInto(
        FixedWindows(seconds),
        trigger=AfterWatermark(late=AfterCount(1)),
        accumulation_mode=AccumulationMode.ACCUMULATING,
        allowed_lateness=3660,
    )


def table(batches: list[pa.RecordBatch]) -> pd.DataFrame:
    rows = pa.Table.from_batches(batches, AGGREGATION).to_pandas()
    return rows.sort_values(["granularity", "agent_id", "time_window_start", "revision"], ignore_index=True)


def holds(*expected: pa.RecordBatch):
    """A check that a PCollection of batches holds these rows, in any order."""

    def check(batches: list[pa.RecordBatch]) -> None:
        pd.testing.assert_frame_equal(table(batches), table(list(expected)), rtol=1e-9)

    return check


def at_every_granularity(*batches: pa.RecordBatch) -> list[pa.RecordBatch]:
    whole = partials(pa.concat_batches(batches))
    return [finish(coarsen(whole, granularity)) for granularity in GRANULARITIES]


def test_a_batch_comes_out_once_at_every_granularity():
    first, second, other = reports(1, 2, 70), reports(3, 3700), reports(1, 61, agent="b")
    with beam.Pipeline(FnApiRunner()) as pipeline:
        rows = pipeline | beam.Create([(0, first), (0, second), (1, other)]) | Aggregate()
        assert_that(rows, holds(*at_every_granularity(first, second, other)))


def test_no_reports_give_no_batches():
    with beam.Pipeline(FnApiRunner()) as pipeline:
        rows = pipeline | beam.Create([(0, reports())]) | Aggregate()
        assert_that(rows, equal_to([]))


def test_fixed_windows_of_a_bounded_input_give_the_rows_of_none():
    batches = [reports(1, 2, 70), reports(3, 3700), reports(-1, 61)]
    windows = tuple(Windows((name,), fixed(seconds)) for name, seconds in GRANULARITIES.items())
    with beam.Pipeline(FnApiRunner()) as pipeline:
        rows = pipeline | beam.Create([(0, batch) for batch in batches]) | Aggregate(windows)
        assert_that(rows, holds(*at_every_granularity(*batches)))


def test_one_hour_of_beam_may_hold_every_granularity():
    batches = [reports(1, 2, 70), reports(3, 3700)]
    windows = (Windows(tuple(GRANULARITIES), fixed(3600)),)
    with beam.Pipeline(FnApiRunner()) as pipeline:
        rows = pipeline | beam.Create([(0, batch) for batch in batches]) | Aggregate(windows)
        assert_that(rows, holds(*at_every_granularity(*batches)))


def test_a_late_row_revises_its_minute():
    on_time, next_minute, late = reports(10, 20), reports(65), reports(30)
    noon = NOON.timestamp()
    stream = (
        streams.TestStream()
        .add_elements([TimestampedValue((0, on_time), noon + 10), TimestampedValue((0, next_minute), noon + 65)])
        .advance_watermark_to(noon + 61)
        .add_elements([TimestampedValue((0, late), noon + 30)])
        .advance_watermark_to_infinity()
    )

    def minutes(*batches: pa.RecordBatch) -> pa.RecordBatch:
        return finish(coarsen(merge([partials(batch) for batch in batches]), "1m"))

    with beam.Pipeline(BundleBasedDirectRunner(), beam.options.pipeline_options.PipelineOptions(streaming=True)) as pipeline:
        rows = pipeline | stream | Aggregate((Windows(("1m",), fixed(60)),))
        assert_that(rows, holds(minutes(on_time), minutes(on_time, late), minutes(next_minute)))


def test_an_accumulator_holds_few_tables_and_loses_no_row():
    combine = MergePartials()
    parts = [partials(reports(*range(count, count + count % 7))) for count in range(3 * GATHERED)]
    gathered = combine.create_accumulator()
    for part in parts:
        gathered = combine.add_input(gathered, part)
        assert len(gathered) < GATHERED
    halves = combine.merge_accumulators([gathered[:1], combine.compact(gathered[1:])])
    expected = merge(parts)
    assert combine.extract_output(halves)["task_count"] == expected["task_count"]
    assert combine.extract_output(halves)["latency_counts"] == expected["latency_counts"]


def test_an_accumulator_travels_as_its_own_rows_only():
    coder = MergePartials().get_accumulator_coder()
    whole = partials(reports(*range(0, 5000, 5)))
    encoded = coder.encode([whole.slice(3, 2)])
    assert coder.decode(encoded) == [whole.slice(3, 2)]
    assert len(encoded) < len(coder.encode([whole])) / 10
