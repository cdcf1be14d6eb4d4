"""What Redis streams contain at a moment, without waiting and without a lease: for `reconcile` and `archive`.
Free of Beam."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis
from numpy.typing import NDArray

from transforms.redis.connection import Connection
from transforms.redis.entry_ids import ZERO, parse_id
from transforms.sources.redis.entries import Entry, split_entries
from transforms.sources.redis.group import Group
from transforms.sources.redis.positions import RESET, Stream
from transforms.sources.redis.stream_state import read_stream
from transforms.sources.source import UNCOMMITTED, OnProgress, OnUnreadable

READ_BYTES = 8 << 20
"""About as many bytes of entries are read at a time."""
_FIRST_COUNT, _MOST, _GROWTH = 256, 20_000, 4
_EMPTY = Stream(0, 0, None, ZERO, ZERO)
_ID = r"^\d{1,19}-\d{1,19}$"


class RedisSnapshot:
    """The messages of some streams, and of those that are stored which ones the streams once had."""

    can_lose = True

    def __init__(
        self,
        connection: Connection,
        client: redis.Redis,
        group: str,
        streams: Sequence[str],
        gaps: pa.RecordBatch,
    ) -> None:
        self._connection, self._client = connection, client
        self._group = Group(client, group)
        self._resets = [row for row in gaps.to_pylist() if row["reason"] == RESET]
        with connection.explain_errors():
            self._begun = {stream: read_stream(client, stream) for stream in streams}
        self._ended = self._begun

    @property
    def missing(self) -> list[str]:
        """Streams that do not exist."""
        return [key for key, stream in self._begun.items() if stream is None]

    @property
    def size(self) -> int:
        """Entries that the streams contain."""
        return sum(stream.length for stream in self._begun.values() if stream)

    def messages(self, on_progress: OnProgress, on_unreadable: OnUnreadable) -> Iterator[pa.RecordBatch]:
        """The messages up to the last entry that each stream has when this begins: source, message_id and
        `uncommitted`."""
        with self._connection.explain_errors():
            self._begun = {key: read_stream(self._client, key) for key in self._begun}
            for key, stream in self._begun.items():
                if stream is None:
                    continue
                committed = self._group.last_committed(key)
                for entries in read_entries(self._client, key, stream.last):
                    yield _name_messages(key, entries, committed)
                    on_progress(len(entries))
            ended = {key: read_stream(self._client, key) for key in self._begun}
        self._ended = {key: stream or self._begun[key] for key, stream in ended.items()}

    def payloads(self) -> Iterator[pa.RecordBatch]:
        """The messages again that the streams still have: RAW and REJECTED."""
        with self._connection.explain_errors():
            for key, stream in self._begun.items():
                if stream is not None:
                    for entries in read_entries(self._client, key, stream.last):
                        yield from split_entries(key, entries)

    def has_left(self, messages: pa.RecordBatch) -> NDArray[np.bool_]:
        """bool[n]: which of these (source, message_id) a stream has had, and need not have now.

        Their ids are older than a stream's first entry, not newer than its newest deleted one, of an entry
        that came in since `messages` began, or between the two ends of a reset, when the stream went back to
        an older state.
        """
        left = np.zeros(messages.num_rows, np.bool_)
        is_id = pc.match_substring_regex(messages["message_id"], _ID)
        for key in self._begun:
            own = np.flatnonzero(pc.and_(pc.equal(messages["source"], key), is_id))
            left[own] = self._has_left(key, messages["message_id"].take(pa.array(own)))
        return left

    def _has_left(self, key: str, ids: pa.Array) -> NDArray[np.bool_]:
        begun, ended = self._begun[key] or _EMPTY, self._ended[key] or _EMPTY
        came_since = are_up_to(ids, ended.last) & ~are_up_to(ids, begun.last)
        left = _are_trimmed(ids, ended) | are_up_to(ids, ended.max_deleted) | came_since
        for reset in self._resets:
            if reset["source"] == key:
                left |= are_up_to(ids, reset["message_id"]) & ~are_up_to(ids, reset["after"])
        return left


def read_entries(client: redis.Redis, stream: str, last: str, after: str = ZERO) -> Iterator[list[Entry]]:
    """The entries with ids after one and up to another, in order, some at a time."""
    client.set_response_callback(
        "XRANGE", lambda reply, **_: reply
    )  # dicts of fields would cost more than the read
    count = _FIRST_COUNT
    while entries := _read_range(client, stream, after, last, count):
        yield entries
        after = entries[-1][0].decode()
        octets = sum(len(part) for _, fields in entries for part in fields)
        count = max(1, min(_MOST, count * _GROWTH, READ_BYTES * len(entries) // max(octets, 1)))


def lacks_entry(client: redis.Redis, key: str, stream: Stream, entry_id: str) -> bool:
    """Whether a stream lacks an entry that it had, although neither trimming nor deletion explains it.

    It is then in an older state, or another stream, and may have got entries with older ids since.
    """
    limit = parse_id(entry_id)
    if entry_id == ZERO or stream.first is None or parse_id(stream.first) > limit:
        return False
    return limit > parse_id(stream.max_deleted) and not client.xrange(key, entry_id, entry_id)


def are_up_to(ids: pa.Array, last: str) -> NDArray[np.bool_]:
    """bool[n]: which of the ids, string[n], are not newer than one."""
    millis, number = parse_id(last)
    of_ids, in_millis = (
        pc.replace_substring_regex(ids, cut, "").cast(pa.uint64()).to_numpy() for cut in ("-.*", ".*-")
    )
    return np.asarray((of_ids < millis) | ((of_ids == millis) & (in_millis <= number)))


def _are_trimmed(ids: pa.Array, stream: Stream) -> NDArray[np.bool_]:
    """bool[n]: which ids are older than all that the stream contains."""
    if stream.first is None:
        return are_up_to(ids, stream.last)
    is_first = pc.equal(ids, stream.first).to_numpy(zero_copy_only=False)
    return are_up_to(ids, stream.first) & ~np.asarray(is_first)


def _name_messages(source: str, entries: Sequence[Entry], committed: str | None) -> pa.RecordBatch:
    ids = pa.array([entry_id for entry_id, _ in entries], pa.binary()).cast(pa.string())
    late = np.zeros(len(ids), np.bool_) if committed is None else ~are_up_to(ids, committed)
    columns = [pa.repeat(pa.scalar(source, pa.string()), len(ids)), ids, pa.array(late)]
    return pa.RecordBatch.from_arrays(columns, names=["source", "message_id", UNCOMMITTED])


def _read_range(client: Any, stream: str, after: str, last: str, count: int) -> list[Entry]:
    entries: list[Entry] = client.xrange(stream, f"({after}", last, count)
    return entries
