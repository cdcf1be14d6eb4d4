"""The size of blocks: how a backfill is divided, so that each part fits into memory.

A look into each part of the archives estimates how many reports were recorded in which hour. The estimate
decides how many hours a block has, whether an hour is divided among shards of agents, and how many minutes a
file of a new output has. It bounds memory and never changes a row, so it need not be exact.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transforms.core.time_units import HOUR_US
from transforms.history.blocks import Blocks
from transforms.sources.archives.archive_files import ArchiveFiles
from transforms.sources.archives.archive_reader import Chunk, read_chunks
from transforms.sources.archives.parts import cut_parts, estimate_text

SAMPLE_BYTES = 1 << 16
"""How much is read of a part of the archives."""
MOST_SAMPLES = 1000
FILE_REPORTS = 250_000
"""Reports of a file of tables, about and at most, since a file is written as a whole."""
BLOCK_HOURS = (24, 12, 8, 6, 4, 3, 2, 1)
_FILE_MINUTES = (30, 20, 15, 12, 10, 6, 5, 4, 3, 2, 1)
_BLOCKS_PER_WORKER = 4
"""So many blocks for each worker keep all of them busy to the end."""

_RECORDED = (
    r'"recorded_at"\s*:\s*"(?P<hour>\d{4}-\d{2}-\d{2}[Tt]\d{2})'
    r"(?::(?P<minute>\d{2}):[\d.]*(?P<sign>[+-])(?P<hours>\d{2}):(?P<minutes>\d{2}))?"
)
"""The hour, and where an offset from UTC follows, that and the minute."""
_NUMBERS = ("minute", "hours", "minutes")

Reports = Mapping[int, float]
"""About how many reports were recorded in each hour (since 1970)."""


class BlockPlan(NamedTuple):
    """How a batch is divided. `file_minutes` is what a new output should have."""

    blocks: Blocks
    file_minutes: int


def plan_blocks(reports: Reports, workers: int, block_reports: int) -> BlockPlan:
    """The plan for these reports, so that a block has at most about `block_reports`, of all agents if it can.

    Blocks are as large as may be, since each has a cost of its own, but there are some for each worker.
    """
    densest = max(reports.values(), default=0.0)
    hours = next((hours for hours in BLOCK_HOURS if _fits(reports, hours, workers, block_reports)), 1)
    shards = max(1, -int(-densest // block_reports)) if hours == 1 else 1
    minutes = next((each for each in _FILE_MINUTES if densest * each / 60 <= FILE_REPORTS), 1)
    return BlockPlan(Blocks(hours, shards), minutes)


def _fits(reports: Reports, hours: int, workers: int, block_reports: int) -> bool:
    blocks: Counter[int] = Counter()
    for hour, count in reports.items():
        blocks[hour // hours] += count  # type: ignore[assignment]
    enough = len(blocks) >= _BLOCKS_PER_WORKER * workers or len(blocks) == len(reports)
    return enough and max(blocks.values(), default=0) <= block_reports


def estimate_reports(files: ArchiveFiles) -> Reports:
    """About how many messages of the archives were recorded in which hour."""
    parts = cut_parts(files.whole)
    ranges = [each for part in parts for each in part]
    chosen = ranges[:: max(1, -(-len(ranges) // MOST_SAMPLES))]
    estimate: Counter[int] = Counter()
    for each in chosen:
        first = next(iter(read_chunks(each, SAMPLE_BYTES)), None)
        if isinstance(first, Chunk) and first.messages.num_rows:
            _add_sample(estimate, first.messages, estimate_text(each))
    return {hour: count * len(ranges) / len(chosen) for hour, count in estimate.items()}


def _add_sample(estimate: Counter[int], messages: pa.RecordBatch, octets: int) -> None:
    """Spread `octets` of messages over the hours of a sample of them."""
    hours, counts = np.unique(approximate_hours(messages), return_counts=True)
    ratio = max(1.0, octets / messages.nbytes)
    for hour, count in zip(hours.tolist(), counts.tolist()):
        estimate[hour] += count * ratio


def approximate_hours(messages: pa.RecordBatch) -> NDArray[np.int64]:
    """int64[n]: hours since 1970 as the payload's bytes say at first sight, else of received_at, else 0."""
    found = pc.extract_regex(messages["payload"], _RECORDED)
    texts = pc.struct_field(found, "hour").cast(pa.string())
    named = pc.strptime(pc.utf8_upper(texts), format="%Y-%m-%dT%H", unit="s", error_is_null=True).cast(
        pa.int64()
    )
    received = pc.fill_null(messages["received_at"].cast(pa.int64()), 0).to_numpy() // HOUR_US
    hours = np.array(pc.coalesce(pc.divide(named, 3600), pa.array(received)))
    rows = np.flatnonzero(pc.fill_null(pc.not_equal(pc.struct_field(found, "sign"), b""), False))
    hours[rows] += _shifts(found.take(pa.array(rows)))
    return hours


def _shifts(found: pa.StructArray) -> NDArray[np.int64]:
    """int64[n]: hours from the one that is named to that of UTC, of what has an offset."""
    minute, hours, minutes = (
        pc.struct_field(found, name).cast(pa.string()).cast(pa.int64()).to_numpy() for name in _NUMBERS
    )
    east = np.where(pc.equal(pc.struct_field(found, "sign"), b"+"), 1, -1)
    shifts: NDArray[np.int64] = (minute - east * (60 * hours + minutes)) // 60
    return shifts
