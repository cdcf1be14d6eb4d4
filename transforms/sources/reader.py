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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import redis

from transforms.redis import TIMEOUT_SECONDS, refuse_other_types
from transforms.sources.entries import Entry, batches, losses
from transforms.sources.positions import ZERO, Found, Loss, Position, Stream, found, fresh_start, parsed, restarted

WATERMARK_DELAY_SECONDS = 10
"""How far the watermark stays behind what is read."""
LONGEST_BLOCK_MS = int(TIMEOUT_SECONDS * 1000) // 2
READ_BYTES = 16 << 20
"""About as many bytes of entries are read at a time, over all streams."""
_FIRST_COUNT, _GROWTH = 256, 4

Positions = Mapping[str, Position]
_log = logging.getLogger(__name__)


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


class _Look(NamedTuple):
    """Streams at one moment: the server's time (ms), the entries after the positions, what Redis says of each (None: no key)."""

    now: int
    entries: dict[str, list[Entry]]
    streams: dict[str, Stream | None]


class Reader:
    """Reads some streams together, for a group; keeps no positions. A Redis Cluster must hold the streams in one slot."""

    def __init__(self, client: redis.Redis, group: str, streams: Sequence[str]) -> None:
        self.client, self.group, self.streams = client, group, tuple(streams)
        self._count = _FIRST_COUNT
        client.set_response_callback("XREAD", lambda reply, **_: reply)  # dicts of fields would cost more than the read

    def starting(self, reread_ms: int) -> dict[str, Position]:
        """Where to begin without a checkpoint; makes the group where it is missing.

        A new group begins at its stream's beginning. A used one begins `reread_ms` before its last delivered entry or its oldest
        pending one, whichever is older: what came after may be in no output.
        """
        return {key: self._starting(key, reread_ms) for key in self.streams}

    def read(self, positions: Positions, count: int, block_ms: int) -> Read:
        """At most `count` entries of each stream after its position, waiting up to `block_ms` for a first one of any.

        Entries, counts and the streams' bounds are of one moment (MULTI). A stream that was deleted is begun again.

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
        self.client.execute_command("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", *after, *after.values())
        with _no_collections():
            return self._read(read.positions, count)

    def commit(self, positions: Positions) -> None:
        """Move the group up to these positions; make it again there if it was destroyed. It is never moved back.

        A stream that has none of these positions is left alone: it is new, and reading it makes its group. So is one that is read
        again: the group is ahead, or its count belongs to a later place.
        """
        looks = self._states(list(positions))
        for key, position in positions.items():
            stream = looks[key]
            if _is_older(position.last, position.counted):
                continue
            if stream is None or position.last == ZERO or stream.added < position.added or _is_older(stream.last, position.last):
                continue
            if stream.group is None:
                self._create(key, position)
            elif _is_older(stream.group, position.last):
                self.client.xgroup_setid(key, self.group, position.last, entries_read=position.index)

    def uncommitted(self, positions: Positions) -> dict[str, Position]:
        """The positions moved back to the group's place, from where on entries are read again and counted no second time."""
        return {key: self._uncommitted(key, position) for key, position in positions.items()}

    def _uncommitted(self, key: str, position: Position) -> Position:
        stream = self._states([key])[key]
        if stream is None or stream.group is None or not _is_older(stream.group, position.last):
            return position
        group = next(each for each in self.client.xinfo_groups(key) if each["name"] == self.group.encode())
        gone = stream.removed - group["entries-read"] if group["entries-read"] is not None else 0
        if gone > 0:
            _log.warning("the archive may lack up to %d entries of %s after %s, which are in the tables: "
                         "they left the stream before they could be read again", gone, key, stream.group)  # fmt: skip
        _log.info("%s is read again after %s: the archive may lack what comes after that", key, stream.group)
        return replace(position, last=stream.group)

    def _read(self, positions: Positions, count: int) -> Read:
        limit = min(count, self._count)
        look = self._look(positions, limit)
        result = Read([], [], [], {}, None, look.now, True)
        marks: list[int | None] = []
        lost: list[tuple[str, Loss]] = []
        for key, before in positions.items():
            entries, stream = look.entries.get(key, []), look.streams[key]
            at_end = len(entries) < limit
            after = stream and found(before, stream, [entry_id for entry_id, _ in entries], at_end)
            if after is None:  # another stream, which is read from its beginning next
                after, entries, at_end = self._restart(key, before, stream), [], False
            result.positions[key] = after.position
            lost += [(key, after.loss)] if after.loss else []
            marks.append(look.now if at_end else min(look.now, parsed(entries[-1][0])[0]) if entries else None)
            result.add(key, entries)
        if lost:
            result.trimmed.append(losses(lost))
            _log.warning("entries were lost before they were read: %s", lost)
        self._adapt(result, limit)
        watermark = None if None in marks else min(mark for mark in marks if mark is not None) - 1000 * WATERMARK_DELAY_SECONDS
        return result._replace(watermark=watermark, to_end=all(mark == look.now for mark in marks))

    def _restart(self, key: str, before: Position, stream: Stream | None) -> Found:
        """The beginning of a stream that is new under its key, or not there yet; its group is made there."""
        if stream is None or stream.group is None:
            self._create(key, Position())
        return restarted(before, stream.first if stream else None)

    def _adapt(self, read: Read, limit: int) -> None:
        """How many entries to read next: few at first, then about READ_BYTES of what they are like."""
        rows = read.rows
        octets = sum(batch["payload"].nbytes for batch in (*read.messages, *read.bad))
        if not rows:
            return
        fitting = READ_BYTES * rows // (max(octets, 1) * len(self.streams))
        self._count = max(1, min(fitting, max(self._count, limit * _GROWTH)))

    def _look(self, positions: Positions, count: int) -> _Look:
        after = {key: position.last for key, position in positions.items()}
        with self.client.pipeline(transaction=True) as pipeline:
            pipeline.time()
            pipeline.execute_command("XREAD", "COUNT", count, "STREAMS", *after, *after.values())
            _ask(pipeline, after)
            (seconds, micros), reply, *states = pipeline.execute(raise_on_error=False)
        streams = self._streams(list(after), states)
        if isinstance(reply, Exception):
            raise reply
        return _Look(seconds * 1000 + micros // 1000, {key.decode(): entries for key, entries in reply or ()}, streams)

    def _states(self, keys: Sequence[str]) -> dict[str, Stream | None]:
        with self.client.pipeline(transaction=True) as pipeline:
            _ask(pipeline, keys)
            return self._streams(keys, pipeline.execute(raise_on_error=False))

    def _streams(self, keys: Sequence[str], replies: Sequence[Any]) -> dict[str, Stream | None]:
        return {key: self._stream(key, *both) for key, both in zip(keys, _pairs(replies))}

    def _stream(self, key: str, info: Any, groups: Any) -> Stream | None:
        if isinstance(info, Exception):
            if "no such key" in str(info):
                return None
            if "WRONGTYPE" in str(info):
                refuse_other_types(key, self.client.type(key))  # type: ignore[arg-type]
            raise info
        first = info["first-entry"]
        return Stream(
            info["entries-added"],
            info["length"],
            first and first[0].decode(),
            info["last-generated-id"].decode(),
            info["max-deleted-entry-id"].decode(),
            next((each["last-delivered-id"].decode() for each in groups if each["name"] == self.group.encode()), None),
        )

    def _starting(self, key: str, reread_ms: int) -> Position:
        stream = self._states([key])[key]
        if stream is None or stream.group is None:
            position = Position() if stream is None else Position(index=stream.removed, added=stream.added)
            self._create(key, position)
            return position
        group = next(each for each in self.client.xinfo_groups(key) if each["name"] == self.group.encode())
        delivered = group["last-delivered-id"].decode()
        pending = self.client.xpending(key, self.group)["min"]
        oldest = min(delivered, (pending or delivered.encode()).decode(), key=parsed)
        index, lag = group["entries-read"], group["lag"]
        if index is None and lag is not None and stream.first and not _is_older(delivered, stream.first):
            index = stream.added - lag
        return fresh_start(stream, index, delivered, oldest, reread_ms)

    def _create(self, key: str, position: Position) -> None:
        try:
            self.client.xgroup_create(key, self.group, position.last, mkstream=True, entries_read=position.index)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        _log.info("made the group %s of the stream %s at %s", self.group, key, position.last)


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


def _ask(pipeline: Any, keys: Sequence[str] | Mapping[str, str]) -> None:
    for key in keys:
        pipeline.xinfo_stream(key)
        pipeline.xinfo_groups(key)


def _pairs(replies: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(replies[::2], replies[1::2])


def _is_older(entry_id: str, than: str) -> bool:
    return parsed(entry_id) < parsed(than)
