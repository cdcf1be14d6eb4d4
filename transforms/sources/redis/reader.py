"""Reading Redis streams by position: entries as record batches, and what was lost. Free of Beam.

    reader = Reader(Connection("redis://localhost").client(), "group", ["stream"])
    positions = reader.offsets.start(reread_ms=0)
    read = reader.read(positions, count=1000, block_ms=1000)   # read.messages, .rejected, .gaps, .positions
    reader.offsets.commit(read.positions)                      # once what was read is safe

The positions are the reader's own: other clients cannot take entries from it, and nothing is pending in
Redis. The group only says how far reading is safe (`transforms.sources.redis.offsets`).
"""

import gc
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa
import redis

from transforms.core.events import ENTRIES_LOST, STREAM_WENT_BACK, log_event
from transforms.redis.connection import TIMEOUT_SECONDS
from transforms.redis.entry_ids import parse_id
from transforms.sources.reader_status import Notices
from transforms.sources.redis.entries import Entry, build_gaps, digest_entry, split_entries
from transforms.sources.redis.group import Group, Moment
from transforms.sources.redis.notices import StreamNotices
from transforms.sources.redis.offsets import CommittedOffsets, Positions, is_older
from transforms.sources.redis.positions import (
    Account,
    Loss,
    Position,
    account_entries,
    is_made_again,
    is_sure,
    reset_position,
    restart_position,
)
from transforms.sources.source import AHEAD_SECONDS, WATERMARK_DELAY_SECONDS

LONGEST_BLOCK_MS = int(TIMEOUT_SECONDS * 1000) // 2
READ_BYTES = 16 << 20
"""About as many bytes of entries are read at a time, over all streams."""
_FIRST_COUNT, _GROWTH = 256, 4


class ReadEntries(NamedTuple):
    """What one read gave: batches of messages (RAW), of rejected entries (REJECTED) and of gaps (LOST), and
    where it led.

    `watermark` (milliseconds): no entry that is still to be read is older, except in streams whose ids are
    set by hand; None where it is unknown. `now`: the time of Redis. `to_end`: whether every stream was read
    to its end.
    """

    messages: list[pa.RecordBatch]
    rejected: list[pa.RecordBatch]
    gaps: list[pa.RecordBatch]
    positions: dict[str, Position]
    watermark: int | None
    now: int
    to_end: bool
    notices: Mapping[str, Notices]

    @property
    def rows(self) -> int:
        """Entries that were read."""
        return sum(batch.num_rows for batch in (*self.messages, *self.rejected))

    def add(self, key: str, entries: Sequence[Entry]) -> None:
        """Take in the entries of a stream."""
        if entries:
            messages, rejected = split_entries(key, entries)
            self.messages.extend([messages] if messages.num_rows else [])
            self.rejected.extend([rejected] if rejected.num_rows else [])


