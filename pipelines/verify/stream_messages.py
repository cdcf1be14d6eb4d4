"""Redis streams as the source that an output is reconciled with: what they hold, and what they held but do not any more."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis
from numpy.typing import NDArray

from pipelines.verify.table_scan import load, paths
from schemas.tables import DUPLICATES, QUARANTINED, REPORTS, TRIMMED
from transforms.core.errors import DamagedFile
from transforms.redis.entry_ids import parse_id
from transforms.sources.redis.positions import RESET
from transforms.sources.redis.snapshot import Held, committed, entries, look

MESSAGE_KEY = ["source", "message_id"]
UNCOMMITTED = "uncommitted"
"""bool: whether a message lies after what its group has committed, so that it may have no fate yet."""
_EMPTY = Held(0, None, "0-0", "0-0")
_ID = r"^\d{1,19}-\d{1,19}$"


def messages(
    client: redis.Redis, streams: Sequence[str], group: str, output: Path, on_entries: Callable[[int], object]
) -> Iterator[pa.RecordBatch]:
    """The messages of some streams, columns source, message_id and uncommitted, up to the last entry that they have when this
    begins. `uncommitted` says which lie after what the group has committed.

    After them come messages of the output that the streams have held: rows with an id older than a stream's first entry, not newer
    than its newest deleted one, or of an entry that came in meanwhile are taken at their word. What was trimmed or deleted after
    it was read is thus part of the source.
    """
    begun = {stream: look(client, stream) or _EMPTY for stream in streams}
    for stream, held in begun.items():
        safe = committed(client, stream, group) if held != _EMPTY else None
        for found in entries(client, stream, held.last):
            ids = pa.array([entry_id for entry_id, _ in found], pa.binary()).cast(pa.string())
            yield _named(stream, ids, np.zeros(len(ids), np.bool_) if safe is None else ~_up_to(ids, safe))
            on_entries(len(found))
    ended = {stream: look(client, stream) or begun[stream] for stream in streams}
    resets = list(_resets(output))
    for rows in _stored(output):
        for stream in streams:
            ids = rows["message_id"].filter(pc.equal(rows["source"], stream))
            ids = ids.filter(pc.match_substring_regex(ids, _ID))
            gone = _gone(ids, begun[stream], ended[stream])
            for _, after, until in (each for each in resets if each[0] == stream):
                gone |= _up_to(ids, until) & ~_up_to(ids, after)
            gone_ids = ids.filter(pa.array(gone))
            yield _named(stream, gone_ids, np.zeros(len(gone_ids), np.bool_))


def _stored(output: Path) -> Iterator[pa.RecordBatch]:
    """The messages of an output, a file at a time; damaged files are for others to report."""
    for table in (REPORTS, DUPLICATES, QUARANTINED):
        for path in paths(output, table):
            with suppress(DamagedFile):
                yield load(path, table, MESSAGE_KEY)


def _resets(output: Path) -> Iterator[tuple[str, str, str]]:
    """Of each time that a stream went back: the stream, the id up to which it stayed the same, and the newest read before."""
    for path in paths(output, TRIMMED):
        with suppress(DamagedFile):
            for row in load(path, TRIMMED, ["source", "after", "message_id", "reason"]).to_pylist():
                if row["reason"] == RESET:
                    yield row["source"], row["after"], row["message_id"]


def _named(stream: str, ids: pa.Array, uncommitted: NDArray[np.bool_]) -> pa.RecordBatch:
    columns = [pa.repeat(pa.scalar(stream, pa.string()), len(ids)), ids, pa.array(uncommitted)]
    return pa.RecordBatch.from_arrays(columns, names=[*MESSAGE_KEY, UNCOMMITTED])


def _gone(ids: pa.Array, begun: Held, ended: Held) -> NDArray[np.bool_]:
    """bool[n]: the ids, string[n], of entries that left the stream, or that came in after its reading began."""
    trimmed = _up_to(ids, ended.last)
    if ended.first is not None:
        trimmed = _up_to(ids, ended.first) & ~pc.equal(ids, ended.first).to_numpy(zero_copy_only=False)
    return trimmed | _up_to(ids, ended.max_deleted) | (_up_to(ids, ended.last) & ~_up_to(ids, begun.last))


def _up_to(ids: pa.Array, last: str) -> NDArray[np.bool_]:
    """bool[n]: the ids that are not newer than one."""
    millis, number = parse_id(last)
    of_ids, in_millis = (
        pc.replace_substring_regex(ids, cut, "").cast(pa.uint64()).to_numpy() for cut in ("-.*", ".*-")
    )
    return np.asarray((of_ids < millis) | ((of_ids == millis) & (in_millis <= number)))
