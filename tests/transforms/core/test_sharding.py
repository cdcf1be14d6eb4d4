"""An agent's shard is the same in every run and on every machine."""

import uuid

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from tests.builders import agent
from transforms.core.grouping import split_rows
from transforms.core.sharding import KeyByShard, assign_shards, split_by_shard

AGENTS = pa.array([str(uuid.UUID(int=number * 0x1_0000_0000_0001_0000_0001)) for number in range(2000)])


def batch(*numbers: int) -> pa.RecordBatch:
    """A row for each number: that agent, and the row's own place."""
    return pa.RecordBatch.from_pydict(
        {"agent_id": [agent(number) for number in numbers], "place": range(len(numbers))}
    )


def test_shards_are_those_written_down() -> None:
    written = pa.array(
        [
            agent(0),
            agent(1),
            agent(2),
            agent(12345),
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            str(uuid.UUID(int=0)),
        ]
    )
    assert assign_shards(written, 8).tolist() == [0, 2, 4, 1, 2, 0]


def test_a_shard_depends_on_the_agent_alone() -> None:
    alone = [assign_shards(AGENTS[i : i + 1], 8)[0] for i in range(0, 2000, 100)]
    assert assign_shards(AGENTS, 8)[::100].tolist() == alone
    assert assign_shards(pa.array([agent(1).upper()]), 8) == assign_shards(pa.array([agent(1)]), 8)


def test_agents_are_spread_evenly() -> None:
    counts = np.bincount(assign_shards(AGENTS, 8), minlength=8)
    assert counts.sum() == 2000
    assert counts.min() > 180
    assert counts.max() < 320


def test_one_shard_takes_all() -> None:
    assert set(assign_shards(AGENTS, 1).tolist()) == {0}


def test_split_keeps_the_order_of_rows() -> None:
    parts = {
        code: part["place"].to_pylist()
        for code, part in split_rows(batch(*range(6)), np.array([3, 1, 3, 1, 3, 7]))
    }
    assert parts == {1: [1, 3], 3: [0, 2, 4], 7: [5]}


def test_split_gives_the_batch_itself_where_there_is_one_code() -> None:
    whole = batch(1, 2)
    ((code, part),) = split_rows(whole, np.array([5, 5]))
    assert (code, part is whole) == (5, True)


def test_no_rows_have_no_shard() -> None:
    assert split_by_shard(batch(), 8) == []


def test_every_agent_is_on_one_shard() -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        keyed = (
            pipeline
            | beam.Create([batch(*range(20)), batch(*range(10, 30))], reshuffle=False)
            | KeyByShard(4)
        )
        agents = keyed | beam.FlatMapTuple(
            lambda shard, part: [(name, shard) for name in part["agent_id"].to_pylist()]
        )
        counted = agents | beam.Distinct() | beam.Keys() | beam.combiners.Count.PerElement()
        assert_that(counted, equal_to([(agent(number), 1) for number in range(30)]))
