"""Aggregates over 5 s, 1 min and 1 h: the Beam side of `transforms.aggregation.statistics`.

The granularity is a column, so a Beam window decides only when rows come out. A batch needs none: one table per shard gathers
everything. A stream gives each granularity fixed windows with triggers of its own, and a pane revises the one before it.

    reports -> partials -> merged, a table per shard and pane ---------------> rows of AGGREGATION
                              |
                           by type -> the newest of each shard, merged ------> rows of FLEET
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.trigger import AccumulationMode, AfterProcessingTime, AfterWatermark
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import FixedWindows, GlobalWindows, TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from schemas.tables import AGGREGATIONS, FLEET, GRANULARITIES, Table
from transforms.aggregation.statistics import (
    MICROSECONDS,
    PARTIAL,
    coarsen,
    finish,
    make_partials,
    merge_by_agent,
    merge_by_type,
    merge_partials,
)
from transforms.core.arrow_coder import BatchCoder
from transforms.core.grouping import split_rows
from transforms.core.micro_batching import Gather
from transforms.core.record_batches import append_columns
from transforms.core.stage_counters import time_stage

Keyed = tuple[int, pa.RecordBatch]
Together = Callable[[pa.RecordBatch, str], pa.RecordBatch]
"""What makes the rows of a granularity of partials: `by_agent` or `by_type`."""
ALL = 0
"""The key of all shards together."""
GATHERED = 64
"""Tables an accumulator holds before it merges some."""
LATE_SECONDS = 10
"""Late reports of a window come out together, this long after the first of them."""


@dataclass(frozen=True)
class Windows:
    """Granularities that come out together, finest first."""

    granularities: tuple[str, ...]
    into: beam.WindowInto | None = None
    """Fixed windows of the last granularity's length, accumulating; None: the windows that the reports are in."""
    gathered: int | None = None
    """Seconds for which partials are gathered and merged before they enter the windows: a pane reads them all again."""


BATCH = (Windows(tuple(GRANULARITIES)),)
"""Every granularity, once, at the end of a bounded input."""


def stream_windows(gather_seconds: int, lateness_seconds: int) -> tuple[Windows, ...]:
    """Every granularity in windows of its own, which come out when the watermark passes their end.

    Windows of 1 min and 1 h also come out before, every few gatherings, so that the running hour can be seen. Late reports, up to
    `lateness_seconds` after the window's end, revise it; those of a gathering come out together.
    """
    return tuple(
        Windows((name,), _fixed(seconds, early, lateness_seconds), gathered)
        for (name, seconds), early, gathered in zip(
            GRANULARITIES.items(),
            (None, 2 * gather_seconds, 1),
            (gather_seconds, gather_seconds, 3 * gather_seconds),
        )
    )


def _fixed(seconds: int, early: int | None, lateness_seconds: int) -> beam.WindowInto:
    return beam.WindowInto(
        FixedWindows(seconds),
        trigger=AfterWatermark(
            early=None if early is None else AfterProcessingTime(early),
            late=AfterProcessingTime(LATE_SECONDS),
        ),
        allowed_lateness=Duration(lateness_seconds),
        accumulation_mode=AccumulationMode.ACCUMULATING,
    )


class Aggregated(NamedTuple):
    """Batches of AGGREGATION, and of FLEET if that was asked for."""

    rows: beam.PCollection
    fleet: beam.PCollection | None = None


