"""Redis streams as a source of kpiflow (`transforms.sources.source.LiveSource`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import redis

from transforms.core.errors import Finding, Refused
from transforms.redis.connection import Connection
from transforms.redis.entry_ids import parse_id
from transforms.redis.errors import MAKE_ROOM
from transforms.sources.redis.check import check_streams, verify_access
from transforms.sources.redis.lease import RedisLease
from transforms.sources.redis.read_streams import ReadFromRedisStreams
from transforms.sources.redis.session import Session
from transforms.sources.redis.snapshot import RedisSnapshot
from transforms.sources.redis.stream_state import read_stream
from transforms.sources.source import AHEAD_SECONDS, Memory, Reading, SourceState, StreamState

NO_EVICTION = "noeviction"


@dataclass(frozen=True)
class RedisStreams:
    """Streams of one Redis server, read for a group. The options are those of `ReadFromRedisStreams`."""

    connection: Connection
    streams: tuple[str, ...]
    group: str
    session: Session = field(default_factory=Session)
    readers: int = 1
    reread_seconds: int = 7500
    ahead_seconds: float = AHEAD_SECONDS

    @property
    def name(self) -> str:
        """The server's URL, without secrets."""
        return self.connection.public

    def check(self) -> Iterator[Finding]:
        """Test everything that a job needs; a lease is taken for a moment."""
        return check_streams(self.connection, self.streams, self.group)

    def verify_access(self) -> None:
        """Try each command of a job.

        Raises:
            RedisUnavailable: Redis cannot be reached or used, or a command is not allowed.
        """
        verify_access(self.connection, self.streams, self.group)

    def read(self, reading: Reading | None = None) -> ReadFromRedisStreams:
        """The transform that reads the streams."""
        return ReadFromRedisStreams(
            self.connection,
            self.streams,
            self.group,
            readers=self.readers,
            session=self.session,
            reread_seconds=self.reread_seconds,
            ahead_seconds=self.ahead_seconds,
            reading=reading,
        )

    @contextmanager
    def snapshot(self, gaps: pa.RecordBatch) -> Iterator[RedisSnapshot]:
        """What the streams contain now.

        Raises:
            RedisUnavailable: Redis cannot be reached, or a key is not a stream.
            Refused: a stream does not exist.
        """
        self.connection.check(self.streams)
        with self.connection.client() as client:
            snapshot = RedisSnapshot(self.connection, client, self.group, self.streams, gaps)
            if snapshot.missing:
                raise Refused(
                    f"there is no stream {', '.join(snapshot.missing)}; correct --stream, or the URL, which "
                    "ends in the number of a database; an output whose stream was deleted can only be "
                    "checked by itself"
                )
            yield snapshot

    def lease(self, owner: str) -> RedisLease:
        """The lease of the streams for an owner."""
        return RedisLease(self.connection, self.group, self.streams, owner)

    def read_state(self) -> SourceState:
        """What Redis says of the streams and of its memory.

        Raises:
            RedisUnavailable: it cannot be reached.
        """
        self.connection.check()
        with self.connection.client(patience=0) as client, self.connection.explain_errors():
            now: Any = client.time()
            found = {key: _read_state(client, key, now[0] + now[1] / 1e6) for key in self.streams}
            memory = _read_memory(client)
        streams = {key: state for key, state in found.items() if state is not None}
        return SourceState(streams, memory, tuple(_warn_of_memory(memory)))


def _read_state(client: redis.Redis, key: str, now: float) -> StreamState | None:
    try:
        stream = read_stream(client, key)
    except redis.ResponseError:  # the key is not a stream: the others have their state
        stream = None
    if stream is None:
        return None
    ahead = parse_id(stream.last)[0] / 1000 - now
    return StreamState(stream.added, max(0.0, round(ahead, 3)))


def _read_memory(client: redis.Redis) -> Memory:
    info: Any = client.info("memory")
    may_evict = info.get("maxmemory_policy", NO_EVICTION) != NO_EVICTION
    return Memory(info["used_memory"], 0 if may_evict else info["maxmemory"])


def _warn_of_memory(memory: Memory) -> Iterator[str]:
    if memory.is_full:
        used, most = memory.used / 1e6, memory.most / 1e6
        yield f"full, producers are refused: {used:,.1f} MB used of {most:,.1f} MB (maxmemory); {MAKE_ROOM}"
