"""Blocks of hours: the key of history in a batch.

A *block* is the reports that were recorded in some hours that follow each other; with shards, only those of
the agents of one shard. History needs all reports of a block at once, and as *lookback* the reports of the
LOOKBACK_MINUTES before it. So a report belongs to the block of its hour, and goes as lookback to each block
that begins within LOOKBACK_MINUTES after its minute. Windows of aggregates and files of tables never reach
over the edge of an hour, so whatever depends on a block is computed from it alone, and blocks have no order.

A stream has shards instead (`transforms.core.sharding`): there, history never ends.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import METRICS
from transforms.core import arrow_coder  # noqa: F401 (what is keyed by block is encoded)
from transforms.core.grouping import split_rows
from transforms.core.record_batches import append_columns
from transforms.core.sharding import assign_shards
from transforms.core.stage_counters import count_stage
from transforms.history.baseline import find_buckets
from transforms.history.time_rules import (
    HOUR_MINUTES,
    LOOKBACK_HOURS,
    LOOKBACK_MINUTES,
    find_minutes,
    mark_late,
)
from transforms.validation.quarantine_rows import bisect_faults

LOOKBACK = pa.schema([
    ("report_id", pa.string()),
    ("agent_id", pa.string()),
    ("minute", pa.int64()),
    *((f"{metric}_bucket", pa.int16()) for metric in METRICS),
])  # fmt: skip
"""Reports that feed the baselines of another block: the minute (since 1970) in which each was recorded, and
the buckets of its metrics. A report may come several times, as often as there are messages with it."""

Keyed = tuple[int, pa.RecordBatch]
_NUMBER = pa.field("number", pa.int64())


@dataclass(frozen=True)
class Blocks:
    """How reports are divided into blocks.

    Attributes:
        hours: how many hours a block has; divides 24.
        shards: how many blocks the agents of these hours are divided into.
    """

    hours: int = 6
    shards: int = 1

    def number(self, minutes: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64[n]: the number of the hours of each minute (since 1970), in units of `hours`."""
        return minutes // (HOUR_MINUTES * self.hours)

    def make_keys(self, numbers: NDArray[np.int64], agents: pa.Array) -> NDArray[np.int64]:
        """int64[n]: the key of each block, from the number of its hours and an agent of it."""
        if self.shards == 1:
            return numbers
        return numbers * self.shards + assign_shards(agents, self.shards)

    def split(self, reports: pa.RecordBatch) -> Iterator[Keyed]:
        """ReportBatch -> (key, ReportBatch) of the blocks that they belong to, and (key, LOOKBACK)."""
        if not reports.num_rows:
            return
        minutes = find_minutes(reports)
        own = self.number(minutes)
        yield from split_rows(reports, self.make_keys(own, reports["agent_id"]))
        for ahead in range(1, LOOKBACK_HOURS + 1):
            first = (own + ahead) * self.hours * HOUR_MINUTES
            rows = np.flatnonzero(first <= minutes + LOOKBACK_MINUTES)
            if len(rows):
                yield from self.split_lookback(reports.take(pa.array(rows)), own[rows] + ahead)

    def split_lookback(self, reports: pa.RecordBatch, numbers: NDArray[np.int64]) -> Iterator[Keyed]:
        """ReportBatch -> (key, LOOKBACK) of those that feed; `numbers` (int64[n]) says which hours need each.

        A row at which this raises feeds nothing: history raises at it too, in its own block, and quarantines
        it there.
        """
        rows = append_columns(reports, [(_NUMBER, pa.array(numbers))]).filter(pa.array(~mark_late(reports)))
        found, _ = bisect_faults(_narrow, rows)
        for narrow in found:
            if narrow.num_rows:
                keys = self.make_keys(narrow[_NUMBER.name].to_numpy(), narrow["agent_id"])
                yield from split_rows(narrow.select(LOOKBACK.names), keys)


class KeyByBlock(beam.PTransform):
    """ReportBatches -> (block, ReportBatch or LOOKBACK)."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.blocks = blocks

    def expand(self, reports: beam.PCollection) -> beam.PCollection:
        split = count_stage("block", _split)
        return reports | beam.FlatMap(split, self.blocks).with_output_types(Keyed)


def is_lookback(batch: pa.RecordBatch) -> bool:
    """Whether a batch of a block is LOOKBACK, and not a ReportBatch."""
    return "minute" in batch.schema.names


def _split(reports: pa.RecordBatch, blocks: Blocks) -> list[Keyed]:
    return list(blocks.split(reports))  # an iterator would do its work after its time was counted


def _narrow(reports: pa.RecordBatch) -> pa.RecordBatch:
    """The columns of LOOKBACK, and that of `_NUMBER`."""
    _, buckets = find_buckets(reports)
    columns = [reports["report_id"], reports["agent_id"], pa.array(find_minutes(reports))]
    columns += [pa.array(column) for column in buckets.T]
    return pa.RecordBatch.from_arrays(
        [*columns, reports[_NUMBER.name]], schema=pa.schema([*LOOKBACK, _NUMBER])
    )
