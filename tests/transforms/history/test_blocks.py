"""Blocks: which block a report belongs to, and which ones it feeds as lookback."""

import time
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import agent
from tests.transforms.history.builders import FAULTY, MINUTE, NOON, batch, fail_at, reports
from transforms.core import stage_counters
from transforms.core.sharding import assign_shards
from transforms.history import blocks as module
from transforms.history.baseline import find_buckets
from transforms.history.blocks import LOOKBACK, Blocks, KeyByBlock, is_lookback
from transforms.history.time_rules import find_minutes

NOON_MINUTE = int(NOON.timestamp()) // MINUTE
HOURS = (1, 2, 3, 4, 6, 8, 12, 24)
MINUTES = st.one_of(
    st.integers(-2000, 2000),
    st.builds(
        lambda hour, minute: 60 * hour + minute, st.integers(-49, 49), st.sampled_from([0, 57, 58, 59])
    ),
)
"""Minutes since 1970, and before it; those that feed two hours after their own more often than others."""


def since_1970(*minutes: int, **fields: float) -> pa.RecordBatch:
    return reports(*(minute - NOON_MINUTE for minute in minutes), **fields)


def split(given: pa.RecordBatch, blocks: Blocks) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """(key, report_id) of what belongs to each block, and of what feeds it."""
    own, fed = [], []
    for key, rows in blocks.split(given):
        (fed if is_lookback(rows) else own).extend((key, name) for name in rows["report_id"].to_pylist())
    return sorted(own), sorted(fed)


@settings(max_examples=100, deadline=None)
@given(st.lists(MINUTES, min_size=1, max_size=8), st.sampled_from(HOURS), st.integers(1, 4))
def test_a_report_feeds_exactly_the_blocks_that_begin_within_62_minutes_after_its_minute(
    minutes: list[int], hours: int, shards: int
) -> None:
    given = since_1970(*minutes)
    shard_of = assign_shards(given["agent_id"], shards).tolist()
    own, fed = [], []
    for minute, shard, name in zip(minutes, shard_of, given["report_id"].to_pylist()):
        begins = [number for number in range(-60, 60) if minute < 60 * hours * number <= minute + 62]
        own.append((minute // (60 * hours) * shards + shard, name))
        fed += [(number * shards + shard, name) for number in begins]
    assert split(given, Blocks(hours, shards)) == (sorted(own), sorted(fed))


@pytest.mark.parametrize(
    ("minute", "hours", "fed"),
    [
        (0, 1, [1]),
        (57, 1, [1]),
        (58, 1, [1, 2]),
        (59, 1, [1, 2]),
        (-1, 1, [0, 1]),
        (-62, 6, [0]),
        (-63, 6, []),
    ],
)
def test_the_last_minutes_of_an_hour_feed_two_hours(minute: int, hours: int, fed: list[int]) -> None:
    assert [key for key, _ in split(since_1970(minute), Blocks(hours))[1]] == fed


def test_a_late_report_feeds_no_block_and_belongs_to_its_own() -> None:
    late, prompt = since_1970(59, delay=60.000001), since_1970(59, delay=60)
    assert [len(each) for each in split(late, Blocks(1))] == [1, 0]
    assert [len(each) for each in split(prompt, Blocks(1))] == [1, 2]


def test_a_report_without_received_at_feeds() -> None:
    place = prompt.schema.get_field_index("received_at") if (prompt := since_1970(59)) else 0
    unknown = prompt.set_column(
        place, prompt.schema.field(place), pa.nulls(1, prompt.schema.field(place).type)
    )
    assert [len(each) for each in split(unknown, Blocks(1))] == [1, 2]


def test_what_feeds_has_its_minute_and_its_buckets() -> None:
    given = since_1970(-1, 58, first=3)
    lookback = [rows for _, rows in Blocks(1).split(given) if is_lookback(rows)]
    assert all(rows.schema == LOOKBACK for rows in lookback)
    found = {row["report_id"]: row for rows in lookback for row in rows.to_pylist()}
    _, buckets = find_buckets(given)
    for place, row in enumerate(given.to_pylist()):
        narrow = list(found[row["report_id"]].values())
        assert narrow[:3] == [row["report_id"], row["agent_id"], find_minutes(given)[place]]
        assert narrow[3:] == buckets[place].tolist()


def test_the_agents_of_an_hour_have_a_block_for_each_shard_and_a_block_has_no_other_agents() -> None:
    given = reports(*range(50), agents=20)
    parts = [(key, rows) for key, rows in Blocks(1, 4).split(given) if not is_lookback(rows)]
    assert len(parts) == len({key for key, _ in parts}) == 4
    shards = [set(assign_shards(rows["agent_id"], 4).tolist()) for _, rows in parts]
    assert shards == [{key % 4} for key, _ in parts]
    assert {key // 4 for key, _ in parts} == {NOON_MINUTE // 60}


def test_nothing_is_of_no_block() -> None:
    assert list(Blocks(1, 4).split(batch())) == []


def test_a_row_that_cannot_be_narrowed_feeds_nothing_and_its_neighbours_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fails = fail_at(FAULTY["latency_ms"])
    monkeypatch.setattr(module, "find_buckets", lambda rows: fails(rows) or find_buckets(rows))
    given = batch(*({"id": str(i), "at": 59 * MINUTE + i} | (FAULTY if i == 2 else {}) for i in range(4)))
    own, fed = split(given, Blocks(1))
    assert len(own) == 4
    assert {name for _, name in fed} == {"0" * 32, "1" * 32, "3" * 32}


def test_the_transform_keys_every_report_and_what_it_feeds() -> None:
    given = [reports(30, 59, agents=1), reports(90, agents=1, first=2)]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        keyed = pipeline | beam.Create(given, reshuffle=False) | KeyByBlock(Blocks(1))
        counts = keyed | beam.MapTuple(lambda key, rows: (key, is_lookback(rows), rows.num_rows))
        noon = NOON_MINUTE // 60
        expected = [(noon, False, 2), (noon + 1, True, 2), (noon + 2, True, 1), (noon + 1, False, 1)]
        assert_that(counts, equal_to([*expected, (noon + 2, True, 1)]))
        assert keyed.element_type == beam.typehints.Tuple[int, pa.RecordBatch]


def test_a_shard_of_an_agent_is_the_same_in_every_block() -> None:
    given = reports(0, 60, 1500, agents=1)
    keys = Blocks(1, 3).make_keys(np.array([-5, 0, 7]), given["agent_id"])
    assert set((keys % 3).tolist()) == {int(assign_shards(pa.array([agent()]), 3)[0])}
    assert (keys // 3).tolist() == [-5, 0, 7]


def test_the_time_of_keying_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def split_slowly(_: Blocks, given: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        time.sleep(0.05)
        yield 0, given

    stage_counters.reset()
    monkeypatch.setattr(Blocks, "split", split_slowly)
    with beam.Pipeline(FnApiRunner()) as pipeline:
        _ = pipeline | beam.Create([batch()], reshuffle=False) | KeyByBlock(Blocks())
    assert stage_counters.snapshot()["block"].seconds >= 0.05
