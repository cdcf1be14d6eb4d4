"""A consumer group of Redis streams as kpiflow uses it: not to read by, but to keep a committed offset that
operators see.

The committed position itself is in a key of kpiflow's own, `kpiflow:{GROUP}:STREAM:committed`, which no
consumer of the group can move. All answers of one call are of one moment (MULTI, or a script where the memory
of Redis is full), so that entries and counts agree.

This module says how an offset is committed, `commits` when, `offsets` what.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from typing import Any, NamedTuple

import redis

from transforms.core.errors import Refused
from transforms.core.events import GROUP_MADE, log_event
from transforms.core.typed_json import convert, parse_json
from transforms.redis.transactions import transact, write_small
from transforms.sources.redis.entries import Entry
from transforms.sources.redis.positions import Position, Stream
from transforms.sources.redis.stream_state import find_group, parse_answers


class Moment(NamedTuple):
    """Streams at one moment: the server's time (ms), the entries after the positions, and each stream (None:
    no key)."""

    now: int
    entries: dict[str, list[Entry]]
    streams: dict[str, Stream | None]


class GroupPlace(NamedTuple):
    """Where a group is: its last delivered id, its oldest pending one, its lag, and how many entries it has
    read.

    The last two are None where Redis cannot tell.
    """

    delivered: str
    pending: str | None
    read: int | None
    lag: int | None


class Group:
    """A group of some streams of a Redis server."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self.client, self.name = client, name
        for command in ("XREAD", "XRANGE"):  # dicts of fields would cost more than the read
            client.set_response_callback(command, lambda reply, **_: reply)

    def read(self, positions: Mapping[str, Position], count: int) -> Moment:
        """At most `count` entries of each stream after its position, and the streams, marked where the
        positions are.

        Raises:
            RedisUnavailable: a key is not a stream.
            redis.RedisError: Redis cannot be reached for longer than the client is patient, or refuses.
        """
        after = {key: position.last for key, position in positions.items()}
        read = ("XREAD", "COUNT", count, "STREAMS", *after, *after.values())
        questions = [("TIME",), read, *_questions(after)]
        (seconds, micros), reply, *answers = transact(self.client, list(after), questions)
        streams = self._parse(list(after), answers)
        if isinstance(reply, Exception):
            raise reply
        entries = {key.decode(): entries for key, entries in reply or ()}
        return Moment(seconds * 1000 + micros // 1000, entries, streams)

    def wait(self, positions: Mapping[str, Position], block_ms: int) -> None:
        """Wait until a stream has an entry after its position, at most `block_ms`."""
        after = {key: position.last for key, position in positions.items()}
        words = ("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", *after, *after.values())
        self.client.execute_command(*words)

    def read_streams(self, last: Mapping[str, str]) -> dict[str, Stream | None]:
        """The streams, each marked where it has an entry of the id given with it.

        Raises: as `read` does.
        """
        return self._parse(list(last), transact(self.client, list(last), _questions(last)))

    def read_delivery(self, key: str) -> GroupPlace:
        """Where the group of a stream is, which both exist."""
        group: Any = find_group(self.client.xinfo_groups(key), self.name)
        pending: Any = self.client.xpending(key, self.name)["min"]
        delivered = group["last-delivered-id"].decode()
        return GroupPlace(delivered, pending and pending.decode(), group["entries-read"], group["lag"])

    def read_committed(self, keys: Iterable[str]) -> dict[str, Position]:
        """The committed positions of these streams; those that have none are left out."""
        found = {key: self._read_committed(key) for key in keys}
        return {key: position for key, position in found.items() if position is not None}

    def last_committed(self, key: str) -> str | None:
        """The id of the committed position; without one, the last that the group has delivered; without a
        group, None."""
        if (position := self._read_committed(key)) is not None:
            return position.last
        group = find_group(self.client.xinfo_groups(key), self.name)
        return None if group is None else group["last-delivered-id"].decode()

    def keep_committed(self, key: str, position: Position) -> None:
        """Keep a position as committed."""
        kept = committed_key(self.name, key)
        write_small(self.client, kept, "SET", kept, encode(position))

    def create(self, key: str, position: Position) -> None:
        """Make the group at a position unless it exists, and the stream too where that is missing."""
        at = (position.last, "MKSTREAM", *_entries_read(position))
        try:
            write_small(self.client, key, "XGROUP CREATE", key, self.name, *at)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        log_event(GROUP_MADE, group=self.name, source=key, position=position.last)

    def _read_committed(self, key: str) -> Position | None:
        name = committed_key(self.name, key)
        kept: Any = self.client.get(name)
        try:
            return None if kept is None else decode(kept)
        except ValueError as error:
            problem = f"the key {name} of Redis is not a position that kpiflow committed ({error})"
            raise Refused(f"{problem}; delete it: the group's own offset counts then") from error

    def move(self, key: str, position: Position) -> None:
        """Move the group to a position."""
        at = (position.last, *_entries_read(position))
        write_small(self.client, key, "XGROUP SETID", key, self.name, *at)

    def _parse(self, keys: Sequence[str], answers: Sequence[Any]) -> dict[str, Stream | None]:
        return {
            key: parse_answers(self.client, key, self.name, *answers[3 * number : 3 * number + 3])
            for number, key in enumerate(keys)
        }


def committed_key(group: str, stream: str) -> str:
    """The key that holds what a group has committed of a stream."""
    return f"kpiflow:{{{group}}}:{stream}:committed"


def encode(position: Position) -> bytes:
    """A position as JSON, which any later version can read."""
    return json.dumps(astuple(position)).encode()


def decode(text: bytes) -> Position:
    """The position that `encode` wrote, also in an earlier version, which had fewer fields.

    Raises:
        ValueError: the text is not a position.
    """
    return parse_position(parse_json(text, list[Any]))


def parse_position(values: Sequence[Any]) -> Position:
    """The position of some fields in their order.

    Raises:
        ValueError: one has another type.
    """
    return convert({each.name: value for each, value in zip(fields(Position), values)}, Position)


def _entries_read(position: Position) -> tuple[Any, ...]:
    return () if position.index is None else ("ENTRIESREAD", position.index)


def _questions(last: Mapping[str, str]) -> Iterable[tuple[Any, ...]]:
    for key, entry_id in last.items():
        yield "XINFO STREAM", key
        yield "XINFO GROUPS", key
        yield "XRANGE", key, entry_id, entry_id
