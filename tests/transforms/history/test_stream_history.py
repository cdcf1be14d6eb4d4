"""History of a stream gives what history of a batch gives, whatever is lost or comes late."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing import test_stream as streams
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import TimestampedValue

from tests.builders import agent
from tests.transforms.history.builders import FAULTY, MINUTE, NOON, apply_to, batch, fail_at, reports
from transforms.core.record_batches import REPORT_BATCH
from transforms.history import stream_history
from transforms.history.recall import find_missing_hours, find_needed_hours, merge_hours
from transforms.history.shard_memory import ShardMemory
from transforms.history.stream_history import StreamHistory


def streamed(*steps: tuple[float, pa.RecordBatch] | float) -> streams.TestStream:
    """Batches of shard 0, each with the minute of its element, and watermarks; minutes are after noon."""
    stream = streams.TestStream()
    for step in steps:
        if isinstance(step, tuple):
            minute, reports = step
            stream = stream.add_elements([TimestampedValue((0, reports), NOON.timestamp() + MINUTE * minute)])
        else:
            stream = stream.advance_watermark_to(NOON.timestamp() + MINUTE * step)
    return stream.advance_watermark_to_infinity()


def runs_to(
    expected: tuple[pa.Table, pa.Table],
    *steps: tuple[float, pa.RecordBatch] | float,
    recall: Any = None,
    refused: Sequence[str] = (),
) -> None:
    """Check that StreamHistory gives these reports and duplicates, and quarantines these messages."""

    def holds(table: pa.Table) -> Callable[[list[pa.RecordBatch]], None]:
        def check(batches: list[pa.RecordBatch]) -> None:
            assert (
                pa.Table.from_batches(batches, table.schema).sort_by("message_id").to_pylist()
                == table.to_pylist()
            )

        return check

    with beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions([], streaming=True)) as pipeline:
        keyed = (
            pipeline
            | streamed(*steps)
            | beam.Map(lambda each: each).with_output_types(tuple[int, pa.RecordBatch])
        )
        out = keyed | StreamHistory(2, 3600, 60, recall)
        assert_that(out.reports | beam.Values(), holds(expected[0]), "reports")
        assert_that(out.duplicates, holds(expected[1]), "duplicates")
        named = out.quarantine | "Refused" >> beam.FlatMap(lambda rows: rows["message_id"].to_pylist())
        assert_that(named, equal_to(list(refused)), "quarantine")


def apply_by_message(*batches: pa.RecordBatch) -> tuple[pa.Table, pa.Table]:
    """What `apply_history` gives of the batches together."""
    rows, lost = apply_to(*batches)
    return rows.sort_by("message_id"), pa.Table.from_batches([lost]).sort_by("message_id")


@pytest.fixture
def evictions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The watermark of each eviction, in minutes after noon, and how many reports feed after it."""
    found, evict = [], ShardMemory.evict

    def watched(memory: ShardMemory, watermark_us: int) -> None:
        evict(memory, watermark_us)
        found.append((watermark_us / 60e6 - NOON.timestamp() / 60, len(memory.window)))

    monkeypatch.setattr(ShardMemory, "evict", watched)
    return found


def test_the_watermark_evicts_each_minute_in_its_time_and_then_rests(evictions):
    early, late = reports(0, 0.5, 1), reports(59.9, first=9)
    runs_to(apply_by_message(early, late), (0, early), 60.5, (61, late))
    assert evictions == [(61, 4), (62, 4), (120, 4), (123, 2), (124, 1), (182, 0)]


class Forgetful(stream_history._Cache):
    """Nothing is cached from one batch to the next."""

    def __setitem__(self, shard: int, cached: stream_history._Cached) -> None: ...


class Outdated(stream_history._Cache):
    """A process that always has only its first memory."""

    def pop(self, shard: int, default: Any = None) -> Any:
        return deepcopy(self.get(shard, default))

    def __setitem__(self, shard: int, cached: stream_history._Cached) -> None:
        self.setdefault(shard, deepcopy(cached))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "pieces"),
    [(stream_history._Cache, 1000), (stream_history._Cache, 2), (Forgetful, 2), (Outdated, 1000)],
)
def test_batch_by_batch_gives_what_all_at_once_gives_even_if_memory_is_lost(memory, pieces, monkeypatch):
    batches = [reports(start, start, start + 6, first=start) for start in range(0, 150, 12)]
    copied = batches[2].set_column(17, "source", pa.array(["t"] * 3))
    steps = [step for number, each in enumerate(batches) for step in (12.0 * number, (12.0 * number, each))]
    monkeypatch.setattr("transforms.history.shard_memory.MOST_DELTAS", pieces)
    monkeypatch.setattr(stream_history, "_Cache", memory)
    runs_to(apply_by_message(*batches, copied), *steps[:12], (60, copied), *steps[12:])


