"""Redis Streams -> messages: an unbounded source for Beam pipelines, usable on its own.

    streams = pipeline | ReadFromRedisStreams(Connection("redis://localhost:6379"), ["reports"], group="mine")
    streams.messages             # RecordBatches of the schema RAW: source, message_id, received_at, payload
    streams.bad                  # of the schema BAD: entries that have no field `data`
    streams.trimmed              # of the schema LOST: what left a stream before it was read, and how much
    streams.messages | AsDicts() # {"source", "message_id", "received_at", "data"}, one a message

A reader's position is part of the runner's checkpoint, so a restart goes on exactly where the checkpoint was. The group follows
behind: it is moved up to what two completed checkpoints hold (`transforms.sources.redis.commits`).
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from transforms.core import arrow_coder  # noqa: F401 (carries what leaves here)
from transforms.redis.connection import Connection, Lease
from transforms.redis.entry_ids import ZERO, parse_id
from transforms.sinks.archive.stream_archive import StreamArchive
from transforms.sources.redis.commits import Commits
from transforms.sources.redis.positions import Position
from transforms.sources.redis.reader import AHEAD_SECONDS, Positions, Read, Reader
from transforms.sources.redis.reader_status import Status

RENEW_SECONDS = 5.0
_PACE_SECONDS = 0.01
"""At least so long lies between two reads of what comes in one by one: each costs the graph as much as one of many rows."""
_MESSAGES, _BAD, _TRIMMED = "messages", "bad", "trimmed"


@dataclass(frozen=True)
class Session:
    """How a reader reads: it waits up to `idle_ms` for a first entry, reads on for `read_ms`, `count` entries of a stream at a time
    at most, and then hands its position to the runner. Entries cross a shuffle, and the watermark moves, only between sessions."""

    read_ms: int = 100
    idle_ms: int = 1000
    count: int = 5000


@dataclass(frozen=True)
class _Source:
    """All that a reader's process needs to know; one of these and a reader's number make one open reader in a process."""

    connection: Connection
    group: str
    session: Session
    lease_owner: str | None
    status: str | None
    reread_seconds: int
    hold_seconds: float
    archive: Path | None
    ahead_seconds: float


class ReadFromRedisStreams(beam.PTransform):
    """The root -> what some Redis streams hold and what comes in, for a group: `messages`, `bad` and `trimmed`.

    These are batches of RAW, of BAD and of LOST, each stamped with the time of its first row. The streams are dealt to `readers`,
    which read side by side where the runner has room. Without a checkpoint a new group begins at its stream's beginning, a used one
    `reread_seconds` before its place, since what came after may be in no output yet.

    With a `lease_owner` the readers renew the streams' Lease and raise GroupTaken where another owner holds it. `status`: a folder
    where reader n keeps a small `reader-<n>.json` of how far it is. `hold_seconds`: how long rows may be gathered downstream before
    they are written; a place is committed no earlier. `archive`: the folder in which WriteArchive keeps what is read. It is synced
    to disk before a place is committed, and what it may lack after a restart is read again from the committed place.
    `ahead_seconds`: ids of entries that are further ahead of the clock of Redis are counted and reported.
    """

    def __init__(
        self,
        connection: Connection,
        streams: Iterable[str],
        group: str,
        *,
        readers: int = 1,
        session: Session | None = None,
        lease_owner: str | None = None,
        status: str | None = None,
        reread_seconds: int = 7500,
        hold_seconds: float = 0.0,
        archive: Path | None = None,
        ahead_seconds: float = AHEAD_SECONDS,
    ) -> None:
        super().__init__()
        self.streams = tuple(dict.fromkeys(streams))
        self.readers = max(1, min(readers, len(self.streams)))
        session = session or Session()
        self.source = _Source(
            connection,
            group,
            session,
            lease_owner,
            status,
            reread_seconds,
            hold_seconds,
            archive,
            ahead_seconds,
        )

    def expand(self, root: beam.pvalue.PBegin) -> beam.pvalue.DoOutputsTuple:
        readers = [(number, self.streams[number :: self.readers]) for number in range(self.readers)]
        reading = beam.ParDo(_ReadStreams(self.source)).with_output_types(
            pa.RecordBatch, **{_BAD: pa.RecordBatch, _TRIMMED: pa.RecordBatch}
        )
        read = (
            root
            | "Readers" >> beam.Create(readers)
            | "Read" >> reading.with_outputs(_BAD, _TRIMMED, main=_MESSAGES)
        )
        for output in read:
            output.is_bounded = False  # Beam says so of the main output only
        return read


class AsDicts(beam.PTransform):
    """Batches of RAW -> a dict for each message: source, message_id, received_at (datetime or None) and data (bytes)."""

    def expand(self, messages: beam.PCollection) -> beam.PCollection:
        return messages | beam.FlatMap(as_dicts)


def as_dicts(messages: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of a RAW batch, each with its payload, without the newline, as `data`."""
    for row in messages.to_pylist():
        yield {name: row[name] for name in ("source", "message_id", "received_at")} | {
            "data": row["payload"][:-1]
        }


