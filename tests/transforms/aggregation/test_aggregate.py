from datetime import UTC, datetime, timedelta

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream as streams
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, AfterWatermark
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import AGGREGATIONS, ENRICHMENT, FLAGS, FLEET, GRANULARITIES, REPORT
from transforms.aggregation.aggregate import Aggregate
from transforms.aggregation.merging import MOST_TABLES, MergePartials, keep_newest
from transforms.aggregation.statistics import (
    PARTIAL,
    finish,
    make_partials,
    merge_by_agent,
    merge_by_type,
    merge_partials,
)
from transforms.aggregation.windows import Windows, make_batch_windows
from transforms.core.grouping import split_rows
from transforms.core.record_batches import make_empty
from transforms.sinks.row_merge import merge_rows

ENRICHED = pa.schema([*REPORT, pa.field("revision", pa.int64()), *ENRICHMENT, *FLAGS])
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
ROW = {"accuracy": 0.9, "cpu_usage": 0.5, "memory_mb": 512.0, "performance_score": 0.8, "revision": 0}


def reports(*seconds: float, agent: str = "a", of: str | None = None) -> pa.RecordBatch:
    """Reports of an agent, all of one type, each so many seconds after noon and with a latency of its own."""
    row = ROW | {"agent_id": agent, "target_agent_type": of}
    rows = [
        row | {"recorded_at": NOON + timedelta(seconds=second), "latency_ms": 100.0 + second}
        for second in seconds
    ]
    return pa.RecordBatch.from_pylist(rows, schema=ENRICHED)


def fixed(seconds: int, early: AfterCount | None = None) -> beam.WindowInto:
    """Fixed windows that come out at their end, again with every late element, and before it if `early`."""
    return beam.WindowInto(
        FixedWindows(seconds),
        trigger=AfterWatermark(early=early, late=AfterCount(1)),
        accumulation_mode=AccumulationMode.ACCUMULATING,
        allowed_lateness=3660,
    )


def table(batches: list[pa.RecordBatch]) -> pd.DataFrame:
    rows = pa.Table.from_batches(batches).to_pandas()
    key = [name for name in (*AGGREGATIONS.key, *FLEET.key) if name in rows.columns]
    return rows.sort_values([*dict.fromkeys(key), "revision"], ignore_index=True)


def holds(*expected: pa.RecordBatch):
    """A check that a PCollection of batches, of AGGREGATION or of FLEET, holds these rows, in any order."""

    def check(batches: list[pa.RecordBatch]) -> None:
        pd.testing.assert_frame_equal(table(batches), table(list(expected)), rtol=1e-9)

    return check


def at_every_granularity(*batches: pa.RecordBatch) -> list[pa.RecordBatch]:
    whole = make_partials(pa.concat_batches(batches))
    return [finish(merge_by_agent(whole, granularity)) for granularity in GRANULARITIES]


def test_a_batch_comes_out_once_at_every_granularity():
    batches = [reports(1, 2, 70), reports(3, 3700), reports(1, 61, agent="b")]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        aggregated = pipeline | beam.Create(in_blocks(1, *batches)) | Aggregate()
        assert_that(aggregated.rows, holds(*at_every_granularity(*batches)))


def in_blocks(shards: int, *batches: pa.RecordBatch, hours: int = 1) -> list[tuple[int, pa.RecordBatch]]:
    """(block, reports) as history gives them: all reports of some hours, of the agents of a shard."""
    together = pa.concat_batches(batches)
    number = together["recorded_at"].cast(pa.int64()).to_numpy() // (hours * 3_600_000_000)
    shard = np.array([ord(name) % shards for name in together["agent_id"].to_pylist()])
    return list(split_rows(together, number * shards + shard))


def test_no_reports_give_no_batches():
    with beam.Pipeline(FnApiRunner()) as pipeline:
        aggregated = pipeline | beam.Create([(0, reports())]) | Aggregate()
        assert_that(aggregated.rows, equal_to([]))


def test_fixed_windows_of_a_bounded_input_give_the_rows_of_none():
    batches = [reports(1, 2, 70), reports(3, 3700), reports(-1, 61)]
    windows = tuple(Windows((name,), fixed(seconds)) for name, seconds in GRANULARITIES.items())
    with beam.Pipeline(FnApiRunner()) as pipeline:
        aggregated = pipeline | beam.Create([(0, batch) for batch in batches]) | Aggregate(windows)
        assert_that(aggregated.rows, holds(*at_every_granularity(*batches)))


