"""How a streaming job does, from what it leaves below its output and from Redis: of a running job, or of one that has ended."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from pipelines.backfill import is_held
from pipelines.failures import WrongUse
from runners.checkpoints import newest_checkpoint

FOLDER = "_stream"
"""Below an output: everything that its streaming job keeps for itself."""
JOB, READERS = "job.json", "readers"


@dataclass(frozen=True)
class Place:
    """How far a stream is read: `index` entries of the `added` that were ever added to it, of which `lost` were gone unread."""

    stream: str
    position: str
    index: int | None
    added: int | None
    lost: int

    @property
    def lag(self) -> int | None:
        """Entries that are not read yet; None where Redis cannot tell."""
        return None if self.index is None or self.added is None else max(0, self.added - self.index)


@dataclass(frozen=True)
class Checkpoint:
    """The newest complete checkpoint."""

    at: datetime
    bytes: int
    path: Path


@dataclass(frozen=True)
class Health:
    """A job at a moment. `read` counts messages since the process that reads began; `reported` is when it last said so."""

    running: bool
    group: str
    redis: str
    places: tuple[Place, ...]
    read: int
    watermark: datetime | None
    reported: datetime | None
    checkpoint: Checkpoint | None

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
        }


def health(output: Path, client: redis.Redis | None = None) -> Health:
    """How the streaming job of an output does; with a `client`, `added` is what Redis says now.

    Raises:
        WrongUse: no streaming job ever wrote this output.
    """
    folder = output / FOLDER
    if not (folder / JOB).is_file():
        raise WrongUse(f"no stream has written {output}", f"`kpiflow stream --redis URL --stream KEY --output {output}` starts one")
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    said = list(_reports(folder / READERS))
    places = tuple(
        Place(key, place["position"], place["index"], _added(client, key, place["added"]), place["lost"])
        for reader in said
        for key, place in sorted(reader["streams"].items())
    )
    watermarks = [reader["watermark"] for reader in said if reader["watermark"] is not None]
    return Health(
        is_held(output),
        job["depends"]["group"],
        job["redis"],
        places,
        sum(reader["read"] for reader in said),
        _moment(min(watermarks, default=None)),
        _moment(max((reader["time"] for reader in said), default=None)),
        _checkpoint(folder),
    )


def _reports(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("reader-*.json")):
        yield json.loads(path.read_text(encoding="utf-8"))


def _added(client: redis.Redis | None, key: str, last_known: int | None) -> int | None:
    if client is None:
        return last_known
    try:
        added: int = client.xinfo_stream(key)["entries-added"]
    except redis.RedisError:
        return last_known
    return added


def _checkpoint(folder: Path) -> Checkpoint | None:
    path = newest_checkpoint(folder)
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
