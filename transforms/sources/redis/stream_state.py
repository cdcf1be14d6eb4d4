"""What Redis says of one stream: the answers to XINFO STREAM, XINFO GROUPS and XRANGE as a `Stream`."""

from typing import Any

import redis

from transforms.redis.connection import refuse_other_types
from transforms.sources.redis.entries import digest_entry
from transforms.sources.redis.positions import Stream

NO_KEY = "no such key"
"""In the error of Redis for a key that does not exist."""


def read_stream(client: redis.Redis, key: str) -> Stream | None:
    """A stream now, without its group and mark; None if the key does not exist.

    Raises:
        redis.RedisError: Redis cannot be reached, or refuses.
    """
    try:
        info: Any = client.xinfo_stream(key)
    except redis.ResponseError as error:
        if NO_KEY in str(error):
            return None
        raise
    return parse_stream(info)


def parse_stream(info: Any, delivered: str | None = None, mark: str = "") -> Stream:
    """The answer to XINFO STREAM, with the last id that a group has delivered, and the mark of an entry."""
    first = info["first-entry"]
    return Stream(
        info["entries-added"],
        info["length"],
        first and first[0].decode(),
        info["last-generated-id"].decode(),
        info["max-deleted-entry-id"].decode(),
        delivered,
        mark,
    )


def parse_answers(
    client: redis.Redis, key: str, group: str, info: Any, groups: Any, entry: Any
) -> Stream | None:
    """The answers to XINFO STREAM, XINFO GROUPS and XRANGE of one entry; None if the key does not exist.

    Raises:
        RedisUnavailable: the key is not a stream.
        redis.RedisError: Redis refuses.
    """
    if isinstance(info, Exception):
        if NO_KEY in str(info):
            return None
        if "WRONGTYPE" in str(info):
            refuse_other_types(key, client.type(key))  # type: ignore[arg-type]
        raise info
    found = find_group(groups, group)
    delivered = None if found is None else found["last-delivered-id"].decode()
    return parse_stream(info, delivered, digest_entry(entry[0]) if entry else "")


def find_group(groups: Any, name: str) -> dict[str, Any] | None:
    """The group of a name in the answer to XINFO GROUPS; None if there is none."""
    return next((each for each in groups if each["name"] == name.encode()), None)
