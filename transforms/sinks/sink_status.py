"""What a writer says of itself: a small file for each table of each sink, rewritten with every write."""

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
class Status:
    """`sink-<place>-<table>.json` in a folder, or nothing where there is no folder. Times are milliseconds since 1970.

    `rows` counts what was written since this process began; `newest` is the latest time of a row that the sink has: received_at,
    where the table has it. `waiting_since` and `error` tell since when a write is tried again, and why. That the file cannot be
    written is logged and else of no consequence.
    """

    folder: Path | None
    place: int
    table: str

    def wrote(self, sink: str, rows: int, batches: Sequence[pa.RecordBatch]) -> None:
        """Rows were taken."""
        told = _told(self)
        told.rows += rows
        told.newest = max([told.newest or 0, *self._times(batches)]) or None
        told.waiting_since = told.error = None
        self._write(sink, told)

    def waits(self, sink: str, error: str) -> None:
        """A write was not taken, and will be tried again: by the writer, or by the runner that starts it anew."""
        told = _told(self)
        told.waiting_since, told.error = told.waiting_since or _now(), error
        self._write(sink, told)

    def _times(self, batches: Sequence[pa.RecordBatch]) -> list[int]:
        names = batches[0].schema.names
        name = "received_at" if "received_at" in names else find_table(self.table).time
        newest = (pc.max(batch[name]).cast(pa.int64()).as_py() for batch in batches)
        return [moment // 1000 for moment in newest if moment is not None]

    def _write(self, sink: str, told: "_Told") -> None:
        if self.folder is not None:
            path = self.folder / f"sink-{self.place}-{self.table}.json"
            write_status(path, {"sink": sink, "table": self.table, "time": _now()} | asdict(told))


@dataclass
class _Told:
    """What this process has to say; runners make a writer anew now and then, and this stays."""

    rows: int = 0
    newest: int | None = None
    waiting_since: int | None = None
    error: str | None = None


@cache
def _told(status: Status) -> _Told:
    return _Told()


def _now() -> int:
    return time.time_ns() // 1_000_000
