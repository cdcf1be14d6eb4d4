"""The status file of a live source's reader: how far it has read, for `kpiflow status`. Rewritten about once
a second."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

from transforms.core.status_files import read_status, write_status
from transforms.core.typed_json import Count, Whole

SECONDS = 1.0


class Notices(NamedTuple):
    """What a reader has noticed about a stream. Counts:

    `went_back`: it returned to an older state; `moved`: another client moved the group's offset ahead of what
    was committed;
    `ahead`: messages whose ids were ahead of the source's clock.
    """

    went_back: int = 0
    moved: int = 0
    ahead: int = 0

    def plus(self, more: "Notices") -> "Notices":
        """The sums of both."""
        return Notices(*map(int.__add__, self, more))


@dataclass(frozen=True)
class StreamPosition:
    """How far a stream is read: the id of the last message, and `index` messages of the `added` that it ever
    had.

    `index` and `added` are None where the source cannot tell.
    """

    position: str
    index: int | None
    added: int | None


@dataclass(frozen=True)
class ReaderReport:
    """What one read did. `places`: each stream afterwards; `rows`: messages of all streams; `lost`: messages
    of a stream that were gone unread; `notices`: all since this process began. `newest`: when the newest
    message read so far arrived; `now`: the source's time. Both are milliseconds since 1970.
    """

    places: Mapping[str, StreamPosition]
    rows: int
    now: int
    newest: int | None = None
    lost: Mapping[str, int] = field(default_factory=dict)
    notices: Mapping[str, Notices] = field(default_factory=dict)


class StreamFile(TypedDict, total=False):
    """A stream in a reader's status file: `StreamPosition`, how many of its messages were lost, `Notices`."""

    position: str | None
    index: Count | None
    added: Count | None
    lost: Count
    went_back: Count
    moved: Count
    ahead: Count


class ReaderFile(TypedDict):
    """What `ReaderStatus` writes; earlier versions wrote neither `newest` nor `committed`."""

    streams: dict[str, StreamFile]
    read: Count
    newest: NotRequired[Whole | None]
    watermark: Whole | None
    committed: NotRequired[Whole | None]
    time: Whole


class ReaderStatus:
    """`reader-<n>.json` in a folder, or nothing where there is no folder. Times are milliseconds since 1970.

    `read`, and of each stream `lost` and the `Notices`, continue the counts of the file that a process before
    this one left. A file that cannot be read counts as none. `committed`: the watermark of the position that
    was committed last; whatever happens, no message before it is read again, except by a new job's rereading.
    """

    def __init__(self, folder: Path | None, number: int) -> None:
        self.number = number
        self.path = folder and folder / f"reader-{number}.json"
        self.read, self.lost, self._noticed = _read_counts(self.path)
        self.committed: int | None = None
        self._written = -SECONDS

    def report(self, report: ReaderReport, watermark: int | None) -> None:
        """Add what a read did, and write the file if it is time."""
        self.read += report.rows
        self.lost.update(report.lost)
        if self.path and time.monotonic() - self._written >= SECONDS:
            self._written = time.monotonic()
            write_status(self.path, self._as_json(report, watermark))

    def _as_json(self, report: ReaderReport, watermark: int | None) -> dict[str, Any]:
        streams = {
            key: asdict(place)
            | {"lost": self.lost[key]}
            | self._noticed.get(key, Notices()).plus(report.notices.get(key, Notices()))._asdict()
            for key, place in report.places.items()
        }
        return {
            "reader": self.number,
            "streams": streams,
            "read": self.read,
            "newest": report.newest,
            "watermark": watermark,
            "committed": self.committed,
            "time": report.now,
        }


def _read_counts(path: Path | None) -> tuple[int, Counter[str], dict[str, Notices]]:
    """Messages read, and lost messages and notices of each stream, from a status file; none if there is no
    complete one."""
    status = path and read_status(path, ReaderFile)
    if not status:
        return 0, Counter(), {}
    streams = status["streams"]
    lost = Counter({key: stream.get("lost", 0) for key, stream in streams.items()})
    noticed = {
        key: Notices(stream.get("went_back", 0), stream.get("moved", 0), stream.get("ahead", 0))
        for key, stream in streams.items()
    }
    return status["read"], lost, noticed