class PositionsTracker(RestrictionTracker):
    """A restriction that never ends: the positions so far. A split takes all that is left, which is what comes after them."""

    def __init__(self, positions: Positions) -> None:
        self.positions = dict(positions)
        self.split_off = False

    def current_restriction(self) -> dict[str, Position]:
        return self.positions

    def try_claim(self, position: Positions) -> bool:
        if not self.split_off:
            self.positions = dict(position)
        return not self.split_off

    def try_split(
        self, fraction_of_remainder: float
    ) -> tuple[dict[str, Position], dict[str, Position]] | None:
        if fraction_of_remainder or self.split_off:
            return None
        self.split_off = True
        return self.positions, self.positions

    def check_done(self) -> bool:
        return True

    def current_progress(self) -> RestrictionProgress:
        return RestrictionProgress(fraction=0.0)

    def is_bounded(self) -> bool:
        return False


class _PositionsCoder(beam.coders.Coder):
    """Positions as JSON, which any later version can read."""

    def encode(self, positions: Positions) -> bytes:
        return json.dumps({key: astuple(position) for key, position in positions.items()}).encode()

    def decode(self, encoded: bytes) -> dict[str, Position]:
        return {key: Position(*values) for key, values in json.loads(encoded).items()}

    def is_deterministic(self) -> bool:
        return True


class _Provider(RestrictionProvider):
    """Begins with no positions at all: the first session asks Redis for them."""

    def initial_restriction(self, element: object) -> dict[str, Position]:
        return {}

    def create_tracker(self, restriction: Positions) -> PositionsTracker:
        return PositionsTracker(restriction)

    def restriction_size(self, element: object, restriction: Positions) -> int:
        return 1

    def restriction_coder(self) -> beam.coders.Coder:
        return _PositionsCoder()


_POSITIONS = beam.DoFn.RestrictionParam(_Provider())
_WATERMARK = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())