class Aggregate(beam.PTransform):
    """(shard, enriched reports) -> AGGREGATION batches; all reports of an agent are on one shard. With `fleet` FLEET batches too.

    An accumulating window gives all its rows again in each pane; the revision grows with every report they hold. A fleet row comes
    again with each newer pane of any shard, and holds what is known of all shards by then; the last one holds every report.
    """

    def __init__(self, windows: tuple[Windows, ...] = BATCH, fleet: bool = False) -> None:
        super().__init__()
        self.windows, self.fleet = windows, fleet

    def expand(self, reports: beam.PCollection) -> Any:  # Beam warns of Aggregated
        parts = reports | "Partials" >> beam.MapTuple(_partials).with_output_types(Keyed)
        paces = dict.fromkeys(windows.gathered for windows in self.windows)
        gathered = {seconds: parts if seconds is None else _gathered(parts, seconds) for seconds in paces}
        merged = [(_merged_windows(gathered[windows.gathered], windows), windows) for windows in self.windows]
        rows = [
            _finished(shards, windows, AGGREGATIONS, merge_by_agent) for shards, windows in merged
        ] | beam.Flatten()
        if not self.fleet:
            return Aggregated(rows)
        fleet = [
            _finished(_all_shards(shards, windows), windows, FLEET, merge_by_type)
            for shards, windows in merged
        ]
        return Aggregated(rows, fleet | "Fleet" >> beam.Flatten())


def _merged_windows(parts: beam.PCollection, windows: Windows) -> beam.PCollection:
    """(shard, PARTIAL) -> the same, a table per shard and pane."""
    name = " ".join(windows.granularities)
    if windows.into is not None:
        parts = parts | f"Place {name}" >> beam.FlatMap(_placed, windows.granularities).with_output_types(
            Keyed
        )
        parts = parts | f"Window {name}" >> windows.into
    return parts | f"Merge {name}" >> beam.CombinePerKey(MergePartials()).with_output_types(Keyed)


def _all_shards(merged: beam.PCollection, windows: Windows) -> beam.PCollection:
    """(shard, PARTIAL), a table per shard and pane -> (ALL, PARTIAL) with agents, and shards, taken together."""
    name = " ".join(windows.granularities)
    parts = merged | f"By type {name}" >> beam.Map(_of_types, windows.granularities[0]).with_output_types(
        Keyed
    )
    if windows.into is None:
        unkeyed = parts | f"All shards {name}" >> beam.MapTuple(_of_all).with_output_types(Keyed)
        return unkeyed | f"Merge shards {name}" >> beam.CombinePerKey(MergePartials()).with_output_types(
            Keyed
        )
    together = parts | f"All shards {name}" >> beam.Map(_beside).with_output_types(tuple[int, Keyed])
    return together | f"Merge newest {name}" >> beam.ParDo(MergeNewest()).with_output_types(Keyed)


def _finished(
    merged: beam.PCollection, windows: Windows, table: Table, together: Together
) -> beam.PCollection:
    """(key, PARTIAL) -> rows of the table at each granularity, in the global window."""
    name = f"{table.name} {' '.join(windows.granularities)}"
    rows = beam.FlatMap(_rows, windows.granularities, together, table.schema.names).with_output_types(
        pa.RecordBatch
    )
    finished = merged | f"Finish {name}" >> rows
    return (
        finished if windows.into is None else finished | f"Leave {name}" >> beam.WindowInto(GlobalWindows())
    )


