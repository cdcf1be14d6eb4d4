"""How a streaming job does, from what it leaves below its output and from Redis: of a running job, or of one that has ended."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from pipelines.failures import WrongUse
from pipelines.jobs.lock import is_locked
from runners.flink.checkpoints import find_newest_checkpoint
from schemas.tables import TABLES
from transforms.redis.entry_ids import ZERO, parse_id
from transforms.sources.redis.check import NEARLY_FULL

FOLDER = "_stream"
"""Below a job's home, which is an output unless another folder is given: everything that a streaming job keeps for itself."""
JOB, READERS, SINKS = "job.json", "readers", "sinks"
BEFORE = "before"
"""Below READERS: what the readers of the run before said last."""
RECEIVED = frozenset(name for name, table in TABLES.items() if "received_at" in table.schema.names)
"""The tables that tell when a message was received."""
NO_EVICTION = "noeviction"


@dataclass(frozen=True)
class Place:
    """How far a stream is read: `index` entries of the `added` that were ever added to it, of which `lost` were gone unread.

    Since the run began, the stream `went_back` to an older state so often, another client `moved` its group, and the
    ids of so many entries were `ahead` of the clock of Redis; the newest id is `ahead_seconds` ahead of it now.
    """

    stream: str
    position: str = ZERO
    index: int | None = None
    added: int | None = None
    lost: int = 0
    went_back: int = 0
    moved: int = 0
    ahead: int = 0
    ahead_seconds: float = 0.0

    @property
    def lag(self) -> int | None:
        """Entries that are not read yet; None where Redis cannot tell."""
        return None if self.index is None or self.added is None else max(0, self.added - self.index)


@dataclass(frozen=True)
class Sink:
    """How an output does: rows written by the processes that write now; the latest time of a row that it has, in the tables that
    tell when a message was received; and since when a write is tried again, and why."""

    name: str
    rows: int
    newest: datetime | None
    written: datetime | None
    waiting_since: datetime | None
    error: str | None

    def behind(self, read: datetime | None) -> float | None:
        """Seconds from the newest row that it has to the newest message read; None where it cannot be told."""
        return None if self.newest is None or read is None else max(0.0, (read - self.newest).total_seconds())


@dataclass(frozen=True)
class Checkpoint:
    """The newest complete checkpoint."""

    at: datetime
    bytes: int
    path: Path


@dataclass(frozen=True)
class Memory:
    """What Redis uses of the memory that it may use, in bytes."""

    used: int
    most: int

    @property
    def is_full(self) -> bool:
        """Whether producers cannot add entries, or soon cannot."""
        return self.most > 0 and self.used >= NEARLY_FULL * self.most


@dataclass(frozen=True)
class Health:
    """A job at a moment. `read` counts messages since the run began; `reported` is when it last said so."""

    running: bool
    group: str
    redis: str
    places: tuple[Place, ...]
    read: int
    watermark: datetime | None
    reported: datetime | None
    checkpoint: Checkpoint | None
    sinks: tuple[Sink, ...] = ()
    memory: Memory | None = None

    @property
    def newest(self) -> datetime | None:
        """When the newest message that was read had come in."""
        return _moment(
            max((int(place.position.partition("-")[0]) for place in self.places), default=0) or None
        )

    @property
    def lag(self) -> int | None:
        """Entries of all streams that are not read yet."""
        lags = [place.lag for place in self.places]
        return None if not lags or None in lags else sum(lag for lag in lags if lag is not None)

    def as_json(self) -> dict[str, Any]:
        """The same as JSON's types."""
        checkpoint = self.checkpoint and {
            "at": self.checkpoint.at.isoformat(), "bytes": self.checkpoint.bytes, "path": str(self.checkpoint.path)
        }  # fmt: skip
        return {
            "running": self.running,
            "group": self.group,
            "redis": self.redis,
            "lag": self.lag,
            "read": self.read,
            "watermark": self.watermark and self.watermark.isoformat(),
            "reported": self.reported and self.reported.isoformat(),
            "checkpoint": checkpoint,
            "streams": [vars(place) | {"lag": place.lag} for place in self.places],
            "sinks": [_as_json(sink, sink.behind(self.newest)) for sink in self.sinks],
            "memory": self.memory and vars(self.memory) | {"full": self.memory.is_full},
        }


def health(home: Path, client: redis.Redis | None = None) -> Health:
    """How a streaming job does, by its home; with a `client`, `added` is what Redis says now.

    Raises:
        WrongUse: no streaming job ever had this home.
    """
    folder = home / FOLDER
    if not (folder / JOB).is_file():
        raise WrongUse(
            f"no stream has written {home}",
            f"`kpiflow stream --redis URL --stream KEY --output {home}` starts one",
        )
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    said = list(reports(folder / READERS, "reader-*.json"))
    known = {key: place for reader in said for key, place in reader["streams"].items()}
    places = tuple(_place(key, known.get(key, {}), client) for key in job["depends"]["streams"])
    watermarks = [reader["watermark"] for reader in said if reader["watermark"] is not None]
    return Health(
        is_locked(home),
        job["depends"]["group"],
        job["redis"],
        places,
        sum(reader["read"] for reader in said),
        _moment(min(watermarks, default=None)),
        _moment(max((reader["time"] for reader in said), default=None)),
        _checkpoint(folder),
        tuple(_sinks(folder / SINKS, job["depends"]["outputs"])),
        _memory(client),
    )


def reports(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    """What readers or writers say in the files of a pattern. They are not synced: what a power cut has torn says nothing."""
    for path in sorted(folder.glob(pattern)):
        with suppress(FileNotFoundError, ValueError):
            yield json.loads(path.read_text(encoding="utf-8"))


def _sinks(folder: Path, names: list[str]) -> Iterator[Sink]:
    """The outputs of the job in their order, each of what its tables' writers say."""
    said = list(reports(folder, "sink-*.json"))
    for name in names:
        own = [each for each in said if each["sink"] == name]
        waiting = min(
            (each for each in own if each["waiting_since"]),
            key=lambda each: each["waiting_since"],
            default={},
        )
        yield Sink(
            name,
            sum(each["rows"] for each in own),
            _moment(
                max((each["newest"] or 0 for each in own if each["table"] in RECEIVED), default=0) or None
            ),
            _moment(max((each["time"] for each in own), default=None)),
            _moment(waiting.get("waiting_since")),
            waiting.get("error"),
        )


def _as_json(sink: Sink, behind: float | None) -> dict[str, Any]:
    moments = {name: value.isoformat() for name, value in vars(sink).items() if isinstance(value, datetime)}
    return vars(sink) | moments | {"behind_seconds": behind}


def _place(key: str, said: dict[str, Any], client: redis.Redis | None) -> Place:
    """A stream as its reader has reported it, if it has, and as Redis has it now, if that can be asked."""
    place = Place(key, **said)
    if client is None:
        return place
    try:
        info: Any = client.xinfo_stream(key)
        seconds, micros = client.time()
    except redis.RedisError:
        return place
    ahead = parse_id(info["last-generated-id"])[0] / 1000 - seconds - micros / 1e6
    return replace(place, added=info["entries-added"], ahead_seconds=max(0.0, round(ahead, 3)))


def _memory(client: redis.Redis | None) -> Memory | None:
    if client is None:
        return None
    try:
        said: Any = client.info("memory")
    except redis.RedisError:
        return None
    return Memory(
        said["used_memory"],
        said["maxmemory"] if said.get("maxmemory_policy", NO_EVICTION) == NO_EVICTION else 0,
    )


def _checkpoint(folder: Path) -> Checkpoint | None:
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


def _moment(milliseconds: float | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