class _Opened:
    """A reader of this process. Runners make a DoFn for each bundle that waits for its checkpoint; its Redis is opened once."""

    def __init__(self, source: _Source, number: int, streams: tuple[str, ...]) -> None:
        self.source = source
        self.client = source.connection.client()
        self.reader = Reader(self.client, source.group, streams, source.ahead_seconds)
        self.archive = StreamArchive(source.archive) if source.archive else None
        self.commits = Commits(self._commit, source.hold_seconds)
        self.status = Status(source.status, number)
        self.lease = source.lease_owner and Lease(
            source.connection, source.group, streams, source.lease_owner
        )
        self.renewed = -RENEW_SECONDS

    def begin(self, kept: dict[str, Position]) -> dict[str, Position]:
        """Where a session begins that was to go on from `kept`: earlier, where a checkpoint was restored and the archive may lack
        what that counts as read. Up to the committed place the archive is on disk, so it is never earlier than that."""
        positions = kept or self.reader.starting(self.source.reread_seconds * 1000)
        restored, archive = self.commits.begin(positions), self.archive
        if not (restored and kept and archive):
            return positions
        lacking = [
            key
            for key, position in kept.items()
            if position.last != ZERO and archive.may_lack(key, position.last)
        ]
        return kept | self.reader.back_to_committed({key: kept[key] for key in lacking})

    def _commit(self, positions: Positions) -> None:
        if self.archive:
            self.archive.sync(positions)
        self.reader.commit(positions)

    def read(self, positions: Positions, count: int, block_ms: int) -> Read:
        if self.lease and time.monotonic() - self.renewed >= RENEW_SECONDS:
            self.lease.renew(self.client)
            self.renewed = time.monotonic()
        return self.reader.read(positions, count, block_ms)


@cache
def _opened(source: _Source, number: int, streams: tuple[str, ...]) -> _Opened:
    return _Opened(source, number, streams)


def session_reads(
    read: Callable[[Positions, int, int], Read],
    positions: Positions,
    session: Session,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Read]:
    """The reads of one session from some positions: at least one, the last of them perhaps empty."""
    end = clock() + session.idle_ms / 1000
    begun = False
    while True:
        result = read(positions, session.count, max(0, ceil((end - clock()) * 1000)))
        came = clock()
        positions = result.positions
        if result.rows and not begun:
            begun, end = True, came + session.read_ms / 1000
        yield result
        if clock() >= end:
            return
        if result.rows and result.to_end:
            sleep(max(0.0, min(came + _PACE_SECONDS, end) - clock()))


class _ReadStreams(beam.DoFn):
    def __init__(self, source: _Source) -> None:
        self.source = source

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        reader: tuple[int, Sequence[str]],
        finalizer: Any = beam.DoFn.BundleFinalizerParam,  # Beam finds it only before the other two
        tracker: Any = _POSITIONS,
        estimator: Any = _WATERMARK,
    ) -> Iterator[Any]:
        number, streams = reader
        opened = _opened(self.source, number, tuple(streams))
        positions = opened.begin(tracker.current_restriction())
        for read in session_reads(opened.read, positions, self.source.session):
            if not tracker.try_claim(read.positions):
                opened.commits.leave(positions)
                return
            yield from _stamped(read)
            _advance(estimator, read.watermark)
            opened.status.tell(read, estimator.current_watermark())
            if is_read_again(positions, read.positions):
                opened.commits.begin(read.positions)  # what was called back before is of another history
            positions = read.positions
        if callback := opened.commits.end(positions):
            finalizer.register(callback)
        tracker.defer_remainder(Duration(0))


def is_read_again(before: Positions, after: Positions) -> bool:
    """Whether one of the streams is read again from an older place."""
    return any(parse_id(after[key].last) < parse_id(position.last) for key, position in before.items())


def _stamped(read: Read) -> Iterator[Any]:
    """The batches of a read under their tags, each at the time of its first row, at latest now."""
    for batch in read.messages:
        yield TimestampedValue(batch, _time(batch, read.now))
    for tag, some in ((_BAD, read.bad), (_TRIMMED, read.trimmed)):
        for batch in some:
            yield beam.pvalue.TaggedOutput(tag, TimestampedValue(batch, _time(batch, read.now)))


def _time(batch: pa.RecordBatch, now_ms: int) -> Timestamp:
    first = batch["received_at"][0].cast(pa.int64()).as_py()
    return Timestamp(micros=now_ms * 1000 if first is None else min(first, now_ms * 1000))


def _advance(estimator: Any, watermark_ms: int | None) -> None:
    """Move the watermark on, never back."""
    if watermark_ms is None:
        return
    watermark, before = Timestamp(micros=watermark_ms * 1000), estimator.current_watermark()
    if before is None or watermark > before:
        estimator.set_watermark(watermark)
