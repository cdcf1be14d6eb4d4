"""Who may read a group's streams: a key for each stream, `kpiflow:{GROUP}:STREAM:owner`, that expires unless
it is renewed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from transforms.redis.connection import Connection
from transforms.sources.source import GroupTaken

_RENEWAL_TIMEOUT_SECONDS = 2.0

# May run while Redis is over maxmemory, and runs as a whole at one moment.
_IF_OURS = """#!lua flags=allow-oom
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return owner end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return false
"""


@dataclass(frozen=True)
class RedisLease:
    """The lease of some streams for a group (`transforms.sources.source.Lease`).

    `owner` names a job, not a process: the same job takes over from its dead predecessor at once.
    """

    connection: Connection
    group: str
    streams: Sequence[str]
    owner: str
    seconds: float = 30

    def acquire(self) -> None:
        """Take the streams, all or none.

        Raises:
            GroupTaken: another owner has one of them.
            RedisUnavailable: Redis refuses, or cannot be reached.
        """
        with self.connection.client() as client:
            try:
                with self.connection.explain_errors():
                    self.renew_by(client)
            except GroupTaken:
                self.release_by(client)
                raise

    def renew(self) -> None:
        """Keep the streams for `seconds` more: one short attempt on a connection of its own.

        Raises: as `acquire` does.
        """
        quick = replace(self.connection, timeout=_RENEWAL_TIMEOUT_SECONDS)
        with quick.client(patience=0) as client, quick.explain_errors():
            self.renew_by(client)

    def renew_by(self, client: redis.Redis) -> None:
        """The same on a given connection. A lease that has run out is taken again if nobody else has it.

        Raises:
            GroupTaken: another owner has one of the streams now.
            redis.RedisError: Redis refuses, or cannot be reached.
        """
        for stream in self.streams:
            if (other := self._set_if_ours(client, stream, int(self.seconds * 1000))) is not None:
                left = max(0, int(client.pttl(self._key(stream)))) / 1000
                raise GroupTaken(
                    f"the stream {stream!r} is being read for the group {self.group!r} by another job "
                    f"({other}; its lease lasts {left:.0f} s more); "
                    "stop that job and wait, or use another --group"
                )

    def release(self) -> None:
        """Give back the streams that are ours.

        Raises:
            RedisUnavailable: Redis cannot be reached.
        """
        with self.connection.client(patience=1) as client, self.connection.explain_errors():
            self.release_by(client)

    def release_by(self, client: redis.Redis) -> None:
        """The same on a given connection."""
        for stream in self.streams:
            self._set_if_ours(client, stream, 0)

    def _key(self, stream: str) -> str:
        return f"kpiflow:{{{self.group}}}:{stream}:owner"

    def _set_if_ours(self, client: redis.Redis, stream: str, milliseconds: int) -> str | None:
        """Keep a stream's key for some time (0: delete it) unless another owner has it, whose name is
        returned."""
        other: Any = client.eval(_IF_OURS, 1, self._key(stream), self.owner, milliseconds)
        return None if other is None else str(other.decode(errors="replace"))
