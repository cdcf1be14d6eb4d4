"""Reading Redis streams by position: entries as record batches, what was lost, and the group's place. Free of Beam.

    reader = Reader(Connection("redis://localhost").client(), "group", ["stream"])
    positions = reader.starting(reread_ms=0)
    read = reader.read(positions, count=1000, block_ms=1000)   # read.messages, read.bad, read.trimmed, read.positions
    reader.commit(read.positions)                              # once what was read is safe

The positions are the reader's own: other clients cannot take entries from it, and nothing is pending in Redis. The group only says
how far reading is safe: operators see the lag in XINFO GROUPS, and a producer may XTRIM MINID up to its last-delivered-id.
"""

import gc
import logging
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import redis

from transforms.redis.connection import TIMEOUT_SECONDS
from transforms.redis.entry_ids import ZERO, parse_id
from transforms.sources.redis.entries import Entry, batches, digest, losses
from transforms.sources.redis.positions import (
    Found,
    Loss,
    Position,
    Stream,
    found,
    fresh_start,
    is_made_again,
    is_replaced,
    is_sure,
    reset_to,
    restarted,
)
from transforms.sources.redis.stream_state import Looker

WATERMARK_DELAY_SECONDS = 10
"""How far the watermark stays behind what is read."""
LONGEST_BLOCK_MS = int(TIMEOUT_SECONDS * 1000) // 2
READ_BYTES = 16 << 20
"""About as many bytes of entries are read at a time, over all streams."""
AHEAD_SECONDS = 60
"""How far the ids of entries may be ahead of the clock of Redis before that is reported."""
_FIRST_COUNT, _GROWTH = 256, 4
_SAY_AGAIN_SECONDS = 60.0

Positions = Mapping[str, Position]
_log = logging.getLogger(__name__)


class Notices(NamedTuple):
    """What has been noticed about a stream: how often it went back to an older state, how often another client moved the group
    ahead of what was committed, and how many entries had ids ahead of the clock of Redis."""

    went_back: int = 0
    moved: int = 0
    ahead: int = 0

    def plus(self, more: "Notices") -> "Notices":
        """These and more."""
        return Notices(*map(int.__add__, self, more))


class Read(NamedTuple):
    """What one read gave: batches of RAW and of BAD, one a stream, and one of LOST, where there are any; and where it led.

    `watermark` (milliseconds): no entry that is still to be read is older, but for streams whose ids are set by hand. None where
    it cannot be told.
    """

    messages: list[pa.RecordBatch]
    bad: list[pa.RecordBatch]
    trimmed: list[pa.RecordBatch]
    positions: dict[str, Position]
    watermark: int | None
    now: int
    to_end: bool
    notices: Mapping[str, Notices]

    @property
    def rows(self) -> int:
        """Entries that were read."""
        return sum(batch.num_rows for batch in (*self.messages, *self.bad))

    def add(self, key: str, entries: Sequence[Entry]) -> None:
        """Take in the entries of a stream."""
        if entries:
            messages, bad = batches(key, entries)
            self.messages.extend([messages] if messages.num_rows else [])
            self.bad.extend([bad] if bad.num_rows else [])