class Reader:
    """Reads some streams together, for a group; keeps no positions. A Redis Cluster must hold the streams in
    one slot."""

    def __init__(
        self, client: redis.Redis, group: str, streams: Sequence[str], ahead_seconds: float = AHEAD_SECONDS
    ) -> None:
        self.group = Group(client, group)
        self.notices = StreamNotices(streams)
        self.offsets = CommittedOffsets(self.group, streams, self.notices)
        self._ahead_ms = int(ahead_seconds * 1000)
        self._count = _FIRST_COUNT

    def read(self, positions: Positions, count: int, block_ms: int) -> ReadEntries:
        """At most `count` entries of each stream after its position, waiting up to `block_ms` for a first one
        of any.

        Entries, counts and the streams' bounds are of one moment. A stream that was deleted is begun again;
        one that went back to an older state (a failover, a restored copy) is read again from what was
        committed, or from its beginning.

        Raises:
            RedisUnavailable: a key is not a stream.
            redis.RedisError: Redis cannot be reached for longer than the client is patient, or refuses.
        """
        with _without_collections():
            read = self._read(positions, count)
        if not block_ms or read.rows or read.gaps or not read.to_end:
            return read
        self.group.wait(read.positions, min(block_ms, LONGEST_BLOCK_MS))
        with _without_collections():
            return self._read(read.positions, count)

    def _read(self, positions: Positions, count: int) -> ReadEntries:
        limit = min(count, self._count)
        moment = self.group.read(positions, limit)
        result = ReadEntries([], [], [], {}, None, moment.now, True, {})
        reached: list[int | None] = []
        lost: list[tuple[str, Loss]] = []
        for key, before in positions.items():
            after, entries, at_end = self._account(key, before, moment, limit)
            result.positions[key] = after.position
            lost += [(key, after.loss)] if after.loss else []
            reached.append(_reached(entries, at_end, moment.now))
            result.add(key, entries)
            self._look_ahead(key, entries, moment.now)
        if lost:
            result.gaps.append(build_gaps(lost))
            for key, loss in lost:
                log_event(ENTRIES_LOST, source=key, **loss._asdict())
        self._adapt(result, limit)
        times = [each for each in reached if each is not None]
        watermark = min(times) - 1000 * WATERMARK_DELAY_SECONDS if len(times) == len(reached) else None
        to_end = all(each == moment.now for each in reached)
        return result._replace(watermark=watermark, to_end=to_end, notices=self.notices.counts)

    def _account(
        self, key: str, before: Position, moment: Moment, limit: int
    ) -> tuple[Account, Sequence[Entry], bool]:
        """Where the entries of a stream lead, the entries that count, and whether they are all that the
        stream has."""
        entries, stream = moment.entries.get(key, []), moment.streams[key]
        at_end = len(entries) < limit
        ids = [entry_id for entry_id, _ in entries]
        after = stream and account_entries(
            before, stream, ids, at_end, digest_entry(entries[-1]) if entries else ""
        )
        if after is None:  # another stream, or another history of it, which is read next
            return self._go_back(key, before, moment.now), [], False
        return after, entries, at_end

    def _go_back(self, key: str, before: Position, now_ms: int) -> Account:
        """Where to read again in a stream that is not what it was.

        Another stream, or one that does not exist yet, begins at its beginning. One that went back is read
        from what is committed: up to there both histories are the same if the stream still has that entry.
        Else it is read from its beginning.
        """
        committed = self.group.read_committed([key]).get(key, Position())
        stream = self.group.read_streams({key: committed.last})[key]
        if stream is None or is_made_again(committed, stream):
            self.offsets.begin(key, Position(), stream)
            return restart_position(before, stream.first if stream else None)
        to = committed
        if not is_sure(committed, stream) or not is_older(committed.last, before.last):
            to = Position(index=None, added=stream.added)
            self.offsets.reset(key, to, stream)
        self.notices.count(key, Notices(went_back=1))
        log_event(STREAM_WENT_BACK, source=key, before=before.last, position=to.last)
        return reset_position(before, to, now_ms)

    def _look_ahead(self, key: str, entries: Sequence[Entry], now: int) -> None:
        """Count the entries whose ids are ahead of the clock: reports in them look older than they are."""
        latest = now + self._ahead_ms
        if not entries or parse_id(entries[-1][0])[0] <= latest:
            return
        number = len(entries) - bisect_right(entries, latest, key=lambda entry: parse_id(entry[0])[0])
        seconds = (parse_id(entries[-1][0])[0] - now) / 1000
        where = f"ids of {key} are {seconds:,.0f} s ahead of the clock of Redis"
        text = f"{where}: its reports may be rejected as stale"
        self.notices.warn(key, Notices(ahead=number), text)

    def _adapt(self, read: ReadEntries, limit: int) -> None:
        """How many entries to read next: few at first, then about READ_BYTES of what they are like."""
        rows = read.rows
        octets = sum(batch["payload"].nbytes for batch in (*read.messages, *read.rejected))
        if rows:
            fitting = READ_BYTES * rows // (max(octets, 1) * len(self.offsets.streams))
            self._count = max(1, min(fitting, max(self._count, limit * _GROWTH)))


def _reached(entries: Sequence[Entry], at_end: bool, now: int) -> int | None:
    """Up to which time (ms) a stream is read; None where it is unknown."""
    if at_end:
        return now
    return min(now, parse_id(entries[-1][0])[0]) if entries else None


@contextmanager
def _without_collections() -> Iterator[None]:
    """Without garbage collection: entries are lists without cycles, and looking for some takes as long as
    reading them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
