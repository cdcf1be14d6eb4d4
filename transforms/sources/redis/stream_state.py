"""What Redis says of some streams at one moment, and what kpiflow keeps there of a group: how far it has committed them.

Every answer is of one moment (MULTI, or a script where the memory of Redis is full), so that entries and counts agree.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

import redis

from transforms.redis.connection import refuse_other_types, transact, write
from transforms.sources.redis.entries import Entry, digest
from transforms.sources.redis.positions import Position, Stream

_log = logging.getLogger(__name__)


class Look(NamedTuple):
    """Streams at one moment: the server's time (ms), the entries after the positions, what Redis says of each (None: no key)."""

    now: int
    entries: dict[str, list[Entry]]
    streams: dict[str, Stream | None]


class Place(NamedTuple):
    """Where a group is: its last delivered id, its oldest pending one, and how many entries it has read (None: unknown)."""

    delivered: str
    pending: str | None
    read: int | None
    lag: int | None


class Looker:
    """Asks a Redis server about streams, for a group."""

    def __init__(self, client: redis.Redis, group: str) -> None:
        self.client, self.group = client, group
        for name in ("XREAD", "XRANGE"):  # dicts of fields would cost more than the read
            client.set_response_callback(name, lambda reply, **_: reply)

    def look(self, positions: Mapping[str, Position], count: int) -> Look:
        """At most `count` entries of each stream after its position, and the streams, marked where the positions are.

        Raises:
            RedisUnavailable: a key holds no stream.
            redis.RedisError: Redis cannot be reached for longer than the client is patient, or refuses.
        """
        after = {key: position.last for key, position in positions.items()}
        read = ("XREAD", "COUNT", count, "STREAMS", *after, *after.values())
        (seconds, micros), reply, *states = transact(
            self.client, list(after), [("TIME",), read, *_questions(after)]
        )
        streams = self._streams(list(after), states)
        if isinstance(reply, Exception):
            raise reply
        return Look(
            seconds * 1000 + micros // 1000, {key.decode(): entries for key, entries in reply or ()}, streams
        )

    def streams(self, last: Mapping[str, str]) -> dict[str, Stream | None]:
        """The streams, each marked where it has an entry of the id given with it.

        Raises: as `look` does.
        """
        return self._streams(list(last), transact(self.client, list(last), _questions(last)))

    def place(self, key: str) -> Place:
        """Where the group of a stream is, which both exist."""
        groups: Any = self.client.xinfo_groups(key)
        group = next(each for each in groups if each["name"] == self.group.encode())
        pending = self.client.xpending(key, self.group)["min"]
        return Place(
            group["last-delivered-id"].decode(),
            pending and pending.decode(),
            group["entries-read"],
            group["lag"],
        )

    def committed(self, keys: Sequence[str]) -> dict[str, Position]:
        """The positions that were kept for these streams; not those of streams that have none."""
        kept = {key: self.client.get(committed_key(self.group, key)) for key in keys}
        return {key: decoded(text) for key, text in kept.items() if text is not None}  # type: ignore[arg-type]

    def keep(self, key: str, position: Position) -> None:
        """Keep a position as committed, where no consumer of the group can move it."""
        kept = committed_key(self.group, key)
        write(self.client, kept, "SET", kept, encoded(position))

    def create_group(self, key: str, position: Position) -> None:
        """Make the group at a position, unless it is there, and the stream too where that is missing."""
        at = (position.last, "MKSTREAM", *_entries_read(position))
        try:
            write(self.client, key, "XGROUP CREATE", key, self.group, *at)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        _log.info("made the group %s of the stream %s at %s", self.group, key, position.last)

    def move_group(self, key: str, position: Position) -> None:
        """Move the group to a position."""
        write(self.client, key, "XGROUP SETID", key, self.group, position.last, *_entries_read(position))

    def _streams(self, keys: Sequence[str], replies: Sequence[Any]) -> dict[str, Stream | None]:
        return {key: self._stream(key, *replies[3 * n : 3 * n + 3]) for n, key in enumerate(keys)}

    def _stream(self, key: str, info: Any, groups: Any, there: Any) -> Stream | None:
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
            next(
                (
                    each["last-delivered-id"].decode()
                    for each in groups
                    if each["name"] == self.group.encode()
                ),
                None,
            ),
            digest(there[0]) if there else "",
        )


def committed_key(group: str, stream: str) -> str:
    """The key that holds what a group has committed of a stream."""
    return f"kpiflow:{{{group}}}:{stream}:committed"


def encoded(position: Position) -> bytes:
    """A position as JSON, which any later version can read."""
    return json.dumps(astuple(position)).encode()


def decoded(text: bytes) -> Position:
    """The position that `encoded` wrote."""
    return Position(*json.loads(text))


def _entries_read(position: Position) -> tuple[Any, ...]:
    return () if position.index is None else ("ENTRIESREAD", position.index)


def _questions(last: Mapping[str, str]) -> Iterable[tuple[Any, ...]]:
    for key, entry_id in last.items():
        yield "XINFO STREAM", key
        yield "XINFO GROUPS", key
        yield "XRANGE", key, entry_id, entry_id