def test_one_hour_of_beam_may_hold_every_granularity():
    batches = [reports(1, 2, 70), reports(3, 3700)]
    windows = (Windows(tuple(GRANULARITIES), fixed(3600)),)
    with beam.Pipeline(FnApiRunner()) as pipeline:
        aggregated = pipeline | beam.Create([(0, batch) for batch in batches]) | Aggregate(windows)
        assert_that(aggregated.rows, holds(*at_every_granularity(*batches)))


def test_a_late_row_revises_its_minute():
    on_time, next_minute, late = reports(10, 20), reports(65), reports(30)
    noon = NOON.timestamp()
    stream = (
        streams.TestStream()
        .add_elements(
            [TimestampedValue((0, on_time), noon + 10), TimestampedValue((0, next_minute), noon + 65)]
        )
        .advance_watermark_to(noon + 61)
        .add_elements([TimestampedValue((0, late), noon + 30)])
        .advance_watermark_to_infinity()
    )

    def minutes(*batches: pa.RecordBatch) -> pa.RecordBatch:
        return finish(merge_by_agent(merge_partials([make_partials(batch) for batch in batches]), "1m"))

    with beam.Pipeline(
        BundleBasedDirectRunner(), beam.options.pipeline_options.PipelineOptions(streaming=True)
    ) as pipeline:
        aggregated = pipeline | stream | Aggregate((Windows(("1m",), fixed(60)),))
        assert_that(aggregated.rows, holds(minutes(on_time), minutes(on_time, late), minutes(next_minute)))


def test_an_accumulator_holds_few_tables_and_loses_no_row():
    combine = MergePartials()
    parts = [make_partials(reports(*range(count, count + count % 7))) for count in range(3 * MOST_TABLES)]
    tables = combine.create_accumulator()
    for part in parts:
        tables = combine.add_input(tables, part)
        assert len(tables) < MOST_TABLES
    halves = combine.merge_accumulators([tables[:1], combine.compact(tables[1:])])
    expected = merge_partials(parts)
    assert combine.extract_output(halves)["task_count"] == expected["task_count"]
    assert combine.extract_output(halves)["latency_counts"] == expected["latency_counts"]


def test_an_accumulator_travels_as_its_own_rows_only():
    coder = MergePartials().get_accumulator_coder()
    whole = make_partials(reports(*range(0, 5000, 5)))
    encoded = coder.encode([whole.slice(3, 2)])
    assert coder.decode(encoded) == [whole.slice(3, 2)]
    assert len(encoded) < len(coder.encode([whole])) / 10


CROWD = (
    reports(1, 2, 70, agent="a", of="gpu"),
    reports(3, 3700, agent="b", of="gpu"),
    reports(1, 61, agent="c"),
    reports(4, agent="a", of="cpu"),
    reports(62, agent="d"),
)
LATE = (reports(3, 20, agent="d", of="gpu"), reports(30, agent="a", of="cpu"))


def on_shards(count: int, *batches: pa.RecordBatch) -> list[tuple[int, pa.RecordBatch]]:
    return [(ord(batch["agent_id"][0].as_py()) % count, batch) for batch in batches]


def of_fleet(partial: pa.RecordBatch, granularity: str) -> pa.RecordBatch:
    return finish(merge_by_type(partial, granularity)).select(FLEET.schema.names)


def fleet_at_every_granularity(*batches: pa.RecordBatch) -> list[pa.RecordBatch]:
    whole = make_partials(pa.concat_batches(batches))
    return [of_fleet(whole, granularity) for granularity in GRANULARITIES]


def keeps(*expected: pa.RecordBatch):
    """A check that these rows of a PCollection of FLEET batches are kept by the rule of revisions."""

    def check(batches: list[pa.RecordBatch]) -> None:
        kept = merge_rows(FLEET, make_empty(FLEET.schema), pa.concat_batches(batches)).rows
        pd.testing.assert_frame_equal(table([kept]), table(list(expected)), rtol=1e-9)

    return check


def test_no_fleet_is_made_unless_it_is_asked_for():
    pipeline = beam.Pipeline(FnApiRunner())
    assert (pipeline | beam.Create(on_shards(2, *CROWD)) | Aggregate()).fleet is None


