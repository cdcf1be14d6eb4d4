"""How a streaming job does, or did when it ended: from what it left below its home, and from what its source
says now."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

from pipelines.failures import WrongUse
from pipelines.jobs.derive_state import read_state, read_until
from pipelines.jobs.job_description import FOLDER, JobDescription
from pipelines.jobs.lock import is_locked
from runners.flink.checkpoints import find_newest_checkpoint
from schemas.tables import TABLES
from transforms.core.status_files import read_status
from transforms.core.typed_json import as_moment
from transforms.sinks.sink_status import SinkFile, read_sink_statuses
from transforms.sources.reader_status import ReaderFile, StreamFile
from transforms.sources.source import Memory, SourceState, StreamState

RUN, READERS, SINKS = "run.json", "readers", "sinks"
BEFORE = "before"
"""Below READERS: the last status files of the readers of the run before."""
OUTCOMES = "outcomes"
"""Below FOLDER: the ledger of what the main output has (`transforms.sinks.parquet.outcome_ledger`)."""
RECEIVED = frozenset(name for name, table in TABLES.items() if "received_at" in table.schema.names)
"""The tables that have the time at which a message was received."""


@dataclass(frozen=True)
class StreamHealth:
    """How far a stream is read: `index` messages of the `added` that were ever added to it; `lost` of them
    were gone unread.

    Since the run began, the stream `went_back` to an older state so often, another client `moved` its group,
    and the ids of so many messages were `ahead` of the source's clock; the newest id is `ahead_seconds` ahead
    of it now.
    """

    stream: str
    position: str | None = None
    index: int | None = None
    added: int | None = None
    lost: int = 0
    went_back: int = 0
    moved: int = 0
    ahead: int = 0
    ahead_seconds: float = 0.0

    @property
    def lag(self) -> int | None:
        """Messages that are not read yet; None where the source cannot tell."""
        return None if self.index is None or self.added is None else max(0, self.added - self.index)


@dataclass(frozen=True)
class SinkHealth:
    """How an output does: rows written by the processes that write now; the latest received_at of a row that
    it has; when it was written last; and since when a write is tried again, and why."""

    name: str
    rows: int
    newest: datetime | None
    written: datetime | None
    waiting_since: datetime | None
    error: str | None

    def behind(self, read: datetime | None) -> float | None:
        """Seconds from the newest row that it has to the newest message read; None where it is unknown."""
        return None if self.newest is None or read is None else max(0.0, (read - self.newest).total_seconds())


@dataclass(frozen=True)
class DerivedHealth:
    """How far the derived tables of an output folder are.

    `until`: reports whose wait was over then are derived; None if all are. `at` and `error`: of the last
    pass. `rows`, `seconds`: of the last one that analysed rows, how many, once for each table, and how long
    it took. `delay_seconds`: the longest that one of them waited from its arrival until tables were written.
    """

    output: str
    until: datetime | None
    at: datetime | None
    error: str | None
    rows: int | None = None
    seconds: float | None = None
    delay_seconds: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The newest complete checkpoint."""

    at: datetime
    bytes: int
    path: Path


@dataclass(frozen=True)
class Health:
    """A job at a moment.

    `read` counts messages since the run began; `newest` is when the newest of them arrived; `reported` is
    when a reader last wrote its status. `memory` and `warnings` are the source's.
    """

    running: bool
    group: str
    source: str
    streams: tuple[StreamHealth, ...]
    read: int
    newest: datetime | None
    watermark: datetime | None
    reported: datetime | None
    checkpoint: Checkpoint | None
    sinks: tuple[SinkHealth, ...] = ()
    derived: tuple[DerivedHealth, ...] = ()
    memory: Memory | None = None
    warnings: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """The names of the streams."""
        return [each.stream for each in self.streams]

    @property
    def lag(self) -> int | None:
        """Messages of all streams that are not read yet."""
        lags = [stream.lag for stream in self.streams]
        return None if not lags or None in lags else sum(lag for lag in lags if lag is not None)

    def as_json(self) -> dict[str, Any]:
        """The same as JSON's types. The source is called `redis`, as when that was the only kind: users read
        this key."""
        checkpoint = self.checkpoint and {
            "at": self.checkpoint.at.isoformat(),
            "bytes": self.checkpoint.bytes,
            "path": str(self.checkpoint.path),
        }
        return {
            "running": self.running,
            "group": self.group,
            "redis": self.source,
            "lag": self.lag,
            "read": self.read,
            "watermark": self.watermark and self.watermark.isoformat(),
            "reported": self.reported and self.reported.isoformat(),
            "checkpoint": checkpoint,
            "streams": [vars(stream) | {"lag": stream.lag} for stream in self.streams],
            "sinks": [_sink_as_json(sink, sink.behind(self.newest)) for sink in self.sinks],
            "derived": [vars(each) | _format_moments(each) for each in self.derived],
            "memory": self.memory and vars(self.memory) | {"full": self.memory.is_full},
        }


