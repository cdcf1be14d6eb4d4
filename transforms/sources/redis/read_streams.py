"""Redis Streams -> messages: an unbounded source for Beam pipelines, usable on its own.

    streams = pipeline | ReadFromRedisStreams(Connection("redis://localhost:6379"), ["reports"], group="mine")
    streams.messages             # RecordBatches of the schema RAW: source, message_id, received_at, payload
    streams.rejected             # of the schema REJECTED: entries that have no field `data`
    streams.gaps                 # of the schema LOST: what left a stream before it was read, and how much
    streams.messages | AsDicts() # {"source", "message_id", "received_at", "data"}, one a message

A reader's position is part of the runner's checkpoint, so a restart continues exactly at the checkpoint.
The group follows
behind: it is moved up to what two completed checkpoints contain (`transforms.sources.redis.commits`).
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from transforms.core import arrow_coder  # noqa: F401 (carries what leaves here)
from transforms.redis.connection import Connection
from transforms.redis.entry_ids import ZERO, parse_id
from transforms.sources.reader_status import ReaderReport, ReaderStatus, StreamPosition
from transforms.sources.redis.checkpointed_positions import PositionsProvider
from transforms.sources.redis.commits import Commits
from transforms.sources.redis.lease import RedisLease
from transforms.sources.redis.offsets import Positions
from transforms.sources.redis.positions import Position
from transforms.sources.redis.reader import ReadEntries, Reader
from transforms.sources.redis.session import Session, read_session
from transforms.sources.source import AHEAD_SECONDS, Gathered, Reading

RENEW_SECONDS = 5.0
_MESSAGES, _REJECTED, _GAPS = "messages", "rejected", "gaps"


@dataclass(frozen=True)
class _Options:
    """All that a reader's process needs to know; one of these and a reader's number make one open reader in a
    process."""

    connection: Connection
    group: str
    session: Session
    reread_seconds: int
    ahead_seconds: float
    reading: Reading


class ReadFromRedisStreams(beam.PTransform):
    """The root -> what some Redis streams contain and what comes in, for a group: `messages`, `rejected` and
    `gaps`.

    These are batches of RAW, of REJECTED and of LOST, each stamped with the time of its first row. The
    streams are dealt to `readers`, which read side by side where the runner has room. Without a checkpoint a
    new group begins at its stream's beginning, a used one `reread_seconds` before its committed offset, since
    what came after may be in no output yet.

    `reading` says how a job has them read (`transforms.sources.source.Reading`). With an owner the readers
    renew the lease and raise GroupTaken where another owner has it. An archive is synced to disk before an
    offset is committed, and what it may lack after a restart is read again from the committed offset.
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
        reread_seconds: int = 7500,
        ahead_seconds: float = AHEAD_SECONDS,
        reading: Reading | None = None,
    ) -> None:
        super().__init__()
        self.streams = tuple(dict.fromkeys(streams))
        self.readers = max(1, min(readers, len(self.streams)))
        self.options = _Options(
            connection, group, session or Session(), reread_seconds, ahead_seconds, reading or Reading()
        )

    def expand(self, root: beam.pvalue.PBegin) -> Gathered:
        readers = [(number, self.streams[number :: self.readers]) for number in range(self.readers)]
        reading = beam.ParDo(_ReadStreams(self.options)).with_output_types(
            pa.RecordBatch, **{_REJECTED: pa.RecordBatch, _GAPS: pa.RecordBatch}
        )
        read = (
            root
            | "Readers" >> beam.Create(readers)
            | "Read" >> reading.with_outputs(_REJECTED, _GAPS, main=_MESSAGES)
        )
        for output in read:
            output.is_bounded = False  # Beam says so of the main output only
        return Gathered(read[_MESSAGES], read[_REJECTED], read[_GAPS])


class AsDicts(beam.PTransform):
    """Batches of RAW -> a dict for each message: source, message_id, received_at (datetime or None) and data
    (bytes)."""

    def expand(self, messages: beam.PCollection) -> beam.PCollection:
        return messages | beam.FlatMap(as_dicts)