class Reader:
    """Reads some streams together, for a group; keeps no positions. A Redis Cluster must hold the streams in one slot."""

    def __init__(
        self, client: redis.Redis, group: str, streams: Sequence[str], ahead_seconds: float = AHEAD_SECONDS
    ) -> None:
        self.client, self.group, self.streams = client, group, tuple(streams)
        self._looker = Looker(client, group)
        self._ahead_ms = int(ahead_seconds * 1000)
        self._count = _FIRST_COUNT
        self._notices = {key: Notices() for key in self.streams}
        self._said: dict[str, float] = {}

    def starting(self, reread_ms: int) -> dict[str, Position]:
        """Where to begin without a checkpoint; makes the group where it is missing.

        A new group begins at its stream's beginning. A used one begins `reread_ms` before what was committed last, or before the
        group's last delivered or oldest pending entry where one of these is older: what came after may be in no output. A group
        that another client moved ahead, or destroyed, takes nothing away.
        """
        committed = self._looker.committed(self.streams)
        return {key: self._starting(key, committed.get(key), reread_ms) for key in self.streams}

    def read(self, positions: Positions, count: int, block_ms: int) -> Read:
        """At most `count` entries of each stream after its position, waiting up to `block_ms` for a first one of any.

        Entries, counts and the streams' bounds are of one moment. A stream that was deleted is begun again; one that went back to
        an older state (a failover, a restored copy) is read again from what was committed, or from its beginning.

        Raises:
            RedisUnavailable: a key holds no stream.
            redis.RedisError: Redis cannot be reached for longer than the client is patient, or refuses.
        """
        with _no_collections():
            read = self._read(positions, count)
        if not block_ms or read.rows or read.trimmed or not read.to_end:
            return read
        after = {key: position.last for key, position in read.positions.items()}
        block_ms = min(block_ms, LONGEST_BLOCK_MS)
        self.client.execute_command(
            "XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", *after, *after.values()
        )
        with _no_collections():
            return self._read(read.positions, count)

    def commit(self, positions: Positions) -> None:
        """Keep these positions as committed and move the group there; make it again if it was destroyed.

        What was committed later is not taken back. A group that another client moved ahead is moved back: what lies between is not
        read yet. A stream that has none of these positions is left alone: it is new, and reading it makes its group. So is one that
        is read again: the group is ahead, or its count belongs to a later place.
        """
        committed = self._looker.committed(list(positions))
        streams = self._looker.streams({key: position.last for key, position in positions.items()})
        for key, position in positions.items():
            stream, last = streams[key], committed.get(key, Position()).last
            if position.last == ZERO or _is_older(position.last, position.counted):
                continue
            if stream is None or is_replaced(position, stream) or _is_older(position.last, last):
                continue
            is_ahead = (
                key in committed and stream.group is not None and _is_older(position.last, stream.group)
            )
            if is_ahead:
                self._notice_move(key, stream)
            self._looker.keep(
                key, position
            )  # first, so that a group ahead of it is always another client's work
            if is_ahead or stream.group is None or _is_older(stream.group, position.last):
                self._put_group(key, position, stream)

    def back_to_committed(self, positions: Positions) -> dict[str, Position]:
        """The positions moved back to what is committed, from where on entries are read again and counted no second time."""
        committed = self._looker.committed(list(positions))
        streams = self._looker.streams({key: position.last for key, position in positions.items()})
        return {
            key: self._back(key, position, committed.get(key), streams[key])
            for key, position in positions.items()
        }

    def _back(
        self, key: str, position: Position, committed: Position | None, stream: Stream | None
    ) -> Position:
        if stream is None or committed is None or not _is_older(committed.last, position.last):
            return position
        if is_replaced(position, stream):
            return position  # the first read finds that
        gone = stream.removed - committed.index if committed.index is not None else 0
        if gone > 0:
            _log.warning("the archive may lack up to %d entries of %s after %s, which are in the tables: "
                         "they left the stream before they could be read again", gone, key, committed.last)  # fmt: skip
        _log.info(
            "%s is read again after %s: the archive may lack what comes after that", key, committed.last
        )
        return replace(position, last=committed.last, mark=committed.mark)

    def _read(self, positions: Positions, count: int) -> Read:
        limit = min(count, self._count)
        look = self._looker.look(positions, limit)
        result = Read([], [], [], {}, None, look.now, True, self._notices)
        reached: list[int | None] = []
        lost: list[tuple[str, Loss]] = []
        for key, before in positions.items():
            entries, stream = look.entries.get(key, []), look.streams[key]
            at_end = len(entries) < limit
            ids = [entry_id for entry_id, _ in entries]
            after = stream and found(before, stream, ids, at_end, digest(entries[-1]) if entries else "")
            if after is None:  # another stream, or another history of it, which is read next
                after, entries, at_end = self._go_back(key, before, look.now), [], False
            result.positions[key] = after.position
            lost += [(key, after.loss)] if after.loss else []
            reached.append(
                look.now if at_end else min(look.now, parse_id(entries[-1][0])[0]) if entries else None
            )
            result.add(key, entries)
            self._look_ahead(key, entries, look.now)
        if lost:
            result.trimmed.append(losses(lost))
            _log.warning("entries were lost before they were read: %s", lost)
        self._adapt(result, limit)
        times = [each for each in reached if each is not None]
        watermark = min(times) - 1000 * WATERMARK_DELAY_SECONDS if len(times) == len(reached) else None
        to_end = all(each == look.now for each in reached)
        return result._replace(watermark=watermark, to_end=to_end, notices=self._notices)

    def _go_back(self, key: str, before: Position, now_ms: int) -> Found:
        """Where to read again in a stream that is not what it was.

        Another stream, or one that is not there yet, begins at its beginning. One that went back is read from what is committed:
        up to there both histories are the same if the stream still has that entry. Else it is read from its beginning.
        """
        committed = self._looker.committed([key]).get(key, Position())
        stream = self._looker.streams({key: committed.last})[key]
        if stream is None or is_made_again(committed, stream):
            self._begin(key, Position(), stream)
            return restarted(before, stream.first if stream else None)
        to = committed
        if not is_sure(committed, stream) or not _is_older(committed.last, before.last):
            to = Position(index=None, added=stream.added)
            self._looker.keep(key, to)
            self._put_group(key, to, stream)
        self._notice(key, went_back=1)
        _log.warning(
            "the stream %s went back to an older state, before %s: it is read again from %s",
            key,
            before.last,
            to.last,
        )
        return reset_to(before, to, now_ms)

    def _put_group(self, key: str, position: Position, stream: Stream) -> None:
        """Make the group at a position, or move it there."""
        if stream.group is None:
            self._looker.create_group(key, position)
        else:
            self._looker.move_group(key, position)

    def _look_ahead(self, key: str, entries: Sequence[Entry], now: int) -> None:
        """Count the entries whose ids are ahead of the clock: reports in them look older than they are."""
        latest = now + self._ahead_ms
        if not entries or parse_id(entries[-1][0])[0] <= latest:
            return
        number = len(entries) - bisect_right(entries, latest, key=lambda entry: parse_id(entry[0])[0])
        self._notice(key, ahead=number)
        seconds = (parse_id(entries[-1][0])[0] - now) / 1000
        self._warn(
            key,
            f"ids of {key} are {seconds:,.0f} s ahead of the clock of Redis: its reports may be refused as stale",
        )

    def _notice(self, key: str, went_back: int = 0, moved: int = 0, ahead: int = 0) -> None:
        self._notices = self._notices | {key: self._notices[key].plus(Notices(went_back, moved, ahead))}

    def _notice_move(self, key: str, stream: Stream) -> None:
        self._notice(key, moved=1)
        self._warn(
            key, f"another client moved the group {self.group} of {key} to {stream.group}: it is moved back"
        )

    def _warn(self, key: str, text: str) -> None:
        """Log it, at most once in a while for each stream."""
        now = time.monotonic()
        if now - self._said.get(key, -_SAY_AGAIN_SECONDS) >= _SAY_AGAIN_SECONDS:
            self._said[key] = now
            _log.warning(text)

    def _adapt(self, read: Read, limit: int) -> None:
        """How many entries to read next: few at first, then about READ_BYTES of what they are like."""
        rows = read.rows
        octets = sum(batch["payload"].nbytes for batch in (*read.messages, *read.bad))
        if not rows:
            return
        fitting = READ_BYTES * rows // (max(octets, 1) * len(self.streams))
        self._count = max(1, min(fitting, max(self._count, limit * _GROWTH)))

    def _starting(self, key: str, committed: Position | None, reread_ms: int) -> Position:
        stream = self._looker.streams({key: ZERO if committed is None else committed.last})[key]
        if committed is not None:
            if stream is None or is_replaced(committed, stream):
                return committed  # the first read finds that, and reports it
            oldest = ZERO if stream.group is None else self._oldest(key, committed.last)
            if stream.group is not None and _is_older(committed.last, stream.group):
                self._notice_move(key, stream)
                self._looker.move_group(key, committed)
            elif stream.group is None:
                self._looker.create_group(key, committed)
            return fresh_start(stream, committed.index, committed.last, oldest, reread_ms)
        if stream is None or stream.group is None:
            position = Position() if stream is None else Position(index=stream.removed, added=stream.added)
            self._begin(key, position, stream)
            return position
        place = self._looker.place(key)
        delivered = min(place.delivered, stream.last, key=parse_id)
        index = place.read
        if (
            index is None
            and place.lag is not None
            and stream.first
            and not _is_older(delivered, stream.first)
        ):
            index = stream.added - place.lag
        self._looker.keep(key, Position(delivered, index, delivered, stream.added))
        return fresh_start(stream, index, delivered, self._oldest(key, delivered), reread_ms)

    def _oldest(self, key: str, committed: str) -> str:
        """The oldest of what is committed, and what the group has delivered and holds as pending."""
        place = self._looker.place(key)
        return min(committed, place.delivered, place.pending or committed, key=parse_id)

    def _begin(self, key: str, position: Position, stream: Stream | None) -> None:
        """Make the group at a position, unless it is there, and commit the position."""
        if stream is None or stream.group is None:
            self._looker.create_group(key, position)
        self._looker.keep(key, position)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Entries are lists, which none of them holds itself: looking for cycles in them would take as long as reading them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _is_older(entry_id: str, than: str) -> bool:
    return parse_id(entry_id) < parse_id(than)
