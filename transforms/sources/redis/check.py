"""Whether a streaming job can use a Redis server as the user it is given: its commands are tried, and nothing is changed."""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis
from redis.exceptions import OutOfMemoryError

from transforms.core.errors import Finding
from transforms.redis.connection import MAKE_ROOM, Connection, GroupTaken, Lease, RedisUnavailable, transact

NEARLY_FULL = 0.9
"""The part of maxmemory from which on producers are refused soon."""
_LEASE_SECONDS = 5.0
_NO_ID = "no-id"
_HARMLESS = (
    "no such key",
    "NOGROUP",
    "Invalid stream ID",
    "requires the key to exist",
    "must be greater than 0-0",
)
"""Parts of the errors that the probes provoke. Another harmless one is that memory is full: reading goes on."""


def check(
    connection: Connection, streams: Sequence[str], group: str, live: Sequence[str] = ()
) -> Iterator[Finding]:
    """Everything that a job needs of Redis, in the order in which it needs it. Only a lease is taken, and given back.

    `live` are the streams that it publishes to.
    """
    what = "Redis answers, and its version"
    try:
        connection.check((*streams, *live))
        yield Finding(what)
        with connection.client(patience=0) as client:
            what = "its role, memory and persistence"
            with connection.explained():
                said = client.info()
                absent = [stream for stream in streams if client.type(stream) == b"none"]
            yield from server_findings(said)
            if absent:
                yield Finding(
                    f"not there yet: {', '.join(absent)}",
                    "",
                    "correct the key if producers send to it already",
                )
            what = f"every command of a job is allowed on {', '.join((*streams, *live)) or 'streams'}"
            with connection.explained():
                _try(client, streams, group, live)
            yield Finding(what)
            what = f"the right to read for the group {group} can be taken and given back"
            with connection.explained():
                _take(connection, client, streams, group)
            yield Finding(what)
    except (RedisUnavailable, GroupTaken) as error:
        yield Finding(what, *_split(str(error)))


def refuse_unusable(
    connection: Connection, streams: Sequence[str], group: str, live: Sequence[str] = ()
) -> None:
    """What a job does before it starts: a command that it may not use ends it here, not once it runs.

    Raises:
        RedisUnavailable: Redis cannot be reached or used, or a command is not allowed.
    """
    connection.check((*streams, *live))
    with connection.client(patience=0) as client, connection.explained():
        _try(client, streams, group, live)


def server_findings(said: Mapping[str, Any]) -> Iterator[Finding]:
    """What the answer to INFO means for a job: role, memory, persistence. A `fix` without a problem is advice."""
    if said.get("role") in ("slave", "replica"):
        primary = f"{said.get('master_host')}:{said.get('master_port')}"
        yield Finding(
            "it is a primary", "it is a replica, and a job writes", f"give the URL of its primary, {primary}"
        )
    yield _memory(said)
    if said.get("loading"):
        yield Finding("its data is loaded", "it is still loading", "try again when it has")
    for name in ("rdb_last_bgsave_status", "aof_last_write_status"):
        if said.get(name, "ok") != "ok":
            problem = f"{name} is {said[name]}, so it may refuse writes"
            yield Finding("it can save its data", problem, "look at its log and its disk")
    if said.get("aof_enabled"):
        yield Finding("it appends every entry to a file (AOF)")
    else:
        yield Finding(
            "AOF is off: a crash loses the entries since its last snapshot, if any", "", "set appendonly yes"
        )


def _memory(said: Mapping[str, Any]) -> Finding:
    """Whether entries fit, and stay until they are read."""
    most, used = int(said.get("maxmemory", 0)), int(said.get("used_memory", 0))
    policy = str(said.get("maxmemory_policy", "noeviction"))
    limit = f"at most {most / 1e6:,.0f} MB, {policy}" if most else "no maxmemory"
    what = f"its memory: {used / 1e6:,.0f} MB used, {limit}"
    if most and policy.startswith("allkeys"):
        return Finding(
            what,
            "when memory is full it deletes whole streams, read or not",
            "set maxmemory-policy noeviction",
        )
    if most and used >= NEARLY_FULL * most:
        soon = " soon" if used < most else ""
        full = f"{100 * used / most:.0f} % of maxmemory are used: producers cannot add entries{soon}"
        return Finding(what, full, MAKE_ROOM)
    return Finding(what)


def _try(client: redis.Redis, streams: Sequence[str], group: str, live: Sequence[str]) -> None:
    """Try each command of a job so that it changes nothing: with ids that are none, or on what need not be there.

    Raises:
        redis.RedisError: the first error that is not about such an id.
    """
    client.ping()
    client.time()
    probe = f"kpiflow:{{{group}}}:probe"
    commands = (("SET", probe, "", "PX", 1), ("GET", probe), ("PTTL", probe), ("DEL", probe))
    for reply in transact(client, [probe], commands):
        if isinstance(reply, Exception):
            raise reply
    if streams:  # together, as the job reads them: a Redis Cluster must have them in one slot
        client.execute_command("XREAD", "COUNT", 1, "STREAMS", *streams, *("$" for _ in streams))
    for key in streams:
        for words in (
            ("XINFO STREAM", key),
            ("XINFO GROUPS", key),
            ("XPENDING", key, group),
            ("XRANGE", key, "0-0", "0-0"),
            ("EVAL", "#!lua flags=no-writes\nreturn 0", "1", key),
            ("XGROUP CREATE", key, group, _NO_ID),
            ("XGROUP SETID", key, group, _NO_ID),
        ):
            _allowed(client, *words)
    for key in live:
        _allowed(client, "XADD", key, "NOMKSTREAM", "0-0", "probe", "probe")


def _allowed(client: Any, *words: str) -> None:
    try:
        client.execute_command(*words)
    except redis.ResponseError as error:
        if not isinstance(error, OutOfMemoryError) and not any(part in str(error) for part in _HARMLESS):
            raise


def _take(connection: Connection, client: redis.Redis, streams: Sequence[str], group: str) -> None:
    """Take the lease of the streams for a moment, and see that it keeps another job out.

    Raises:
        GroupTaken: a job has it.
        RedisUnavailable, redis.RedisError: Redis refuses.
    """
    owner, other = (f"doctor-{secrets.token_hex(4)}" for _ in range(2))
    lease = Lease(connection, group, streams, owner, _LEASE_SECONDS)
    lease.acquire()
    try:
        Lease(connection, group, streams, other, _LEASE_SECONDS).renew(client)
    except GroupTaken:
        return
    finally:
        lease.release(client)


def _split(message: str) -> tuple[str, str]:
    """A message as its cause and what to do, which follows the first semicolon that is in no brackets."""
    cause, *fix = re.split(r"; (?![^(]*\))", message, maxsplit=1)
    return cause, "".join(fix)
