"""Recall: stored reports that go through the graph again because new reports affect them.

The stored reports of every affected hour (`transforms.history.time_rules.find_affected_hours`) are recalled
whole, to be compared and aggregated with the new ones. The LOOKBACK_MINUTES before an affected hour are
recalled as *context*: they feed its baselines and are written nowhere.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.readers.formats import FIRST_US, LAST_US
from schemas.tables import REPORTS, TIME
from transforms.core import arrow_coder  # noqa: F401 (carries what leaves here)
from transforms.core.record_batches import REPORT_BATCH, conform
from transforms.core.retry import retry_while_unavailable
from transforms.core.sharding import assign_shards
from transforms.core.time_units import HOUR_US
from transforms.history.blocks import Blocks
from transforms.history.time_rules import (
    HOUR_MINUTES,
    LOOKBACK_HOURS,
    LOOKBACK_MINUTES,
    find_affected_hours,
    find_minutes,
)
from transforms.sinks.sink import Store

CALENDAR = range(FIRST_US // HOUR_US, LAST_US // HOUR_US + 1)
"""The hours (since 1970) of the years 1 to 9999. Before and after them nothing is stored."""
PATIENCE_SECONDS = 3600.0
"""How long an unavailable store is tried again."""


class Recall(beam.PTransform):
    """New ReportBatches -> (block, ReportBatch or LOOKBACK) of the stored reports that they affect."""

    def __init__(self, store: Store, blocks: Blocks) -> None:
        super().__init__()
        self.store, self.blocks = store, blocks

    def expand(self, reports: beam.PCollection) -> beam.PCollection:
        hours = reports | "Affected hours" >> beam.FlatMap(
            lambda batch: list_hours_to_read(find_affected_hours(batch))
        ).with_output_types(tuple[int, int])
        return hours | "Read" >> ReadHours(self.store, self.blocks)


class ReadHours(beam.PTransform):
    """`list_hours_to_read` -> (block, ReportBatch or LOOKBACK) of stored reports; each hour is read once."""

    def __init__(self, store: Store, blocks: Blocks) -> None:
        super().__init__()
        self.store, self.blocks = store, blocks

    def expand(self, hours: beam.PCollection) -> beam.PCollection:
        read = beam.FlatMap(
            lambda keyed, store, blocks: _read_for_blocks(store, blocks, *keyed), self.store, self.blocks
        )
        return hours | beam.GroupByKey() | "Read hour" >> read.with_output_types(tuple[int, pa.RecordBatch])


def list_hours_to_read(affected: Iterable[int]) -> list[tuple[int, int]]:
    """(hour, distance) of each hour to read, where `distance` hours after it is an affected one."""
    return [(hour - back, back) for hour in affected for back in range(LOOKBACK_HOURS + 1)]


def _read_for_blocks(
    store: Store, blocks: Blocks, hour: int, distances: Iterable[int]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The stored reports of an hour: all, if it is affected, else as lookback for the affected hours."""
    found = set(distances)
    if 0 in found:
        for batch in _read_hour(store, hour, context=False):
            yield from blocks.split(batch)
        return
    # A block that needs this hour for two of its hours gets it once, for the first of them: that needs more.
    nearest = {(hour + back) // blocks.hours: back for back in sorted(found, reverse=True)}
    for batch in _read_hour(store, hour, context=True):
        minutes = find_minutes(batch)
        for number, back in nearest.items():
            rows = np.flatnonzero(minutes >= (hour + back) * HOUR_MINUTES - LOOKBACK_MINUTES)
            if len(rows):
                yield from blocks.split_lookback(batch.take(pa.array(rows)), np.full(len(rows), number))


@dataclass(frozen=True)
class RecallShard:
    """Recall for a stream: the stored reports of the agents of one of `shards` shards."""

    store: Store
    shards: int

    def __call__(self, shard: int, hours: range, context: bool) -> Iterator[pa.RecordBatch]:
        """REPORT_BATCHes of the stored reports of some hours, with their context if asked for.

        Reports of later batches were recorded no earlier, so each batch comes after all that feeds its
        baselines, or with it.
        """
        batches = recall_hours(self.store, set(hours)) if context else _read_hours(self.store, hours)
        for batch in batches:
            own = batch.filter(pa.array(assign_shards(batch["agent_id"], self.shards) == shard))
            if own.num_rows:
                yield own


def recall_hours(store: Store, hours: set[int]) -> Iterator[pa.RecordBatch]:
    """REPORT_BATCHes of the stored reports of some hours and of the context of each, ascending by hour."""
    for hour in sorted({each - back for each in hours for back in range(LOOKBACK_HOURS + 1)}):
        for batch in _read_hour(store, hour, context=hour not in hours):
            if hour not in hours:
                batch = batch.filter(_is_context(batch, hours))
            if batch.num_rows:
                yield batch


def find_needed_hours(reports: pa.RecordBatch) -> range:
    """The hours that a stream needs for these reports: from the first affected hour to the last."""
    affected = find_affected_hours(reports)
    return range(min(affected), max(affected) + 1)


def find_missing_hours(needed: range, known: range) -> list[tuple[range, bool]]:
    """The hours to recall, oldest first, and whether with their context, if `known` hours are in memory.

    Later hours need no context: it is in the known hours, or in their context. Before earlier hours are
    recalled, the context of the known ones must be forgotten, since it comes again as whole hours.
    """
    if _starts_anew(needed, known):
        return [(needed, True)]
    parts = [(range(needed.start, known.start), True), (range(known.stop, needed.stop), False)]
    return [(hours, context) for hours, context in parts if hours]


def merge_hours(needed: range, known: range) -> range:
    """The hours in memory once the missing ones were recalled."""
    if _starts_anew(needed, known):
        return needed
    return range(min(needed.start, known.start), max(needed.stop, known.stop))


def _starts_anew(needed: range, known: range) -> bool:
    """Whether the needed hours begin so far after the known ones that these say nothing about them."""
    return not known or needed.start > known.stop + 1


def _read_hours(store: Store, hours: Iterable[int]) -> Iterator[pa.RecordBatch]:
    for hour in hours:
        yield from _read_hour(store, hour, context=False)


def _read_hour(store: Store, hour: int, context: bool) -> Iterator[pa.RecordBatch]:
    """The stored reports of an hour, ascending in time from batch to batch.

    If the store becomes unavailable, the hour is read again, and what was read before is left out.

    Raises:
        Unavailable: the store was unavailable for `PATIENCE_SECONDS`.
    """
    if hour not in CALENDAR:
        return
    read = _ReadRows()
    for attempt in retry_while_unavailable(PATIENCE_SECONDS):
        with attempt:
            for stored in store.read_reports(hour):
                batch = stored if attempt.num == 1 else read.leave_out(stored)
                if batch.num_rows:
                    read.add(batch)
                    yield _as_reports(batch, context)


class _ReadRows:
    """The rows of an hour that were read already.

    These are all rows before a moment, and at that moment the reports in `_ids`.
    """

    def __init__(self) -> None:
        self._moment: pa.Scalar = pa.scalar(None, TIME)
        self._ids = pa.array([], pa.string())

    def add(self, batch: pa.RecordBatch) -> None:
        """Note a batch as read; batches come in the order of time."""
        latest = pc.max(batch["recorded_at"])
        ids = batch.filter(pc.equal(batch["recorded_at"], latest))["report_id"]
        self._ids = pa.concat_arrays([self._ids, ids]) if latest == self._moment else ids
        self._moment = latest

    def leave_out(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a batch that were not read yet."""
        if not self._moment.is_valid:
            return batch
        times, known = batch["recorded_at"], pc.is_in(batch["report_id"], self._ids)
        return batch.filter(
            pc.or_(pc.greater(times, self._moment), pc.and_not(pc.equal(times, self._moment), known))
        )


def _as_reports(stored: pa.RecordBatch, context: bool) -> pa.RecordBatch:
    """Rows of kpi_reports as a REPORT_BATCH."""
    rows = conform(stored, REPORTS.schema)
    columns = {name: rows[name] for name in rows.schema.names} | {
        "context": pa.array(np.full(rows.num_rows, context))
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in REPORT_BATCH.names], schema=REPORT_BATCH)


def _is_context(reports: pa.RecordBatch, hours: Iterable[int]) -> pa.Array:
    """bool[n]: which reports are within LOOKBACK_MINUTES before one of the hours."""
    minutes = find_minutes(reports)
    context = np.zeros(reports.num_rows, dtype=bool)
    for hour in hours:
        first = hour * HOUR_MINUTES
        context |= (minutes >= first - LOOKBACK_MINUTES) & (minutes < first)
    return pa.array(context)
