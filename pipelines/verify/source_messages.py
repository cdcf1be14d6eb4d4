"""The messages that an output is compared with: what a source contains, and what it contained but need not
contain any more."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.verify.record_keys import FATES
from pipelines.verify.table_scan import list_files, load
from schemas.tables import LOST, MESSAGE_KEY, TRIMMED
from transforms.core.errors import DamagedFile
from transforms.core.record_batches import concat
from transforms.sources.source import UNCOMMITTED, OnProgress, OnUnreadable, SourceSnapshot


def read_messages(
    snapshot: SourceSnapshot, output: Path, on_progress: OnProgress, on_unreadable: OnUnreadable
) -> Iterator[pa.RecordBatch]:
    """The messages of a source, as `Snapshot.messages` gives them.

    After them come messages of the output that have left the source since they were read. What was trimmed
    after it was read is thus part of the source.
    """
    yield from snapshot.messages(on_progress, on_unreadable)
    if snapshot.can_lose:
        for rows in _read_stored(output):
            left = rows.filter(pa.array(snapshot.has_left(rows)))
            yield left.append_column(UNCOMMITTED, pa.array(np.zeros(left.num_rows, np.bool_)))


def read_gaps(output: Path) -> pa.RecordBatch:
    """What an output says was lost before it was read: rows of LOST. Damaged files are for others to
    report."""
    found = []
    for file in list_files(output, TRIMMED):
        with suppress(DamagedFile):
            found.append(load(file, TRIMMED, LOST.names))
    return concat(found) if found else pa.RecordBatch.from_pylist([], schema=LOST)


def _read_stored(output: Path) -> Iterator[pa.RecordBatch]:
    """The messages of an output, a file at a time; damaged files are for others to report."""
    for table in FATES:
        for file in list_files(output, table):
            with suppress(DamagedFile):
                yield load(file, table, MESSAGE_KEY)
