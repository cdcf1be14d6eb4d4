"""How Beam merges partials: of one shard as they come, and of all shards by the newest table of each."""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from transforms.aggregation.statistics import PARTIAL, merge_partials
from transforms.core.arrow_coder import BatchCoder
from transforms.core.record_batches import append_columns
from transforms.core.stage_counters import time_stage

Keyed = tuple[int, pa.RecordBatch]
"""A PARTIAL batch under its shard, or under ALL_SHARDS."""
ALL_SHARDS = 0
"""The key of all shards taken as one."""
MOST_TABLES = 64
"""Tables of an accumulator beyond which some are merged."""


@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(pa.RecordBatch)
class MergePartials(beam.CombineFn):
    """PARTIAL batches merged into one.

    The accumulator is a list of tables, which are merged now and then, not pair by pair.
    """

    def create_accumulator(self) -> list[pa.RecordBatch]:
        return []

    def add_input(self, tables: list[pa.RecordBatch], partial: pa.RecordBatch) -> list[pa.RecordBatch]:
        tables.append(partial)
        return tables if len(tables) < MOST_TABLES else _merge_small_tables(tables)

    def merge_accumulators(self, accumulators: Iterable[list[pa.RecordBatch]]) -> list[pa.RecordBatch]:
        return [partial for tables in accumulators for partial in tables]

    def compact(self, tables: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
        return [merge_partials(tables)]

    def extract_output(self, tables: list[pa.RecordBatch]) -> pa.RecordBatch:
        with time_stage("aggregate: merge", sum(partial.num_rows for partial in tables)):
            return merge_partials(tables)

    def get_accumulator_coder(self) -> beam.coders.Coder:
        return beam.coders.ListCoder(BatchCoder())


def _merge_small_tables(tables: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The tables, with all small ones at the end merged into one: each row is merged O(log n) times.

    A table is kept apart if it has more than twice the rows of all after it.
    """
    rest = sum(partial.num_rows for partial in tables)
    for cut, partial in enumerate(tables):
        rest -= partial.num_rows
        if partial.num_rows <= 2 * rest:
            return [*tables[:cut], merge_partials(tables[cut:])]
    return tables


class MergeNewest(beam.DoFn):
    """(ALL_SHARDS, (shard, PARTIAL)) -> (ALL_SHARDS, PARTIAL) of the newest table of every shard.

    Each element is the whole window of its shard.

    A newer table of a shard replaces its older one, so nothing is counted twice however many panes come. The
    state is that of the window, and ends with it.
    """

    NEWEST = beam.DoFn.StateParam(ReadModifyWriteStateSpec("newest", BatchCoder()))

    def process(self, keyed: tuple[int, Keyed], state: Any = NEWEST) -> Iterator[Keyed]:
        key, (shard, partial) = keyed
        with time_stage("aggregate: fleet", partial.num_rows):
            known = keep_newest(state.read(), shard, partial)
            if known is None:
                return
            state.write(known)
            merged = merge_partials([known.select(PARTIAL.names)])
        yield key, merged


def keep_newest(known: pa.RecordBatch | None, shard: int, partial: pa.RecordBatch) -> pa.RecordBatch | None:
    """The newest rows of all shards (PARTIAL and `shard`), with `partial` as those of its shard.

    None if it is no newer.

    The reports of a window only grow in number and in history, and the sum of their revisions with them: the
    larger sum is the newer.
    """
    own = append_columns(partial, [(pa.field("shard", pa.int64()), pa.repeat(shard, partial.num_rows))])
    if known is None:
        return own
    is_own = pc.equal(known["shard"], shard)
    if _total(partial["revision"]) <= _total(known["revision"].filter(is_own)):
        return None
    return pa.concat_batches([known.filter(pc.invert(is_own)), own])


def _total(revisions: pa.Array) -> int:
    return pc.sum(revisions).as_py() or 0
