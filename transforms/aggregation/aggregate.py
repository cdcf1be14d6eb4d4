"""Aggregates over 5 s, 1 min and 1 h: the Beam side of `transforms.aggregation.statistics`.

In a batch each element has all reports of some hours, so its windows are complete. A stream gives each
granularity fixed windows with triggers of its own, and a pane supersedes the one before it.

    reports -> partials -> merged, a table per shard and pane ---------------> rows of AGGREGATION
                              |
                           by type -> the newest of each shard, merged ------> rows of FLEET
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows, TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from schemas.tables import AGGREGATIONS, FLEET, GRANULARITIES, Table
from transforms.aggregation.merging import ALL_SHARDS, Keyed, MergeNewest, MergePartials
from transforms.aggregation.statistics import (
    MICROSECONDS,
    coarsen,
    finish,
    make_partials,
    merge_by_agent,
    merge_by_type,
    merge_partials,
)
from transforms.aggregation.windows import Windows, make_batch_windows
from transforms.core.grouping import split_rows
from transforms.core.micro_batching import Gather
from transforms.core.stage_counters import time_stage

Merge = Callable[[pa.RecordBatch, str], pa.RecordBatch]
"""Partials merged into the rows of a granularity: `merge_by_agent` or `merge_by_type`."""


class Aggregated(NamedTuple):
    """Batches of AGGREGATION, and of FLEET if these were asked for."""

    rows: beam.PCollection
    fleet: beam.PCollection | None = None


class Aggregate(beam.PTransform):
    """(key, enriched reports) -> AGGREGATION batches, and with `fleet` FLEET batches.

    The key is the block in a batch, and the shard in a stream: all reports of an agent are on one shard.

    An accumulating window gives all its rows again in each pane; the revision grows with every report in
    them. A fleet row comes again with each newer pane of any shard, and holds what is known of all shards by
    then; the last one holds every report.
    """

    def __init__(self, windows: tuple[Windows, ...] | None = None, fleet: bool = False) -> None:
        super().__init__()
        self.windows, self.fleet = windows or make_batch_windows(), fleet

    def expand(self, reports: beam.PCollection) -> Any:  # Beam warns of Aggregated
        partials = reports | "Partials" >> beam.MapTuple(_make_partials).with_output_types(Keyed)
        paces = dict.fromkeys(windows.gather_seconds for windows in self.windows)
        gathered = {seconds: partials if seconds is None else _gather(partials, seconds) for seconds in paces}
        merged = [
            (_merge_windows(gathered[windows.gather_seconds], windows), windows) for windows in self.windows
        ]
        rows = [_finish(shards, windows, AGGREGATIONS, merge_by_agent) for shards, windows in merged]
        rows = rows | "Flatten windows" >> beam.Flatten()
        if not self.fleet:
            return Aggregated(rows)
        fleet = [
            _finish(_merge_shards(shards, windows), windows, FLEET, merge_by_type)
            for shards, windows in merged
        ]
        return Aggregated(rows, fleet | "Flatten fleet" >> beam.Flatten())


def _gather(partials: beam.PCollection, seconds: int) -> beam.PCollection:
    """(shard, PARTIAL) -> the same, those of some seconds merged."""
    gathered = partials | f"Gather {seconds} s" >> Gather(seconds)
    return gathered | f"Merge {seconds} s" >> beam.MapTuple(_merge).with_output_types(Keyed)


def _merge_windows(partials: beam.PCollection, windows: Windows) -> beam.PCollection:
    """(key, PARTIAL) -> the same, a table per shard and pane, or as they are if they are complete."""
    if windows.into is None:
        return partials
    name = " ".join(windows.granularities)
    split = beam.FlatMap(_split_by_window, windows.granularities).with_output_types(Keyed)
    partials = partials | f"Split {name}" >> split | f"Window {name}" >> windows.into
    return partials | f"Merge {name}" >> beam.CombinePerKey(MergePartials()).with_output_types(Keyed)


def _merge_shards(merged: beam.PCollection, windows: Windows) -> beam.PCollection:
    """(key, PARTIAL) of `_merge_windows` -> (key, PARTIAL), all agents as one."""
    name = " ".join(windows.granularities)
    by_type = beam.Map(_merge_by_type, windows.granularities[0]).with_output_types(Keyed)
    partials = merged | f"By type {name}" >> by_type
    if windows.into is None and windows.shards == 1:
        return partials
    if windows.into is None:
        same_hours = beam.MapTuple(lambda block, partial: (block // windows.shards, partial))
        combine = beam.CombinePerKey(MergePartials()).with_output_types(Keyed)
        keyed = partials | f"Same hours {name}" >> same_hours.with_output_types(Keyed)
        return keyed | f"Merge shards {name}" >> combine
    one_key = beam.Map(lambda keyed: (ALL_SHARDS, keyed)).with_output_types(tuple[int, Keyed])
    newest = beam.ParDo(MergeNewest()).with_output_types(Keyed)
    return partials | f"All shards {name}" >> one_key | f"Merge newest {name}" >> newest


def _finish(merged: beam.PCollection, windows: Windows, table: Table, merge: Merge) -> beam.PCollection:
    """(key, PARTIAL) -> rows of the table at each granularity, in the global window."""
    name = f"{table.name} {' '.join(windows.granularities)}"
    rows = beam.FlatMap(_make_rows, windows.granularities, merge, table.schema.names)
    finished = merged | f"Finish {name}" >> rows.with_output_types(pa.RecordBatch)
    if windows.into is None:
        return finished
    return finished | f"Leave {name}" >> beam.WindowInto(GlobalWindows())


def _make_partials(shard: int, reports: pa.RecordBatch) -> Keyed:
    with time_stage("aggregate: partials", reports.num_rows):
        return shard, make_partials(reports)


def _merge(shard: int, gathered: Iterable[pa.RecordBatch]) -> Keyed:
    partials = list(gathered)
    with time_stage("aggregate: merge", sum(partial.num_rows for partial in partials)):
        return shard, merge_partials(partials)


def _merge_by_type(keyed: Keyed, granularity: str) -> Keyed:
    shard, partial = keyed
    with time_stage("aggregate: fleet", partial.num_rows):
        return shard, merge_by_type(partial, granularity)


def _split_by_window(keyed: Keyed, granularities: tuple[str, ...]) -> Iterator[TimestampedValue]:
    """Each Beam window's rows as one element, stamped within it but no earlier than any of its reports."""
    shard, partial = keyed
    width = GRANULARITIES[granularities[-1]] * MICROSECONDS
    finest = coarsen(partial, granularities[0])
    windows = finest["time_window_start"].cast(pa.int64()).to_numpy() // width
    for window, rows in split_rows(finest, windows):
        # The window's last millisecond: an element stamped before the input's watermark hold would be late
        # without need.
        yield TimestampedValue((shard, rows), Timestamp(micros=(window + 1) * width - 1000))


def _make_rows(
    keyed: Keyed, granularities: tuple[str, ...], merge: Merge, names: list[str]
) -> Iterator[pa.RecordBatch]:
    """The rows of each granularity, each merged from the finer one before it."""
    _, partial = keyed
    for granularity in granularities:
        with time_stage("aggregate: finish", partial.num_rows):
            partial = merge(partial, granularity)
            finished = finish(partial).select(names)
        if finished.num_rows:
            yield finished
