"""What a stopped stream still has to write, from what it left below its output.

A stream stops with a checkpoint and does not close its windows, so the newest of them may lag behind their reports until it goes
on. After a kill the same is true of what it read since its newest checkpoint.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.jobs.job_status import FOLDER, JOB, READERS, reports
from runners.flink.checkpoints import find_newest_checkpoint

MARGIN_US = 60_000_000
"""Longer than `settle_seconds` of the job, in which a report gets from its reader to the last of its windows: what is late by
so much more still waits."""
REPORTED_US = 5_000_000
"""How far a reader may be ahead of what it said last, which it does about once a second."""


@dataclass(frozen=True)
class Waiting:
    """Reports of `streams` that were received from `since` to `until` (microseconds since 1970) may lack in windows."""

    streams: tuple[str, ...]
    since: int
    until: int

    def among(self, reports: pa.RecordBatch) -> NDArray[np.bool_]:
        """bool[n]: which reports, with `source` and `received_at`, these are."""
        received = pc.fill_null(reports["received_at"].cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
        own = np.asarray(pc.is_in(reports["source"], pa.array(self.streams, pa.string())))
        return own & (received >= self.since) & (received <= self.until)


def waiting(home: Path) -> Waiting | None:
    """What the stream that keeps its state here still has to write; None where no stream can go on from a checkpoint."""
    folder = home / FOLDER
    checkpoint = find_newest_checkpoint(folder)
    if checkpoint is None or not (folder / JOB).is_file():
        return None
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    readers = list(reports(folder / READERS, "**/reader-*.json"))
    read = [
        int(place["position"].partition("-")[0]) for reader in readers for place in reader["streams"].values()
    ]
    if not read:
        return None
    marks = [1000 * reader["watermark"] for reader in readers if reader["watermark"] is not None]
    since = (
        min([*marks, checkpoint.stat().st_mtime_ns // 1000]) - 1_000_000 * job["settle_seconds"] - MARGIN_US
    )
    return Waiting(tuple(job["depends"]["streams"]), since, 1000 * max(read) + REPORTED_US)