@pytest.mark.parametrize("hours", [1, 24])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_the_fleet_of_a_batch_comes_out_once_whatever_the_shards(shards: int, hours: int):
    crowd = (*CROWD, reports(-1, -3700, agent="b", of="cpu"))
    blocks = in_blocks(shards, *crowd, hours=hours)
    with beam.Pipeline(FnApiRunner()) as pipeline:
        aggregated = pipeline | beam.Create(blocks) | Aggregate(make_batch_windows(shards), fleet=True)
        assert_that(aggregated.fleet, holds(*fleet_at_every_granularity(*crowd)), "Fleet is right")
        assert_that(aggregated.rows, holds(*at_every_granularity(*crowd)), "Rows are right")


def test_no_reports_give_no_fleet():
    with beam.Pipeline(FnApiRunner()) as pipeline:
        assert_that((pipeline | beam.Create([(0, reports())]) | Aggregate(fleet=True)).fleet, equal_to([]))


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("early", [None, AfterCount(1)], ids=["at the end", "early too"])
def test_the_fleet_of_a_stream_counts_every_report_once_however_often_panes_come(
    shards: int, early: AfterCount | None
):
    noon = NOON.timestamp()
    stream = streams.TestStream()
    for keyed in on_shards(shards, *CROWD):
        stream = stream.add_elements([TimestampedValue(keyed, noon + 1)])
    stream = stream.advance_watermark_to(noon + 3601)
    for keyed in on_shards(shards, *LATE):
        stream = stream.add_elements([TimestampedValue(keyed, noon + 3)])
    windows = tuple(Windows((name,), fixed(seconds, early)) for name, seconds in GRANULARITIES.items())
    with beam.Pipeline(
        BundleBasedDirectRunner(), beam.options.pipeline_options.PipelineOptions(streaming=True)
    ) as pipeline:
        aggregated = pipeline | stream.advance_watermark_to_infinity() | Aggregate(windows, fleet=True)
        assert_that(aggregated.fleet, keeps(*fleet_at_every_granularity(*CROWD, *LATE)))


def test_a_late_row_revises_the_fleet_beside_the_other_shards():
    on_time, other, late = reports(10, of="gpu"), reports(20, agent="b", of="gpu"), reports(30, of="gpu")
    noon = NOON.timestamp()
    stream = (
        streams.TestStream()
        .add_elements([TimestampedValue((0, on_time), noon + 10)])
        .add_elements([TimestampedValue((1, other), noon + 20)])
        .advance_watermark_to(noon + 61)
        .add_elements([TimestampedValue((0, late), noon + 30)])
        .advance_watermark_to_infinity()
    )

    def revised(batches: list[pa.RecordBatch]) -> None:
        rows = table(batches)
        assert rows["task_count"].tolist() == rows["revision"].tolist() == [1, 2, 3]
        pd.testing.assert_frame_equal(rows[2:].reset_index(drop=True), table([minute(on_time, other, late)]))

    def minute(*batches: pa.RecordBatch) -> pa.RecordBatch:
        return of_fleet(make_partials(pa.concat_batches(batches)), "1m")

    with beam.Pipeline(
        BundleBasedDirectRunner(), beam.options.pipeline_options.PipelineOptions(streaming=True)
    ) as pipeline:
        aggregated = pipeline | stream | Aggregate((Windows(("1m",), fixed(60)),), fleet=True)
        assert_that(aggregated.fleet, revised)


def panes(shard: int) -> list[tuple[int, pa.RecordBatch]]:
    """What a shard's window holds as its reports come in."""
    parts = [
        merge_by_type(make_partials(reports(second, of=of)), "5s")
        for second, of in ((1, "gpu"), (2, None), (3, "gpu"), (4, "cpu"))
    ]
    return [(shard, merge_partials(parts[: count + 1])) for count in range(len(parts))]


@given(order=st.permutations([pane for shard in range(3) for pane in panes(shard)]))
def test_the_newest_pane_of_each_shard_is_kept_in_whatever_order_they_come(
    order: list[tuple[int, pa.RecordBatch]],
):
    known = None
    for shard, partial in order:
        kept = keep_newest(known, shard, partial)
        known = known if kept is None else kept
        assert keep_newest(known, shard, partial) is None
    assert merge_partials([known.select(PARTIAL.names)]) == merge_partials(
        [panes(shard)[-1][1] for shard in range(3)]
    )