def as_dicts(messages: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of a RAW batch, each with its payload, without the newline, as `data`."""
    for row in messages.to_pylist():
        names = ("source", "message_id", "received_at")
        yield {name: row[name] for name in names} | {"data": row["payload"][:-1]}


class _OpenReader:
    """A reader of this process. Runners make a DoFn for each bundle that waits for its checkpoint; its Redis
    is opened once."""

    def __init__(self, options: _Options, number: int, streams: tuple[str, ...]) -> None:
        self.options, reading = options, options.reading
        self.archive = reading.archive
        self.client = options.connection.client()
        self.reader = Reader(self.client, options.group, streams, options.ahead_seconds)
        self.commits = Commits(self._commit, reading.hold_seconds)
        self.status = ReaderStatus(reading.status, number)
        self.lease = reading.owner and RedisLease(options.connection, options.group, streams, reading.owner)
        self.renewed = -RENEW_SECONDS
        self.watermarks: deque[tuple[Positions, int | None]] = deque()

    def begin(self, kept: dict[str, Position]) -> dict[str, Position]:
        """Where a session begins that was to go on from `kept`.

        It is earlier where a checkpoint was restored and the archive may lack what that counts as read. Up to
        the committed offset the archive is on disk, so it is never earlier than that.
        """
        positions = kept or self.reader.offsets.start(self.options.reread_seconds * 1000)
        restored = self.commits.begin(positions)
        if not (restored and kept and self.archive):
            return positions
        lacking = {
            key: position
            for key, position in kept.items()
            if position.last != ZERO and self.archive.may_lack(key, position.last)
        }
        return kept | self.reader.offsets.rewind(lacking)

    def read(self, positions: Positions, count: int, block_ms: int) -> ReadEntries:
        if self.lease and time.monotonic() - self.renewed >= RENEW_SECONDS:
            self.lease.renew_by(self.client)
            self.renewed = time.monotonic()
        return self.reader.read(positions, count, block_ms)

    def end(self, positions: Positions, watermark: int | None) -> Callable[[], None] | None:
        """The callback for the bundle of a session, if it needs one; `watermark` is that of the session's
        end."""
        callback = self.commits.end(positions)
        if callback is not None:
            self.watermarks.append((positions, watermark))
        return callback

    def _commit(self, positions: Positions) -> None:
        if self.archive:
            self.archive.sync(positions)
        self.reader.offsets.commit(positions)
        if any(known is positions for known, _ in self.watermarks):
            while self.watermarks[0][0] is not positions:
                self.watermarks.popleft()
            self.status.committed = self.watermarks[0][1]


@cache
def _open_reader(options: _Options, number: int, streams: tuple[str, ...]) -> _OpenReader:
    return _OpenReader(options, number, streams)


_POSITIONS = beam.DoFn.RestrictionParam(PositionsProvider())
_WATERMARK = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())


class _ReadStreams(beam.DoFn):
    def __init__(self, options: _Options) -> None:
        self.options = options

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        reader: tuple[int, Sequence[str]],
        finalizer: Any = beam.DoFn.BundleFinalizerParam,  # Beam finds it only before the other two
        tracker: Any = _POSITIONS,
        estimator: Any = _WATERMARK,
    ) -> Iterator[Any]:
        number, streams = reader
        opened = _open_reader(self.options, number, tuple(streams))
        positions = opened.begin(tracker.current_restriction())
        for read in read_session(opened.read, positions, self.options.session):
            if not tracker.try_claim(read.positions):
                opened.commits.leave(positions)
                return
            yield from _stamp(read)
            _advance(estimator, read.watermark)
            opened.status.report(report_read(read), _millis(estimator.current_watermark()))
            if is_read_again(positions, read.positions):
                opened.commits.begin(read.positions)  # what was called back before is of another history
            positions = read.positions
        if callback := opened.end(positions, _millis(estimator.current_watermark())):
            finalizer.register(callback)
        tracker.defer_remainder(Duration(0))


def is_read_again(before: Positions, after: Positions) -> bool:
    """Whether one of the streams is read again from an older place."""
    return any(parse_id(after[key].last) < parse_id(position.last) for key, position in before.items())


def report_read(read: ReadEntries) -> ReaderReport:
    """What a read did, for the reader's status file."""
    lost: dict[str, int] = {}
    for batch in read.gaps:
        counts = pc.fill_null(batch["entries"], 0).to_pylist()
        for source, entries in zip(batch["source"].to_pylist(), counts):
            lost[source] = lost.get(source, 0) + entries
    places = {key: StreamPosition(each.last, each.index, each.added) for key, each in read.positions.items()}
    newest = max((parse_id(place.position)[0] for place in places.values()), default=0)
    return ReaderReport(places, read.rows, read.now, newest or None, lost, read.notices)


def _stamp(read: ReadEntries) -> Iterator[Any]:
    """The batches of a read under their tags, each at the time of its first row, at latest now."""
    for batch in read.messages:
        yield TimestampedValue(batch, _time(batch, read.now))
    for tag, some in ((_REJECTED, read.rejected), (_GAPS, read.gaps)):
        for batch in some:
            yield beam.pvalue.TaggedOutput(tag, TimestampedValue(batch, _time(batch, read.now)))


def _time(batch: pa.RecordBatch, now_ms: int) -> Timestamp:
    first = batch["received_at"][0].cast(pa.int64()).as_py()
    return Timestamp(micros=now_ms * 1000 if first is None else min(first, now_ms * 1000))


def _millis(moment: Timestamp | None) -> int | None:
    return None if moment is None else moment.micros // 1000


def _advance(estimator: Any, watermark_ms: int | None) -> None:
    """Move the watermark on, never back."""
    if watermark_ms is None:
        return
    watermark, before = Timestamp(micros=watermark_ms * 1000), estimator.current_watermark()
    if before is None or watermark > before:
        estimator.set_watermark(watermark)
