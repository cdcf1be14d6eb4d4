"""What Redis streams hold at a moment: their entries from an id to another, without a group and without waiting. Free of Beam."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import redis

from transforms.redis.entry_ids import ZERO, parse_id
from transforms.sources.redis.entries import Entry
from transforms.sources.redis.stream_state import committed_key, decoded

READ_BYTES = 8 << 20
"""About as many bytes of entries are read at a time."""
_FIRST_COUNT, _MOST, _GROWTH = 256, 20_000, 4


class Held(NamedTuple):
    """A stream at a moment: how many entries it holds, the first id (None: it is empty), the last id it ever had, and the newest
    id that was deleted out of turn."""

    length: int
    first: str | None
    last: str
    max_deleted: str


def look(client: redis.Redis, stream: str) -> Held | None:
    """What a stream holds; None where there is no such key."""
    try:
        info: Any = client.xinfo_stream(stream)
    except redis.ResponseError as error:
        if "no such key" in str(error):
            return None
        raise
    first = info["first-entry"]
    last, deleted = info["last-generated-id"].decode(), info["max-deleted-entry-id"].decode()
    return Held(info["length"], first and first[0].decode(), last, deleted)


def committed(client: redis.Redis, stream: str, group: str) -> str | None:
    """The last id that a group has committed of a stream: what its reader has kept, which no other client moves, or else the last
    that the group has delivered. None where there is no such group."""
    kept: Any = client.get(committed_key(group, stream))
    if kept is not None:
        return decoded(kept).last
    groups: Any = client.xinfo_groups(stream)
    return next(
        (each["last-delivered-id"].decode() for each in groups if each["name"] == group.encode()), None
    )


def lacks(client: redis.Redis, stream: str, held: Held, after: str) -> bool:
    """Whether a stream lacks an entry that it had, although neither trimming nor deletion explains it: it is in an older state, or
    another one, and may have got entries with older ids since."""
    limit = parse_id(after)
    if (
        after == ZERO
        or held.first is None
        or parse_id(held.first) > limit
        or limit <= parse_id(held.max_deleted)
    ):
        return False
    return not client.xrange(stream, after, after)


def entries(client: redis.Redis, stream: str, last: str, after: str = ZERO) -> Iterator[list[Entry]]:
    """The entries with ids after one and up to another, in order, some at a time."""
    client.set_response_callback(
        "XRANGE", lambda reply, **_: reply
    )  # dicts of fields would cost more than the read
    count = _FIRST_COUNT
    while found := _range(client, stream, after, last, count):
        yield found
        after = found[-1][0].decode()
        octets = sum(len(part) for _, fields in found for part in fields)
        count = max(1, min(_MOST, count * _GROWTH, READ_BYTES * len(found) // max(octets, 1)))


def _range(client: Any, stream: str, after: str, last: str, count: int) -> list[Entry]:
    found: list[Entry] = client.xrange(stream, f"({after}", last, count)
    return found
