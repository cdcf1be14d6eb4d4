"""The status files of sinks: one for each table of each sink, rewritten with every write."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import find_table
from transforms.core.status_files import write_status


@dataclass(frozen=True)
class SinkStatus:
    """Keeps `sink-<place>-<table>.json` in a folder; does nothing without a folder. Times are milliseconds
    since 1970.

    The file has `sink`, its name; `table`; `time`, when it was written; `rows` written since this process
    started; `newest`, the latest time of a written row (received_at, if the table has it); `waiting_since`
    and `error`, since when a write is being retried, and why (null otherwise).
    """

    folder: Path | None
    place: int
    table: str

    def report_written(self, sink: str, rows: int, batches: Sequence[pa.RecordBatch]) -> None:
        """Rows were written."""
        counts = _get_counts(self)
        counts.rows += rows
        counts.newest = max([counts.newest or 0, *self._find_latest(batches)]) or None
        counts.waiting_since = counts.error = None
        self._write(sink, counts)

    def report_waiting(self, sink: str, error: str) -> None:
        """A write failed, and will be tried again: by the writer, or by the runner that restarts it."""
        counts = _get_counts(self)
        counts.waiting_since, counts.error = counts.waiting_since or _now(), error
        self._write(sink, counts)

    def _find_latest(self, batches: Sequence[pa.RecordBatch]) -> list[int]:
        """The latest time of each batch, in milliseconds; none of a batch without times."""
        names = batches[0].schema.names
        name = "received_at" if "received_at" in names else find_table(self.table).time
        latest = (pc.max(batch[name]).cast(pa.int64()).as_py() for batch in batches)
        return [moment // 1000 for moment in latest if moment is not None]

    def _write(self, sink: str, counts: "_Counts") -> None:
        if self.folder is not None:
            path = self.folder / f"sink-{self.place}-{self.table}.json"
            write_status(path, {"sink": sink, "table": self.table, "time": _now()} | asdict(counts))


@dataclass
class _Counts:
    """What this process reports of a sink's table. Runners replace a writer now and then; this stays."""

    rows: int = 0
    newest: int | None = None
    waiting_since: int | None = None
    error: str | None = None


@cache
def _get_counts(status: SinkStatus) -> _Counts:
    return _Counts()


def _now() -> int:
    return time.time_ns() // 1_000_000
