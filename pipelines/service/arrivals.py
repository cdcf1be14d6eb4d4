"""All reports of an output, in the order in which this service first saw them.

The order is only ever added to: a stream puts a late report into a file in the middle, and here it follows
those that were seen before. So the first n reports are a snapshot, whatever is written meanwhile, and a
number names it. At the start the order is that of the files, from the oldest on. It ends when a report is
gone, as when a day expires or its files become one; the next order has another name.
"""

import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.failures import RunFailed, WrongUse
from pipelines.queries.open_files import explain_storage_errors
from schemas.tables import REPORTS
from transforms.core.durable_files import FileVersion, read_version
from transforms.core.hashing import hash_ids
from transforms.core.record_batches import conform_table
from transforms.core.time_range import Span
from transforms.sinks.parquet.output_files import OutputFiles
from transforms.sinks.parquet.parquet_file import open_parquet

Ids = NDArray[np.uint64]
LOOK_SECONDS = 1.0
"""How often the files are looked at, at most."""
_ID_BYTES = 32
_SNAPSHOT = re.compile(r"([0-9a-f]{8})-(\d{1,15})-([0-9a-f]{32})")


class OrderEnded(Exception):  # noqa: N818 (an answer, not only an error)
    """A report that was seen is gone, so places have moved."""


def _list_paths(folder: Path, file_minutes: int) -> list[Path]:
    """The files of reports of an output, oldest first.

    Raises:
        RunFailed: some are not on this machine, or cannot be listed.
    """
    with explain_storage_errors():
        files = OutputFiles.of(folder)
        listed = files.list_untimed(REPORTS) + files.list_span(REPORTS.name, Span(), file_minutes)
    paths = [file.path for file in listed]
    if None in paths:
        problem = f"{listed[paths.index(None)]} is on object storage, which is read by queries only"
        raise RunFailed(problem, "ask /query/{name} for a span of time")
    return [path for path in paths if path]


class ExportSnapshot(NamedTuple):
    """The first `total` reports of the order of this name."""

    name: str
    total: int


class _Segment(NamedTuple):
    path: Path
    ids: Ids


class Arrivals:
    """The order. Thread-safe; one thread at a time reads files. It keeps 8 bytes for each report."""

    def __init__(self, folder: Path, file_minutes: int) -> None:
        self._folder, self._minutes = folder, file_minutes
        self._lock = threading.Lock()
        self._key = secrets.token_bytes(32)
        self._begin()

    def _begin(self) -> None:
        self.name = secrets.token_hex(4)
        self._looked = -LOOK_SECONDS
        self._versions: dict[Path, FileVersion] = {}
        self._known: dict[Path, list[Ids]] = {}
        self._segments: list[_Segment] = []
        self._ends: list[int] = []

    def take(self) -> ExportSnapshot:
        """The snapshot of what there is now."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                try:
                    self._look()
                except OrderEnded:
                    self._begin()
                    self._look()
            return ExportSnapshot(self.name, self._total)

    def format_snapshot(self, snapshot: ExportSnapshot) -> str:
        """A snapshot as text, signed: nobody else can make one, or change its number."""
        text = f"{snapshot.name}-{snapshot.total}"
        return f"{text}-{hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:32]}"

    def parse_snapshot(self, text: str) -> ExportSnapshot:
        """The snapshot of a text.

        Raises:
            WrongUse: it is not as `format_snapshot` wrote it.
            OrderEnded: there is no order of its name any more.
        """
        found = _SNAPSHOT.fullmatch(text) if text.isascii() else None
        if found and found[1] != self.name:
            raise OrderEnded
        snapshot = ExportSnapshot(found[1], int(found[2])) if found else None
        if snapshot is None or not hmac.compare_digest(text, self.format_snapshot(snapshot)):
            raise WrongUse("this is not a snapshot of this service", "copy it whole from a page")
        return snapshot

    def read(self, name: str, start: int, end: int, columns: list[str]) -> pa.Table:
        """The reports at the places from start to before end, with some columns of REPORTS.

        Raises:
            OrderEnded: there is no order of this name any more, or a report of it is gone.
        """
        with self._lock:
            if name != self.name:
                raise OrderEnded
            chosen = list(self._choose(start, end))
        schema = pa.schema([REPORTS.schema.field(each) for each in columns])
        parts = [self._read_rows(path, ids, columns, schema) for path, ids in chosen]
        return pa.concat_tables(parts) if parts else schema.empty_table()

    @property
    def _total(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _look(self) -> None:
        """Add the reports of files that are new or have changed."""
        self._looked = time.monotonic()
        paths = _list_paths(self._folder, self._minutes)
        if self._versions.keys() - set(paths):
            raise OrderEnded
        for path in paths:
            try:
                version = read_version(path.stat())
            except FileNotFoundError:
                raise OrderEnded from None
            if self._versions.get(path) != version:
                self._add(path)

    def _add(self, path: Path) -> None:
        with _open(path) as file:
            self._versions[path] = read_version(os.fstat(file.fileno()))
            ids = _hash(open_parquet(file).read(["report_id"])["report_id"])
        known = self._known.setdefault(path, [])
        before = np.concatenate(known) if known else np.zeros(0, np.uint64)
        new = ids[~np.isin(ids, before)]
        if len(ids) - len(new) < len(before):
            raise OrderEnded
        if len(new):
            known.append(new)
            self._segments.append(_Segment(path, new))
            self._ends.append(self._total + len(new))

    def _choose(self, start: int, end: int) -> "list[_Segment]":
        """The parts of the segments between two places."""
        chosen = []
        number = bisect_right(self._ends, start)
        while start < min(end, self._total):
            segment = self._segments[number]
            begin = self._ends[number] - len(segment.ids)
            stop = min(end, self._ends[number])
            chosen.append(_Segment(segment.path, segment.ids[start - begin : stop - begin]))
            start, number = stop, number + 1
        return chosen

    def _read_rows(self, path: Path, ids: Ids, columns: list[str], schema: pa.Schema) -> pa.Table:
        """The rows of a file with these ids, in their order."""
        with _open(path) as file:
            parquet = open_parquet(file)
            present = set(parquet.schema_arrow.names)
            wanted = [name for name in (*columns, "report_id") if name in present]
            rows = parquet.read(list(dict.fromkeys(wanted)))
        found = _hash(rows["report_id"])
        order = np.argsort(found)
        places = np.searchsorted(found, ids, sorter=order)
        if len(found) == 0 or (found[order[np.minimum(places, len(found) - 1)]] != ids).any():
            raise OrderEnded
        return conform_table(rows.take(pa.array(order[places])).combine_chunks(), schema)


def _open(path: Path) -> pa.PythonFile:
    """An open file, which keeps its bytes while others replace it.

    Raises:
        OrderEnded: there is none any more.
        RunFailed: it cannot be opened.
    """
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise OrderEnded from None
    except OSError as error:
        raise RunFailed(f"cannot open {path}: {error.strerror}", "check its permissions") from error


def _hash(ids: pa.ChunkedArray) -> Ids:
    """uint64[n]: a hash of each report_id."""
    fixed = pc.cast(pc.cast(ids.combine_chunks(), pa.binary()), pa.binary(_ID_BYTES))
    return hash_ids(fixed.combine_chunks() if isinstance(fixed, pa.ChunkedArray) else fixed)
