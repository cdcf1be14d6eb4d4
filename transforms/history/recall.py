"""Recall: reports that a store already holds, fed through the graph again where new ones touch them.

A new report of minute m enters the baselines of minutes m + 3 to m + 62 and the aggregates of its own hour. So every hour
from that of m to that of m + 62 is *touched* (three hours if m is 58 or 59 minutes past the hour): their stored reports
are recalled whole, to be judged and aggregated with the new ones. The 63 minutes before a touched hour are recalled as
context: they feed its baselines and are written nowhere.
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
from transforms.core.sharding import shards
from transforms.history.baseline import OLDEST
from transforms.sinks.sink import Store

HOUR = 3600
HOUR_MINUTES = 60
AHEAD = (*range(0, OLDEST, HOUR_MINUTES), OLDEST)
"""Minutes after a report's own, up to the last whose baseline it feeds, at most an hour apart: no hour lies between two of them."""
CONTEXT_SECONDS = 63 * 60
CALENDAR = range(FIRST_US // (HOUR * 1_000_000), LAST_US // (HOUR * 1_000_000) + 1)
"""The hours (since 1970) of the years 1 to 9999. Before and after them nothing is stored."""
PATIENCE_SECONDS = 3600.0
"""How long a store that is away is asked again."""


def touched_hours(reports: pa.RecordBatch) -> set[int]:
    """The hours (since 1970) whose rows may change because of these reports."""
    seconds = reports["recorded_at"].cast(pa.int64()).to_numpy() // 1_000_000
    minutes = np.unique(seconds // 60)
    return {hour for ahead in AHEAD for hour in np.unique((minutes + ahead) // HOUR_MINUTES).tolist()}


def recalled(store: Store, hours: set[int]) -> Iterator[pa.RecordBatch]:
    """REPORT_BATCHes of the stored reports of some hours, and of the 63 minutes before each as context, an hour at a time."""
    for hour in sorted({each - back for each in hours for back in range(3)}):
        for batch in _stored(store, hour, context=hour not in hours):
            if hour not in hours:
                batch = batch.filter(_feeds(batch, hours))
            if batch.num_rows:
                yield batch


@dataclass(frozen=True)
class RecallShard:
    """Recall for a stream: what the store holds of the agents of one of `shards` shards."""

    store: Store
    shards: int

    def __call__(self, shard: int, hours: range, context: bool) -> Iterator[pa.RecordBatch]:
        """REPORT_BATCHes of the stored reports of some hours, and of the 63 minutes before as context if it is asked for.

        The reports of later batches were recorded no earlier: so each batch comes after all that feeds its baselines, or with it.
        """
        whole = recalled(self.store, set(hours)) if context else _each(self.store, hours)
        for batch in whole:
            own = batch.filter(pa.array(shards(batch["agent_id"], self.shards) == shard))
            if own.num_rows:
                yield own


def _each(store: Store, hours: Iterable[int]) -> Iterator[pa.RecordBatch]:
    for hour in hours:
        yield from _stored(store, hour, context=False)


def _stored(store: Store, hour: int, context: bool) -> Iterator[pa.RecordBatch]:
    """The reports of an hour, ascending in time from batch to batch; a store that is away is asked again for what it did not give.

    Raises:
        Unavailable: it was away for `PATIENCE_SECONDS`.
    """
    if hour not in CALENDAR:
        return
    given = _Given()
    for attempt in retry_while_unavailable(PATIENCE_SECONDS):
        with attempt:
            for stored in store.reports(hour):
                batch = stored if attempt.num == 1 else given.rest(stored)
                if batch.num_rows:
                    given.add(batch)
                    yield _as_reports(batch, context)


class _Given:
    """What was given of an hour: the reports before a moment, and of those at that moment the ones that are named."""

    def __init__(self) -> None:
        self._moment: pa.Scalar = pa.scalar(None, TIME)
        self._ids = pa.array([], pa.string())

    def add(self, batch: pa.RecordBatch) -> None:
        """Batches come in the order of time."""
        latest = pc.max(batch["recorded_at"])
        ids = batch.filter(pc.equal(batch["recorded_at"], latest))["report_id"]
        self._ids = pa.concat_arrays([self._ids, ids]) if latest == self._moment else ids
        self._moment = latest

    def rest(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a batch that were not given."""
        if not self._moment.is_valid:
            return batch
        times, named = batch["recorded_at"], pc.is_in(batch["report_id"], self._ids)
        return batch.filter(
            pc.or_(pc.greater(times, self._moment), pc.and_not(pc.equal(times, self._moment), named))
        )


def _as_reports(stored: pa.RecordBatch, context: bool) -> pa.RecordBatch:
    rows = conform(stored, REPORTS.schema)
    columns = {name: rows[name] for name in rows.schema.names} | {
        "context": pa.array(np.full(rows.num_rows, context))
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in REPORT_BATCH.names], schema=REPORT_BATCH)


def _feeds(batch: pa.RecordBatch, hours: Iterable[int]) -> pa.Array:
    seconds = batch["recorded_at"].cast(pa.int64()).to_numpy() // 1_000_000
    feeds = np.zeros(batch.num_rows, dtype=bool)
    for hour in hours:
        feeds |= (seconds >= hour * HOUR - CONTEXT_SECONDS) & (seconds < hour * HOUR)
    return pa.array(feeds)


class Recall(beam.PTransform):
    """New ReportBatches -> the stored ReportBatches that they touch (not the new ones)."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    def expand(self, reports: beam.PCollection) -> beam.PCollection:
        hours = (
            reports
            | "Touched hours" >> beam.Map(touched_hours)
            | beam.CombineGlobally(_union).without_defaults()
        )
        return hours | "Recall" >> beam.FlatMap(
            lambda each, store: recalled(store, each), self.store
        ).with_output_types(pa.RecordBatch)


def _union(sets: Iterable[set[int]]) -> set[int]:
    return set().union(*sets)