@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(pa.RecordBatch)
class MergePartials(beam.CombineFn):
    """PARTIAL batches merged into one; the accumulator gathers tables and merges them now and then, not pair by pair."""

    def create_accumulator(self) -> list[pa.RecordBatch]:
        return []

    def add_input(self, gathered: list[pa.RecordBatch], part: pa.RecordBatch) -> list[pa.RecordBatch]:
        gathered.append(part)
        return gathered if len(gathered) < GATHERED else _tiered(gathered)

    def merge_accumulators(self, accumulators: Iterable[list[pa.RecordBatch]]) -> list[pa.RecordBatch]:
        return [part for gathered in accumulators for part in gathered]

    def compact(self, gathered: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
        return [merge_partials(gathered)]

    def extract_output(self, gathered: list[pa.RecordBatch]) -> pa.RecordBatch:
        with time_stage("aggregate: merge", sum(part.num_rows for part in gathered)):
            return merge_partials(gathered)

    def get_accumulator_coder(self) -> beam.coders.Coder:
        return beam.coders.ListCoder(BatchCoder())


class MergeNewest(beam.DoFn):
    """(ALL, (shard, PARTIAL)), each a shard's whole window anew -> (ALL, PARTIAL) of the newest of every shard.

    A newer table of a shard takes the place of its older one, so nothing counts twice however often panes come. The state goes with
    the window.
    """

    NEWEST = beam.DoFn.StateParam(ReadModifyWriteStateSpec("newest", BatchCoder()))

    def process(self, keyed: tuple[int, Keyed], state: Any = NEWEST) -> Iterator[Keyed]:
        key, (shard, partial) = keyed
        with time_stage("aggregate: fleet", partial.num_rows):
            held = keep_newest(state.read(), shard, partial)
            if held is None:
                return
            state.write(held)
            merged = merge_partials([held.select(PARTIAL.names)])
        yield key, merged


def keep_newest(held: pa.RecordBatch | None, shard: int, partial: pa.RecordBatch) -> pa.RecordBatch | None:
    """What to hold, PARTIAL and `shard`, once a shard's rows are `partial`; None if that is no newer than what is `held` of it.

    A window's reports only grow in number and in history, and the sum of their revisions with them: the larger sum is the newer.
    """
    own = append_columns(partial, [(pa.field("shard", pa.int64()), pa.repeat(shard, partial.num_rows))])
    if held is None:
        return own
    is_own = pc.equal(held["shard"], shard)
    if _total(partial["revision"]) <= _total(held["revision"].filter(is_own)):
        return None
    return pa.concat_batches([held.filter(pc.invert(is_own)), own])


def _total(revisions: pa.Array) -> int:
    return pc.sum(revisions).as_py() or 0


def _tiered(gathered: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The tables that outweigh all after them twice, and the rest as one: each row is merged O(log n) times."""
    rest = sum(part.num_rows for part in gathered)
    for cut, part in enumerate(gathered):
        rest -= part.num_rows
        if part.num_rows <= 2 * rest:
            return [*gathered[:cut], merge_partials(gathered[cut:])]
    return gathered


def _partials(shard: int, reports: pa.RecordBatch) -> Keyed:
    with time_stage("aggregate: partials", reports.num_rows):
        return shard, make_partials(reports)


def _gathered(parts: beam.PCollection, seconds: int) -> beam.PCollection:
    gathered = parts | f"Gather {seconds} s" >> Gather(seconds)
    return gathered | f"Merge {seconds} s" >> beam.MapTuple(_merged).with_output_types(Keyed)


def _merged(shard: int, gathered: Iterable[pa.RecordBatch]) -> Keyed:
    parts = list(gathered)
    with time_stage("aggregate: merge", sum(part.num_rows for part in parts)):
        return shard, merge_partials(parts)


def _placed(keyed: Keyed, granularities: tuple[str, ...]) -> Iterator[TimestampedValue]:
    """The rows of each Beam window as an element of its own, stamped in that window but no earlier than any of its reports."""
    shard, partial = keyed
    width = GRANULARITIES[granularities[-1]] * MICROSECONDS
    finest = coarsen(partial, granularities[0])
    windows = finest["time_window_start"].cast(pa.int64()).to_numpy() // width
    for window, rows in split_rows(finest, windows):
        # An element stamped before the input's watermark hold would be late without need.
        yield TimestampedValue((shard, rows), Timestamp(micros=(window + 1) * width - 1000))


def _of_types(keyed: Keyed, granularity: str) -> Keyed:
    shard, partial = keyed
    with time_stage("aggregate: fleet", partial.num_rows):
        return shard, merge_by_type(partial, granularity)


def _of_all(_: int, partial: pa.RecordBatch) -> Keyed:
    return ALL, partial


def _beside(keyed: Keyed) -> tuple[int, Keyed]:
    return ALL, keyed


def _rows(
    keyed: Keyed, granularities: tuple[str, ...], together: Together, names: list[str]
) -> Iterator[pa.RecordBatch]:
    _, partial = keyed
    for granularity in granularities:
        with time_stage("aggregate: finish", partial.num_rows):
            partial = together(partial, granularity)
            finished = finish(partial).select(names)
        if finished.num_rows:
            yield finished
