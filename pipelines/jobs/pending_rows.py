"""What a stopped stream still has to write, from what it left below its output.

A stream stops with a checkpoint and does not close its windows, so the newest of them may lag behind their
reports until it runs again. After a kill the same is true of what it read since its newest checkpoint.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.jobs.job_description import FOLDER, JobDescription
from pipelines.jobs.job_status import READERS, read_reader_files
from runners.flink.checkpoints import find_newest_checkpoint

MARGIN_US = 60_000_000
"""Added to `settle_seconds` of the job, in which a report gets from its reader to the last of its windows: a
row that is even later still counts as pending."""
REPORTED_US = 5_000_000
"""How far a reader may be ahead of its last status file, which it writes about once a second."""


@dataclass(frozen=True)
class PendingRows:
    """Windows may lack reports of `streams` that were received from `since` to `until` (microseconds since
    1970)."""

    streams: tuple[str, ...]
    since: int
    until: int

    def among(self, reports: pa.RecordBatch) -> NDArray[np.bool_]:
        """bool[n]: which reports, with `source` and `received_at`, these are."""
        received = pc.fill_null(reports["received_at"].cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
        own = np.asarray(pc.is_in(reports["source"], pa.array(self.streams, pa.string())))
        return own & (received >= self.since) & (received <= self.until)


def find_pending_rows(home: Path) -> PendingRows | None:
    """What the stream that keeps its state here still has to write; None where no stream can go on from a
    checkpoint."""
    folder, job = home / FOLDER, JobDescription.read(home)
    checkpoint = find_newest_checkpoint(folder)
    readers = list(read_reader_files(folder / READERS, "**/reader-*.json"))
    if checkpoint is None or job is None or not readers:
        return None
    # Status files of earlier versions lack `newest`; nothing that was read arrived after their `time`.
    newest = max(reader.get("newest", reader["time"]) or 0 for reader in readers)
    marks = [1000 * reader["watermark"] for reader in readers if reader["watermark"] is not None]
    start = min([*marks, checkpoint.stat().st_mtime_ns // 1000])
    since = start - 1_000_000 * job.settle_seconds - MARGIN_US
    return PendingRows(job.streams, since, 1000 * newest + REPORTED_US)