def read_health(home: Path, state: SourceState | None = None) -> Health:
    """How a streaming job does, by its home; with what the source says now, its lag is that of now.

    Raises:
        WrongUse: no streaming job ever had this home.
        RunFailed: as `read_job`.
    """
    job, folder = JobDescription.read(home), home / FOLDER
    if job is None:
        raise WrongUse(
            f"no stream has written {home}",
            f"`kpiflow stream --redis URL --stream KEY --output {home}` starts one",
        )
    state = state or SourceState({})
    readers = list(read_reader_files(folder / READERS))
    reported = {key: stream for reader in readers for key, stream in reader["streams"].items()}
    return Health(
        is_locked(home),
        job.group,
        job.source,
        tuple(
            _stream_health(key, reported.get(key, StreamFile()), state.streams.get(key))
            for key in job.streams
        ),
        sum(reader["read"] for reader in readers),
        _latest(readers, "newest"),
        _moment(min((reader["watermark"] for reader in readers if reader["watermark"]), default=None)),
        _latest(readers, "time"),
        _read_checkpoint(folder),
        tuple(_sink_healths(read_sinks(folder), job.outputs)),
        tuple(_derived_healths(job.outputs)),
        state.memory,
        state.warnings,
    )


def read_reader_files(folder: Path, pattern: str = "reader-*.json") -> Iterator[ReaderFile]:
    """The status files of readers whose names match a pattern. One that a power cut has torn is left out."""
    for path in sorted(folder.glob(pattern)):
        if (status := read_status(path, ReaderFile)) is not None:
            yield status


def _stream_health(key: str, reported: StreamFile, state: StreamState | None) -> StreamHealth:
    stream = StreamHealth(key, **reported)
    if state is None:
        return stream
    return replace(stream, added=state.added, ahead_seconds=state.ahead_seconds)


class _Begun(TypedDict, total=False):
    begun: float


def read_sinks(folder: Path) -> list[SinkFile]:
    """The status of each process that writes to an output, of a job's folder."""
    run = read_status(folder / RUN, _Begun)
    return read_sink_statuses(folder / SINKS, run.get("begun", 0.0) if run else 0.0)


def _sink_healths(writers: list[SinkFile], names: tuple[str, ...]) -> Iterator[SinkHealth]:
    """The outputs of the job in their order, each from the status of its tables' writers."""
    for name in names:
        # Earlier versions wrote "target".
        own = [each for each in writers if each.get("sink", each.get("target")) == name]
        waiting = min(
            (each for each in own if each["waiting_since"]),
            key=lambda each: each["waiting_since"] or 0,
            default=None,
        )
        yield SinkHealth(
            name,
            sum(each["rows"] for each in own),
            _latest([each for each in own if each["table"] in RECEIVED], "newest"),
            _latest(own, "time"),
            _moment(waiting and waiting["waiting_since"]),
            waiting and waiting["error"],
        )


def _derived_healths(outputs: tuple[str, ...]) -> Iterator[DerivedHealth]:
    """The output folders that have been derived."""
    for output in outputs:
        if "://" not in output and (state := read_state(Path(output))) is not None:
            at = _moment(state["at"] * 1000)
            analysis: Mapping[str, Any] = state.get("analysis") or {}
            yield DerivedHealth(output, read_until(state), at, state.get("error"), **analysis)


def _sink_as_json(sink: SinkHealth, behind: float | None) -> dict[str, Any]:
    return vars(sink) | _format_moments(sink) | {"behind_seconds": behind}


def _format_moments(health: SinkHealth | DerivedHealth) -> dict[str, str]:
    return {name: value.isoformat() for name, value in vars(health).items() if isinstance(value, datetime)}


def _read_checkpoint(folder: Path) -> Checkpoint | None:
    path = find_newest_checkpoint(folder)
    if path is None:
        return None
    try:
        files = [file.stat() for file in path.iterdir()]
    except FileNotFoundError:  # a newer one has just taken its place
        return None
    shared = path.parent / "shared"
    size = sum(file.st_size for file in files) + sum(file.stat().st_size for file in shared.glob("*"))
    return Checkpoint(_moment(max(file.st_mtime for file in files) * 1000), size, path)  # type: ignore[arg-type]


def _latest(reports: Sequence[Mapping[str, Any]], name: str) -> datetime | None:
    """The latest of the times of a name in some status files."""
    return _moment(max((report.get(name) or 0 for report in reports), default=0) or None)


def _moment(milliseconds: float | None) -> datetime | None:
    return None if milliseconds is None else as_moment(milliseconds / 1000)