@pytest.mark.parametrize("pieces", [1000, 2])
def test_a_report_at_which_history_raises_in_a_stream_is_refused_and_leaves_nothing_in_memory(
    pieces, monkeypatch
):
    fails, baselined = fail_at(FAULTY["latency_ms"]), ShardMemory._attach_baselines
    monkeypatch.setattr(
        ShardMemory,
        "_attach_baselines",
        lambda memory, rows, *asked: fails(rows) or baselined(memory, rows, *asked),
    )
    monkeypatch.setattr("transforms.history.shard_memory.MOST_DELTAS", pieces)
    batches = [reports(start, start, start + 6, first=start) for start in range(0, 60, 12)]
    steps = [step for number, each in enumerate(batches) for step in (12.0 * number, (12.0 * number, each))]
    wrong = batch({"id": "f", "at": 12.5 * MINUTE, "message": "bad", "agent_id": agent(0), **FAULTY})
    bad = pa.concat_batches([batches[1].slice(0, 1), wrong, batches[1].slice(1)])
    steps[3] = (12.0, bad)
    runs_to(apply_by_message(*batches), *steps, refused=["bad"])


def test_an_error_leaves_no_memory_that_is_ahead_of_the_state():
    class State:
        def read(self) -> tuple:
            return ()

        def add(self, delta: bytes) -> None: ...
        def write(self, mark: tuple) -> None: ...
        def set(self, due: Any) -> None: ...

    history = stream_history._StreamHistoryFn(2, 3600, None)
    history.setup()
    state = State()
    outputs = history.process((0, reports(0)), state, state, state)
    next(outputs)
    assert history.cache == {}
    assert list(outputs) == []
    assert list(history.cache) == [0]


def test_a_stream_bears_no_reports_from_far_in_the_future():
    with pytest.raises(ValueError, match="future_seconds is 61"):
        StreamHistory(2, 3600, 61)


def hours(*minutes: float) -> list[int]:
    """The hours affected by reports of these minutes, counted from noon."""
    return [hour - int(NOON.timestamp()) // 3600 for hour in find_needed_hours(reports(*minutes))]


def test_a_batch_needs_the_hours_from_its_first_report_to_its_last_baseline():
    assert hours(0) == [0, 1]
    assert hours(57.99) == [0, 1]
    assert hours(58) == hours(58, 1) == [0, 1, 2]
    assert hours(-0.01, 58) == [-1, 0, 1, 2]


@pytest.mark.parametrize(
    ("wanted", "known", "parts", "then"),
    [
        (range(5, 7), range(0), [(range(5, 7), True)], range(5, 7)),
        (range(5, 7), range(5, 7), [], range(5, 7)),
        (range(6, 8), range(5, 7), [(range(7, 8), False)], range(5, 8)),
        (range(4, 6), range(5, 7), [(range(4, 5), True)], range(4, 7)),
        (range(3, 9), range(5, 7), [(range(3, 5), True), (range(7, 9), False)], range(3, 9)),
        (range(8, 10), range(5, 7), [(range(7, 10), False)], range(5, 10)),
        (range(9, 11), range(5, 7), [(range(9, 11), True)], range(9, 11)),
    ],
)
def test_hours_are_recalled_once_and_what_is_far_ahead_anew(wanted, known, parts, then):
    assert find_missing_hours(wanted, known) == parts
    assert merge_hours(wanted, known) == then


@dataclass(frozen=True)
class Kept:
    """Recalls the reports of a batch, all of shard 0."""

    batch: pa.RecordBatch

    def __call__(self, shard: int, hours: range, context: bool) -> Iterator[pa.RecordBatch]:
        assert shard == 0
        first, end = (60 * (hour - int(NOON.timestamp()) // 3600) for hour in (hours.start, hours.stop))
        for start, stop, before in ((first - 62, first, True), (first, end, False)):
            rows = [
                row
                for row in self.batch.to_pylist()
                if start <= (row["recorded_at"] - NOON).total_seconds() / 60 < stop
            ]
            if context or not before:
                yield pa.RecordBatch.from_pylist([row | {"context": before} for row in rows], REPORT_BATCH)


STORED = reports(*range(-135, 20, 5))
"""Reports that were written before, five minutes apart; the last is that of minute 15."""


def from_hour(hour: int, *batches: pa.RecordBatch) -> tuple[pa.Table, pa.Table]:
    """What `apply_history` gives of stored reports and batches, but for reports before an hour after noon."""
    rows, lost = apply_by_message(STORED, *batches)
    return rows.filter(pc.greater_equal(rows["recorded_at"], NOON + timedelta(hours=hour))), lost


def test_stored_reports_of_affected_hours_are_emitted_before_new_ones():
    new, later = reports(20.5, 21, first=900), reports(50, 62, first=910)
    runs_to(from_hour(0, new, later), (20, new), (62, later), recall=Kept(STORED))


@pytest.mark.parametrize("memory", [stream_history._Cache, Forgetful])
def test_a_report_of_an_earlier_hour_recalls_that_hour_and_feeds_nothing_twice(memory, monkeypatch):
    monkeypatch.setattr(stream_history, "_Cache", memory)
    new, late, last = (
        reports(20.5, first=900),
        reports(-20.5, delay=3000, first=910),
        reports(40.5, 50.5, first=920),
    )
    runs_to(from_hour(-1, new, late, last), (20, new), (21, late), 40, (40, last), recall=Kept(STORED))


def test_a_stored_report_that_is_read_again_leaves_no_trace_and_its_copy_is_a_duplicate():
    again = STORED.slice(27, 1)
    (copy,) = again.to_pylist()
    other = {"message_id": "x", "received_at": copy["received_at"] + timedelta(minutes=1)}
    copy = pa.RecordBatch.from_pylist([copy | other], REPORT_BATCH)
    runs_to(from_hour(0, copy), (5, again), (6, copy), recall=Kept(STORED))
