"""Aggregates over 5 s, 1 min and 1 h: the Beam side of `transforms.statistics`.

The granularity is a column, so a Beam window decides only when rows come out. A batch needs none: one table per shard gathers
everything. A stream gives each granularity fixed windows with triggers of its own, and a pane revises the one before it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.trigger import AccumulationMode, AfterProcessingTime, AfterWatermark
from apache_beam.transforms.window import FixedWindows, GlobalWindows, TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from schemas.tables import GRANULARITIES
from transforms.coder import BatchCoder
from transforms.gather import Gather
from transforms.shard import split
from transforms.stages import timed
from transforms.statistics import MICROSECONDS, coarsen, finish, merge, partials

Keyed = tuple[int, pa.RecordBatch]
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


def streaming(gather_seconds: int, lateness_seconds: int) -> tuple[Windows, ...]:
    """Every granularity in windows of its own, which come out when the watermark passes their end.

    Windows of 1 min and 1 h also come out before, every few gatherings, so that the running hour can be seen. Late reports, up to
    `lateness_seconds` after the window's end, revise it; those of a gathering come out together.
    """
    return tuple(
        Windows((name,), _fixed(seconds, early, lateness_seconds), gathered)
        for (name, seconds), early, gathered in zip(
            GRANULARITIES.items(), (None, 2 * gather_seconds, 1), (gather_seconds, gather_seconds, 3 * gather_seconds)
        )
    )


def _fixed(seconds: int, early: int | None, lateness_seconds: int) -> beam.WindowInto:
    return beam.WindowInto(
        FixedWindows(seconds),
        trigger=AfterWatermark(early=None if early is None else AfterProcessingTime(early), late=AfterProcessingTime(LATE_SECONDS)),
        allowed_lateness=Duration(lateness_seconds),
        accumulation_mode=AccumulationMode.ACCUMULATING,
    )


class Aggregate(beam.PTransform):
    """(shard, enriched reports) -> AGGREGATION batches; all reports of an agent are on one shard.

    An accumulating window gives all its rows again in each pane; the revision grows with every report they hold.
    """

    def __init__(self, windows: tuple[Windows, ...] = BATCH) -> None:
        super().__init__()
        self.windows = windows

    def expand(self, reports: beam.PCollection) -> beam.PCollection:
        parts = reports | "Partials" >> beam.MapTuple(_partials).with_output_types(Keyed)
        paces = dict.fromkeys(windows.gathered for windows in self.windows)
        gathered = {seconds: parts if seconds is None else _gathered(parts, seconds) for seconds in paces}
        return [self._finished(gathered[windows.gathered], windows) for windows in self.windows] | beam.Flatten()

    def _finished(self, parts: beam.PCollection, windows: Windows) -> beam.PCollection:
        name = " ".join(windows.granularities)
        if windows.into is not None:
            parts = parts | f"Place {name}" >> beam.FlatMap(_placed, windows.granularities).with_output_types(Keyed)
            parts = parts | f"Window {name}" >> windows.into
        merged = parts | f"Merge {name}" >> beam.CombinePerKey(MergePartials()).with_output_types(Keyed)
        rows = beam.FlatMap(_rows, windows.granularities).with_output_types(pa.RecordBatch)
        finished = merged | f"Finish {name}" >> rows
        return finished if windows.into is None else finished | f"Leave {name}" >> beam.WindowInto(GlobalWindows())


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
        return [merge(gathered)]

    def extract_output(self, gathered: list[pa.RecordBatch]) -> pa.RecordBatch:
        with timed("aggregate: merge", sum(part.num_rows for part in gathered)):
            return merge(gathered)

    def get_accumulator_coder(self) -> beam.coders.Coder:
        return beam.coders.ListCoder(BatchCoder())


def _tiered(gathered: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The tables that outweigh all after them twice, and the rest as one: each row is merged O(log n) times."""
    rest = sum(part.num_rows for part in gathered)
    for cut, part in enumerate(gathered):
        rest -= part.num_rows
        if part.num_rows <= 2 * rest:
            return [*gathered[:cut], merge(gathered[cut:])]
    return gathered


def _partials(shard: int, reports: pa.RecordBatch) -> Keyed:
    with timed("aggregate: partials", reports.num_rows):
        return shard, partials(reports)


def _gathered(parts: beam.PCollection, seconds: int) -> beam.PCollection:
    gathered = parts | f"Gather {seconds} s" >> Gather(seconds)
    return gathered | f"Merge {seconds} s" >> beam.MapTuple(_merged).with_output_types(Keyed)


def _merged(shard: int, gathered: Iterable[pa.RecordBatch]) -> Keyed:
    parts = list(gathered)
    with timed("aggregate: merge", sum(part.num_rows for part in parts)):
        return shard, merge(parts)


def _placed(keyed: Keyed, granularities: tuple[str, ...]) -> Iterator[TimestampedValue]:
    """The rows of each Beam window as an element of its own, stamped in that window but no earlier than any of its reports."""
    shard, partial = keyed
    width = GRANULARITIES[granularities[-1]] * MICROSECONDS
    finest = coarsen(partial, granularities[0])
    windows = finest["time_window_start"].cast(pa.int64()).to_numpy() // width
    for window, rows in split(finest, windows):
        # An element stamped before the input's watermark hold would be late without need.
        yield TimestampedValue((shard, rows), Timestamp(micros=(window + 1) * width - 1000))


def _rows(keyed: Keyed, granularities: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    _, partial = keyed
    for granularity in granularities:
        with timed("aggregate: finish", partial.num_rows):
            partial = coarsen(partial, granularity)
            finished = finish(partial)
        if finished.num_rows:
            yield finished
