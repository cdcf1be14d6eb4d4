"""What differs between jobs: which transforms read the messages and write the tables of the graph."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa

from pipelines.graph import Sinks, Sources, Timing, make_rules
from pipelines.jobs.time_slices import ReadSpool
from pipelines.outputs import Outputs
from pipelines.settings import Settings
from transforms.aggregation.windows import make_stream_windows
from transforms.core import stage_counters
from transforms.core.run_metrics import count_incomplete
from transforms.core.time_range import Span
from transforms.history.recall import Recall, RecallShard
from transforms.history.stream_history import StreamHistory
from transforms.history.time_rules import LATE_SECONDS
from transforms.redis.connection import Connection
from transforms.sinks.publish import PublishLive
from transforms.sinks.write_tables import Write, WriteGathered, WriteTables
from transforms.sources.archives.archive_reader import ReadArchives
from transforms.sources.redis.read_streams import ReadFromRedisStreams, Session
from transforms.validation.quarantine_rows import quarantine_misfits


class Read(NamedTuple):
    """What a source gives the graph: messages (RAW), what is refused before it is one (QUARANTINE), what it lost (TRIMMED)."""

    messages: beam.PCollection
    quarantine: beam.PCollection
    trimmed: beam.PCollection | None = None


class Archives(beam.PTransform):
    """The messages of archive files; files that cannot be read to their end are counted in the run's results."""

    def __init__(self, files: Iterable[str], settings: Settings) -> None:
        super().__init__()
        self.files, self.settings = tuple(files), settings

    def expand(self, root: beam.pvalue.PBegin) -> Read:
        block_bytes, payload_bytes = self.settings.block_mb << 20, self.settings.max_payload_bytes
        read = root | ReadArchives(
            self.files, block_bytes, count_bytes, readers=1, payload_bytes=payload_bytes
        )
        _ = read.unreadable | "Count incomplete" >> beam.MapTuple(count_incomplete)
        return Read(read.raw, read.bad | _misfits(self.settings))


class Spooled(beam.PTransform):
    """The messages of some spool files, and QUARANTINE rows that are at hand already."""

    def __init__(self, paths: Sequence[Path], refused: Sequence[pa.RecordBatch]) -> None:
        super().__init__()
        self.paths, self.refused = paths, refused

    def expand(self, root: beam.pvalue.PBegin) -> Read:
        refused = root | "Refused" >> beam.Create(self.refused, reshuffle=False).with_output_types(
            pa.RecordBatch
        )
        return Read(root | ReadSpool(self.paths), refused)


def _misfits(settings: Settings) -> beam.PTransform:
    return "Misfits" >> beam.Map(quarantine_misfits, make_rules(settings).limits).with_output_types(
        pa.RecordBatch
    )


def count_bytes(number: int) -> None:
    """Count bytes of input as read."""
    stage_counters.add("read", bytes=number)


def choose_sources(messages: beam.PTransform, outputs: Outputs, span: Span) -> Sources:
    """The sources of a job: stored reports are recalled from its main output if that has any."""
    return Sources(messages, Recall(outputs.main) if outputs.main.has_reports() else None, span)


def choose_sinks(outputs: Outputs, settings: Settings) -> Sinks:
    """Every table to its sinks, a bundle at a time."""
    return Sinks(WriteTables(Write(outputs.sinks, settings.patience_seconds)), fleet=outputs.takes_fleet)


@dataclass(eq=False)
class Live(beam.PTransform):
    """The messages of Redis streams, read for a group, as they come."""

    connection: Connection
    streams: tuple[str, ...]
    group: str
    settings: Settings
    owner: str
    status: Path | None
    hold_seconds: int
    archive: Path | None = None

    def expand(self, root: beam.pvalue.PBegin) -> Read:
        settings = self.settings
        read = root | ReadFromRedisStreams(
            self.connection,
            self.streams,
            self.group,
            readers=min(settings.parallelism, len(self.streams)),
            session=Session(settings.read_ms, settings.idle_ms, settings.read_count),
            lease_owner=self.owner,
            status=None if self.status is None else str(self.status),
            reread_seconds=settings.reread_seconds,
            hold_seconds=self.hold_seconds,
            archive=self.archive,
            ahead_seconds=settings.future_seconds,
        )
        return Read(read.messages, read.bad | _misfits(settings), read.trimmed)


def connect_redis(url: str, settings: Settings) -> Connection:
    """The connection to a Redis server under the settings."""
    password = settings.redis_password.get_secret_value() if settings.redis_password else None
    files = (settings.redis_ca, settings.redis_certificate, settings.redis_key)
    ca, certificate, key = (None if path is None else str(path.absolute()) for path in files)
    return Connection(url, settings.redis_user, password, ca, certificate, key)


def time_stream(outputs: Outputs, settings: Settings) -> Timing:
    """What makes the graph a stream: history that remembers from batch to batch, windows with triggers."""
    recall = RecallShard(outputs.main, settings.shards)
    history = StreamHistory(settings.min_samples, settings.stale_seconds, settings.future_seconds, recall)
    lateness = settings.stale_seconds + LATE_SECONDS
    return Timing(history, make_stream_windows(settings.flush_seconds, lateness))


def gather_sinks(
    outputs: Outputs, settings: Settings, status: Path | None, live: Connection | None = None
) -> Sinks:
    """Every table to its sinks, gathered first; and reports to live streams, where a connection for these is given."""
    write = Write(outputs.sinks, settings.patience_seconds, status)
    tables = WriteGathered(write, settings.file_minutes, settings.parallelism)
    publish = None if live is None else PublishLive(live, settings.live_maxlen)
    return Sinks(tables, live=publish, fleet=outputs.takes_fleet)
