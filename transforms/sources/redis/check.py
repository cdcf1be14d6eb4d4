"""Whether a job can read Redis streams as the user it is given: its commands are tried, and nothing is
changed."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis

from transforms.core.errors import Finding
from transforms.redis.connection import Connection
from transforms.redis.errors import MAKE_ROOM, RedisUnavailable
from transforms.redis.probe import NO_ID, find_problem, try_command
from transforms.redis.transactions import transact
from transforms.sources.redis.lease import RedisLease
from transforms.sources.source import NEARLY_FULL, GroupTaken

_LEASE_SECONDS = 5.0


def check_streams(connection: Connection, streams: Sequence[str], group: str) -> Iterator[Finding]:
    """Everything that a job needs of Redis, in the order in which it needs it. Only a lease is taken, and
    given back."""
    what = "Redis answers, and its version"
    try:
        connection.check(streams)
        yield Finding(what)
        with connection.client(patience=0) as client:
            what = "its role, memory and persistence"
            with connection.explain_errors():
                info: Any = client.info()
                absent = [stream for stream in streams if client.type(stream) == b"none"]
            yield from judge_server(info)
            if absent:
                fix = "correct the key if producers send to it already"
                yield Finding(f"not there yet: {', '.join(absent)}", "", fix)
            what = f"every command of a job is allowed on {', '.join(streams) or 'streams'}"
            with connection.explain_errors():
                _try_commands(client, streams, group)
            yield Finding(what)
            what = f"the lease of the group {group} can be taken and given back"
            with connection.explain_errors():
                _try_lease(connection, client, streams, group)
            yield Finding(what)
    except (RedisUnavailable, GroupTaken) as error:
        yield find_problem(what, error)


def verify_access(connection: Connection, streams: Sequence[str], group: str) -> None:
    """Try each command of a job before it starts, so that one that is not allowed ends it here and not once
    it runs.

    Raises:
        RedisUnavailable: Redis cannot be reached or used, or a command is not allowed.
    """
    connection.check(streams)
    with connection.client(patience=0) as client, connection.explain_errors():
        _try_commands(client, streams, group)


def judge_server(info: Mapping[str, Any]) -> Iterator[Finding]:
    """What the answer to INFO means for a job: role, memory, persistence. A `fix` without a problem is
    advice."""
    if info.get("role") in ("slave", "replica"):
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        yield Finding(
            "it is a primary", "it is a replica, and a job writes", f"give the URL of its primary, {primary}"
        )
    yield _judge_memory(info)
    if info.get("loading"):
        yield Finding("its data is loaded", "it is still loading", "try again when it has")
    for name in ("rdb_last_bgsave_status", "aof_last_write_status"):
        if info.get(name, "ok") != "ok":
            problem = f"{name} is {info[name]}, so it may refuse writes"
            yield Finding("it can save its data", problem, "look at its log and its disk")
    if info.get("aof_enabled"):
        yield Finding("it appends every entry to a file (AOF)")
    else:
        yield Finding(
            "AOF is off: a crash loses the entries since its last snapshot, if any", "", "set appendonly yes"
        )


def _judge_memory(info: Mapping[str, Any]) -> Finding:
    """Whether entries fit, and stay until they are read."""
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    policy = str(info.get("maxmemory_policy", "noeviction"))
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


def _try_commands(client: redis.Redis, streams: Sequence[str], group: str) -> None:
    """Try each command of a job.

    Raises:
        redis.RedisError: the first error that is not about an id that is none, or a key that does not exist.
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
            ("XGROUP CREATE", key, group, NO_ID),
            ("XGROUP SETID", key, group, NO_ID),
        ):
            try_command(client, *words)


def _try_lease(connection: Connection, client: redis.Redis, streams: Sequence[str], group: str) -> None:
    """Take the lease of the streams for a moment, and see that it keeps another job out.

    Raises:
        GroupTaken: a job has it.
        RedisUnavailable, redis.RedisError: Redis refuses.
    """
    owner, other = (f"doctor-{secrets.token_hex(4)}" for _ in range(2))
    lease = RedisLease(connection, group, streams, owner, _LEASE_SECONDS)
    lease.acquire()
    try:
        RedisLease(connection, group, streams, other, _LEASE_SECONDS).renew_by(client)
    except GroupTaken:
        return
    finally:
        lease.release_by(client)
