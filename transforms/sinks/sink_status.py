"""The status files of sinks: one for each table of each sink and each process that writes it, rewritten with
every write.

A process may have several writers of a table, and several processes may write one table. If one writer waits
for a sink, the sink counts as unavailable, whatever other writers could write.
"""

import os
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NotRequired, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import find_table
from transforms.core.status_files import read_status, write_status
from transforms.core.typed_json import Count, Whole

_lock = threading.Lock()


class SinkFile(TypedDict):
    """What `SinkStatus` writes; earlier versions called the sink `target`."""

    sink: NotRequired[str]
    target: NotRequired[str]
    table: str
    time: Whole
    rows: Count
    newest: Whole | None
    waiting_since: Whole | None
    error: str | None


@dataclass(eq=False)
class SinkStatus:
    """How one writer of a table does; its process keeps `sink-<place>-<table>-<process>.json` in a folder.

    Without a folder nothing is kept. The file has `sink`, its name; `table`; `time`, when it was written;
    `rows` that the process wrote; `newest`, the latest time of a written row (received_at, if the table has
    it); `waiting_since` and `error`, since when a writer retries a write, and why (null otherwise). Times are
    milliseconds since 1970.
    """

    folder: Path | None
    place: int
    table: str
    is_closed: bool = False

    def report_written(self, sink: str, rows: int, batches: Sequence[pa.RecordBatch]) -> None:
        """Rows were written."""
        latest = self._find_latest(batches)
        with _lock:
            counts = self._counts
            counts.rows += rows
            counts.newest = max([counts.newest or 0, *latest]) or None
            counts.waiting.pop(self, None)
            self._write(sink, counts)

    def report_waiting(self, sink: str, error: str) -> None:
        """A write failed, and will be tried again: by the writer, or by the runner that restarts it.

        A process that was restarted goes on with what the one before it waited for.
        """
        with _lock:
            known = self._counts.waiting or {self: (self._find_since() or _now(), "")}
            since, _ = known.get(self, (_now(), ""))
            self._counts.waiting[self] = since, error
            self._write(sink, self._counts)

    def close(self) -> None:
        """The writer has ended. What it waited for is waited for until another one reports."""
        self.is_closed = True

    @property
    def _counts(self) -> "_Counts":
        return _get_counts(self.folder, self.place, self.table)

    def _find_since(self) -> int | None:
        """Since when the process waits that reported last."""
        files = self.folder.glob(f"sink-{self.place}-{self.table}-*.json") if self.folder else ()
        found = [status for path in files if (status := read_status(path, SinkFile))]
        newest = max(found, key=lambda status: status["time"], default=None)
        return newest and newest["waiting_since"]

    def _find_latest(self, batches: Sequence[pa.RecordBatch]) -> list[int]:
        """The latest time of each batch, in milliseconds; none of a batch without times."""
        names = batches[0].schema.names
        name = "received_at" if "received_at" in names else find_table(self.table).time
        latest = (pc.max(batch[name]).cast(pa.int64()).as_py() for batch in batches)
        return [moment // 1000 for moment in latest if moment is not None]

    def _write(self, sink: str, counts: "_Counts") -> None:
        if self.folder is None:
            return
        for writer in [each for each in counts.waiting if each.is_closed and each is not self]:
            del counts.waiting[writer]
        since, error = min(counts.waiting.values(), default=(None, None))
        content = {"rows": counts.rows, "newest": counts.newest, "waiting_since": since, "error": error}
        path = self.folder / f"sink-{self.place}-{self.table}-{counts.process}.json"
        write_status(path, {"sink": sink, "table": self.table, "time": _now()} | content)


@dataclass
class _Counts:
    """What this process reports of a sink's table. Runners replace a writer now and then; this stays.

    `waiting`: since when each writer waits, and for what. `process`: a name that no other process has.
    """

    rows: int = 0
    newest: int | None = None
    waiting: dict[SinkStatus, tuple[int, str]] = field(default_factory=dict)
    process: str = field(default_factory=lambda: f"{os.getpid()}-{secrets.token_hex(2)}")


def read_sink_statuses(folder: Path, begun: float = 0.0) -> list[SinkFile]:
    """The status of each process that writes. `begun`: when the job began (seconds since 1970).

    Of processes of a job before it the newest status of a table counts, until there is a newer one.
    """
    return [status for _, status, is_old in _list_statuses(folder, begun) if not is_old]


def remove_old_statuses(folder: Path, begun: float) -> None:
    """Remove the files of what no longer counts: each restart of a job leaves some."""
    for path, _, is_old in _list_statuses(folder, begun):
        if is_old:
            path.unlink(missing_ok=True)


def _list_statuses(folder: Path, begun: float) -> Iterable[tuple[Path, SinkFile, bool]]:
    """The files, their content, and whether it is of another job and no longer the newest of its table."""
    files = sorted(folder.glob("sink-*.json"))
    found = [(path, status) for path in files if (status := read_status(path, SinkFile))]
    newest: dict[tuple[str | None, str], int] = {}
    for _, status in found:
        key = status.get("sink"), status["table"]
        newest[key] = max(newest.get(key, 0), status["time"])
    for path, status in found:
        is_newest = status["time"] == newest[status.get("sink"), status["table"]]
        yield path, status, status["time"] < begun * 1000 and not is_newest


@cache
def _get_counts(folder: Path | None, place: int, table: str) -> _Counts:
    return _Counts()


def _now() -> int:
    return time.time_ns() // 1_000_000
