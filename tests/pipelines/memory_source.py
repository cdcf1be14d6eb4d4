"""A live source in memory: what a new kind of source must bring, and nothing more. Tests register it in the
list of kinds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import TimestampedValue
from numpy.typing import NDArray

from pipelines.settings import Settings
from pipelines.sources import SourceRequest
from tests.builders import messages
from transforms.core import arrow_coder  # noqa: F401 (carries what leaves here)
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.sources.reader_status import ReaderReport, ReaderStatus, StreamPosition
from transforms.sources.source import (
    UNCOMMITTED,
    Gathered,
    GroupTaken,
    OnProgress,
    OnUnreadable,
    Reading,
    SourceState,
    StreamState,
)


@dataclass
class Server:
    """Messages by stream, each with its number; how many a group has committed; who has the lease."""

    streams: dict[str, list[tuple[int, datetime, object]]] = field(default_factory=dict)
    added: dict[str, int] = field(default_factory=dict)
    committed: dict[str, int] = field(default_factory=dict)
    owner: str | None = None
    is_down: bool = False

    def add(self, stream: str, document: object, received_at: datetime) -> None:
        """Append a message."""
        self.added[stream] = self.added.get(stream, 0) + 1
        self.streams.setdefault(stream, []).append((self.added[stream], received_at, document))


SERVERS: dict[str, Server] = {}
"""By the host of the URL."""


@dataclass(frozen=True)
class MemoryStreams:
    """Streams of a server in memory, read for a group (`transforms.sources.source.LiveSource`)."""

    name: str
    streams: tuple[str, ...]
    group: str

    @property
    def server(self) -> Server:
        """The server, which must be up."""
        server = SERVERS[self.name.removeprefix("memory://")]
        if server.is_down:
            raise Unavailable(f"{self.name} is down; start it")
        return server

    def check(self) -> Iterator[Finding]:
        try:
            self.verify_access()
            yield Finding("it answers")
        except Unavailable as error:
            yield Finding.of("it answers", error)

    def verify_access(self) -> None:
        assert self.server

    def read(self, reading: Reading | None = None) -> "ReadMemory":
        return ReadMemory(self, reading or Reading())

    @contextmanager
    def snapshot(self, gaps: pa.RecordBatch) -> Iterator["MemorySnapshot"]:
        if missing := [stream for stream in self.streams if stream not in self.server.streams]:
            raise Refused(f"there is no stream {missing}")
        yield MemorySnapshot(self)

    def lease(self, owner: str) -> "MemoryLease":
        return MemoryLease(self, owner)

    def read_state(self) -> SourceState:
        return SourceState({key: StreamState(self.server.added[key], 0.0) for key in self.streams})


@dataclass(frozen=True)
class MemoryLease:
    """The lease of all streams of a server."""

    source: MemoryStreams
    owner: str
    seconds: float = 30.0

    def acquire(self) -> None:
        server = self.source.server
        if server.owner not in (None, self.owner):
            raise GroupTaken(f"{self.source.name} is read by {server.owner}; stop it")
        server.owner = self.owner

    def renew(self) -> None:
        self.acquire()

    def release(self) -> None:
        self.source.server.owner = None


@dataclass(frozen=True)
class MemorySnapshot:
    """What the streams contain."""

    source: MemoryStreams
    can_lose = True

    @property
    def size(self) -> int:
        return sum(len(self.source.server.streams[key]) for key in self.source.streams)

    def messages(self, on_progress: OnProgress, on_unreadable: OnUnreadable) -> Iterator[pa.RecordBatch]:
        for key in self.source.streams:
            numbers = [number for number, _, _ in self.source.server.streams[key]]
            committed = self.source.server.committed.get(key, 0)
            late = [number > committed for number in numbers]
            columns = [
                pa.array([key] * len(numbers), pa.string()),
                pa.array(map(str, numbers)),
                pa.array(late),
            ]
            yield pa.RecordBatch.from_arrays(columns, names=["source", "message_id", UNCOMMITTED])
            on_progress(len(numbers))

    def payloads(self) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError

    def has_left(self, messages: pa.RecordBatch) -> NDArray[np.bool_]:
        first = {key: self.source.server.streams[key][0][0] for key in self.source.streams}
        rows = zip(messages["source"].to_pylist(), messages["message_id"].to_pylist())
        return np.array([key in first and int(number) < first[key] for key, number in rows], np.bool_)


class ReadMemory(beam.PTransform):
    """The root -> what the streams contain now, and then their end, which is what a test needs."""

    def __init__(self, source: MemoryStreams, reading: Reading) -> None:
        super().__init__()
        self.source, self.reading = source, reading

    def expand(self, root: beam.pvalue.PBegin) -> Gathered:
        read = beam.ParDo(_Read(self.source, self.reading)).with_output_types(pa.RecordBatch)
        messages = root | "Streams" >> beam.Create([self.source.streams]) | "Read" >> read
        return Gathered(messages, _no_rows(root, "Rejected"), _no_rows(root, "Gaps"))


class _Read(beam.DoFn):
    def __init__(self, source: MemoryStreams, reading: Reading) -> None:
        self.source, self.reading = source, reading

    def process(self, streams: Sequence[str]) -> Iterator[TimestampedValue]:
        status, server = ReaderStatus(self.reading.status, 0), self.source.server
        places, rows, newest = {}, 0, datetime(1970, 1, 1, tzinfo=UTC)
        for key in streams:
            for number, received_at, document in server.streams[key]:
                yield TimestampedValue(
                    _as_message(key, number, document, received_at), received_at.timestamp()
                )
                newest = max(newest, received_at)
                rows += 1
            last = server.streams[key][-1][0]
            places[key] = StreamPosition(str(last), last, server.added[key])
            server.committed[key] = last
        millis = int(newest.timestamp() * 1000)
        status.report(ReaderReport(places, rows, millis, millis), millis)


def _as_message(key: str, number: int, document: object, received_at: datetime) -> pa.RecordBatch:
    message = messages([document], received_at)
    columns = {"source": pa.array([key]), "message_id": pa.array([str(number)])}
    return pa.RecordBatch.from_arrays(
        [columns.get(name, message[name]) for name in message.schema.names], schema=message.schema
    )


def _no_rows(root: beam.pvalue.PBegin, name: str) -> beam.PCollection:
    return root | name >> beam.Create([], reshuffle=False).with_output_types(pa.RecordBatch)


def make(request: SourceRequest, settings: Settings) -> MemoryStreams:
    """What a line of the list of kinds calls."""
    return MemoryStreams(request.urls[0], request.streams, request.group)
