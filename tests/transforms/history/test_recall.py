"""Recall: which stored reports come back, and as what."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import apache_beam as beam
import pyarrow as pa
import pytest
import stamina
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from schemas.registry import load
from schemas.tables import REPORTS
from tests.builders import NOON, agent, messages, report
from transforms.core.errors import Unavailable
from transforms.core.record_batches import REPORT_BATCH, conform, make_empty, split_by_rows
from transforms.core.sharding import assign_shards
from transforms.history.blocks import Blocks, is_lookback
from transforms.history.recall import Recall, RecallShard, _read_for_blocks, recall_hours
from transforms.history.time_rules import find_affected_hours, find_minutes
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.sinks.sink import Store
from transforms.storage.local_folder import LocalFolder
from transforms.validation.validate import MessageRules, judge_block

HOUR = int(NOON.timestamp()) // 3600
"""The hour of noon, since 1970."""


def after(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def reports(*minutes: float) -> pa.RecordBatch:
    """Reports recorded so many minutes after noon; report i has the task of number i."""
    documents = [report(number, at=after(each)) for number, each in enumerate(minutes)]
    return judge_block(messages(documents, received_at=None), load("kpi_report"), MessageRules())[0]


def affected(*minutes: float) -> list[int]:
    """The hours that reports affect, counted from that of noon."""
    return sorted(hour - HOUR for hour in find_affected_hours(reports(*minutes)))


@pytest.fixture
def output(tmp_path: Path) -> ParquetStore:
    """A report every ten minutes, from three hours before noon to three after it, and at the edges of
    context.
    """
    stored = reports(*range(-180, 190, 10), -62, -63, -0.001)
    store = ParquetStore(LocalFolder(tmp_path), 30)
    store.write(REPORTS, [conform(stored, REPORTS.schema)])
    return store


def minutes_of(batches: Iterator[pa.RecordBatch], context: bool) -> list[float]:
    """When the recalled reports were recorded, in minutes after noon."""
    rows = [row for batch in batches for row in batch.to_pylist() if row["context"] == context]
    return sorted((row["recorded_at"] - NOON).total_seconds() / 60 for row in rows)


@pytest.mark.parametrize(
    ("minute", "hours"),
    [
        (0, [0, 1]),
        (57.999, [0, 1]),
        (58, [0, 1, 2]),
        (59.999, [0, 1, 2]),
        (-0.001, [-1, 0, 1]),
        (-2.001, [-1, 0]),
    ],
)
def test_a_report_affects_every_hour_from_its_own_to_that_of_the_last_baseline_it_feeds(
    minute: float, hours: list[int]
) -> None:
    assert affected(minute) == hours


def test_reports_affect_what_each_of_them_affects() -> None:
    assert affected(0, 58, 600) == [0, 1, 2, 10, 11]
    assert affected() == []


def test_a_report_before_1970_affects_hours_before_1970() -> None:
    old = judge_block(
        messages([report(at=datetime(1969, 12, 31, 23, 30, tzinfo=NOON.tzinfo))], None),
        load("kpi_report"),
        MessageRules(),
    )[0]
    assert find_affected_hours(old) == {-1, 0}


def test_an_affected_hour_comes_back_whole_and_the_62_minutes_before_it_as_context(
    output: ParquetStore,
) -> None:
    assert minutes_of(recall_hours(output, {HOUR}), context=False) == [0, 10, 20, 30, 40, 50]
    assert minutes_of(recall_hours(output, {HOUR}), context=True) == [
        -62,
        -60,
        -50,
        -40,
        -30,
        -20,
        -10,
        -0.001,
    ]


def test_what_one_hour_needs_as_context_and_another_whole_comes_whole(output: ParquetStore) -> None:
    found = list(recall_hours(output, {HOUR, HOUR + 1}))
    assert minutes_of(iter(found), context=False) == [*range(0, 120, 10)]
    assert max(minutes_of(iter(found), context=True)) < 0


def test_hours_apart_have_a_context_each(output: ParquetStore) -> None:
    found = minutes_of(recall_hours(output, {HOUR - 1, HOUR + 2}), context=True)
    assert found == [-120, -110, -100, -90, -80, -70, -63, -62, 60, 70, 80, 90, 100, 110]


def test_what_is_recalled_is_what_was_stored(output: ParquetStore) -> None:
    (whole,) = [batch for batch in recall_hours(output, {HOUR + 3}) if not batch["context"][0].as_py()]
    assert whole.schema == REPORT_BATCH
    (row,) = whole.to_pylist()
    (fresh,) = reports(180).to_pylist()
    ignored = {"task_id", "message_id", "report_id"}
    assert {name: row[name] for name in row if name not in ignored} == {
        name: fresh[name] for name in fresh if name not in ignored
    }


def test_an_hour_without_reports_gives_nothing(output: ParquetStore, tmp_path: Path) -> None:
    assert list(recall_hours(output, {HOUR + 100})) == []
    assert list(recall_hours(ParquetStore(LocalFolder(tmp_path / "gone")), {HOUR})) == []


READS: list[int] = []


@dataclass(frozen=True)
class Counted:
    """A store that notes which hours are read."""

    store: ParquetStore

    def read_reports(self, hour: int) -> Iterator[pa.RecordBatch]:
        READS.append(hour - HOUR)
        return self.store.read_reports(hour)


def test_the_transform_recalls_each_hour_once_for_all_new_reports(output: ParquetStore) -> None:
    READS.clear()
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        new = pipeline | beam.Create([reports(181), reports(182, 185), reports(190, 239)], reshuffle=False)
        keyed = new | Recall(cast(Store, Counted(output)), Blocks(1))
        rows = keyed | beam.FlatMapTuple(list_recalled)
        fed = [(HOUR + 3, "lookback", minute) for minute in range(120, 180, 10)]
        whole = [(HOUR + 3, "whole", 180), (HOUR + 4, "lookback", 180)]
        assert_that(rows, equal_to([*fed, *whole]))
    assert sorted(READS) == [1, 2, 3, 4, 5]


def list_recalled(key: int, rows: pa.RecordBatch) -> list[tuple[int, str, int]]:
    """(block, whether whole or as lookback, minute after noon) of recalled reports."""
    kind = "lookback" if is_lookback(rows) else "whole"
    return [(key, kind, minute - 60 * HOUR) for minute in find_minutes_of(rows)]


def find_minutes_of(rows: pa.RecordBatch) -> list[int]:
    return rows["minute"].to_pylist() if is_lookback(rows) else find_minutes(rows).tolist()


def test_a_block_gets_the_62_minutes_before_its_first_affected_hour_as_lookback(output: ParquetStore) -> None:
    found = [
        each
        for hour, distances in ((HOUR - 2, [2, 3]), (HOUR - 1, [1, 2]), (HOUR, [0, 1]), (HOUR + 1, [0]))
        for key, rows in _read_for_blocks(output, Blocks(24), hour, distances)
        for each in list_recalled(key, rows)
    ]
    day = HOUR // 24
    fed = [minute for key, kind, minute in found if kind == "lookback" and key == day]
    assert sorted(fed) == [-62, -60, -50, -40, -30, -20, -10, -1]
    whole = [minute for key, kind, minute in found if kind == "whole" and key == day]
    assert sorted(whole) == list(range(0, 120, 10))


def test_nothing_new_recalls_nothing(output: ParquetStore) -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        none = pipeline | beam.Create([make_empty(REPORT_BATCH)], reshuffle=False)
        assert_that(none | Recall(output, Blocks()), equal_to([]))


def test_a_shard_recalls_hours_whole_with_the_62_minutes_before_them_or_without(output: ParquetStore) -> None:
    recall = RecallShard(output, shards=1)
    hours = range(HOUR, HOUR + 2)
    assert minutes_of(recall(0, hours, True), context=False) == [*range(0, 120, 10)]
    assert minutes_of(recall(0, hours, True), context=True) == [-62, -60, -50, -40, -30, -20, -10, -0.001]
    assert minutes_of(recall(0, hours, False), context=False) == [*range(0, 120, 10)]
    assert minutes_of(recall(0, hours, False), context=True) == []
    assert list(recall(0, range(HOUR + 100, HOUR + 101), True)) == []


def test_a_shard_recalls_its_own_agents_in_the_order_of_files(tmp_path: Path) -> None:
    documents = [report(number, at=after(number), agent_id=agent(number)) for number in range(60)]
    stored = judge_block(messages(documents, received_at=None), load("kpi_report"), MessageRules())[0]
    store = ParquetStore(LocalFolder(tmp_path), 10)
    store.write(REPORTS, [conform(stored, REPORTS.schema)])
    shard_of = assign_shards(stored["agent_id"], 3)
    for shard in range(3):
        batches = list(RecallShard(store, 3)(shard, range(HOUR, HOUR + 1), True))
        tens = [{(at - NOON).seconds // 600 for at in batch["recorded_at"].to_pylist()} for batch in batches]
        assert tens == [{ten} for ten in range(6) if shard in shard_of[10 * ten : 10 * ten + 10]]
        assert sum(batch.num_rows for batch in batches) == (shard_of == shard).sum()


@dataclass(frozen=True)
class Faltering:
    """A store that breaks off after some batches of an hour, and cuts them in another way each time."""

    store: ParquetStore
    breaks: list[int]

    def read_reports(self, hour: int) -> Iterator[pa.RecordBatch]:
        rows = [
            part
            for batch in self.store.read_reports(hour)
            for part in split_by_rows(batch, 1 + len(self.breaks) % 3)
        ]
        if not self.breaks or not rows:
            yield from rows
            return
        yield from rows[: self.breaks.pop()]
        raise Unavailable("away")


@pytest.mark.parametrize("breaks", [[0], [0, 0, 1], [5, 3, 1], [40, 30, 20, 10], [0, 59], [0, 0, 2]])
def test_a_store_that_breaks_off_is_asked_again_for_what_is_missing(
    tmp_path: Path, breaks: list[int]
) -> None:
    stored = reports(*(number // 2 for number in range(60)))
    store = ParquetStore(LocalFolder(tmp_path), 1)
    store.write(REPORTS, [conform(stored, REPORTS.schema)])
    whole, faltering = list(recall_hours(store, {HOUR})), Faltering(store, breaks)
    with stamina.set_testing(True, attempts=100):
        given = list(recall_hours(cast(Store, faltering), {HOUR}))
    assert breaks == []
    assert pa.Table.from_batches(given).equals(pa.Table.from_batches(whole))


def test_a_store_that_stays_away_is_given_up(output: ParquetStore) -> None:
    with stamina.set_testing(True, attempts=3), pytest.raises(Unavailable, match="away"):
        list(recall_hours(cast(Store, Faltering(output, [0] * 10)), {HOUR}))
