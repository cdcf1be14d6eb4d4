"""The stored files of an output folder, with the digests of their rows by grain.

A file is read once: as long as its inode, size and time of change stay the same, what was read of it counts.
`StoredFiles` remembers that in memory, for a process that derives again and again.
"""

import os
import re
import time
from collections.abc import Hashable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.partitioning import format_window_folder
from schemas.readers.formats import FIRST_US, LAST_US
from schemas.tables import Table
from transforms.core.durable_files import read_version
from transforms.core.grouping import Ints, split_rows
from transforms.core.hashing import Words
from transforms.core.record_batches import conform
from transforms.core.time_units import DAY_US, HOUR_US, MINUTE_US
from transforms.derived.bounds import Period
from transforms.derived.digests import GRAIN, Grains, digest_rows, list_digest_columns
from transforms.derived.snapshot import FileSnapshot
from transforms.derived.task_sets import Hashes, hash_tasks
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import describe_damage, open_parquet

_RECENT_SECONDS = 600
"""A file that was changed since may change again while a pass is at work: it is kept when it is listed."""
_TIMED = re.compile(r"date=(\d+-\d\d-\d\d)/hour=(\d\d)/(?:\d\d)?(\d\d)\.parquet$")
_WINDOWS = "kpi_aggregations"


class StoredFile(NamedTuple):
    """A file of a table, or a part of the file of a sealed day: the rows that a file of hours would have.

    `name`: of the file or part. `period`: its span. `version`: of the file. `grains`: its rows. `tasks`: a
    hash of the task_id of each row, where they were asked for. `schema`: of the file, one object for all
    files with the same.
    """

    name: str
    file: OutputFile
    period: Period
    version: Hashable
    grains: Grains
    tasks: Hashes | None
    schema: pa.Schema


class StoredFiles:
    """The files of an output's tables, read as far as they changed.

    `indexed`: whether to keep the hashes of the task_ids, 4 bytes a row.
    """

    def __init__(self, output: Path, file_minutes: int, indexed: bool = False) -> None:
        self._output, self._minutes, self._indexed = output, file_minutes, indexed
        self._known: dict[OutputFile, tuple[Hashable, list[StoredFile]]] = {}
        self._schemas: dict[pa.Schema, pa.Schema] = {}

    def read(self, table: Table, snapshot: FileSnapshot | None = None) -> "Catalog":
        """All files of a table, as they are now. Those that may change soon are kept in the snapshot.

        Raises:
            DamagedFile: one of them cannot be read, or is missing.
        """
        window = format_window_folder("1h") if table.name == _WINDOWS else ""
        listed = list(OutputFiles.of(self._output).list_versions(table, window))
        found = [part for file, version in listed for part in self._read(table, file, version, snapshot)]
        # Tables may be read at once; the list is made in one step.
        gone = {file for file in list(self._known) if file.name.startswith(f"{table.name}/")}
        for file in gone.difference(each.file for each in found):
            del self._known[file]
        return Catalog(found)

    def _read(
        self, table: Table, file: OutputFile, version: Hashable, snapshot: FileSnapshot | None
    ) -> list[StoredFile]:
        path, kept = file.path, None if file.path else version
        if snapshot is not None and is_recent(file, version):
            version = kept = snapshot.hold(file)
            path = snapshot.find(file)
        if version is None:
            return []
        known = self._known.get(file)
        if known is None or known[0] != version:
            known = self._read_anew(table, file, path, kept)
            if known is not None:
                self._known[file] = known
        return known[1] if known else []

    def _read_anew(
        self, table: Table, file: OutputFile, path: Path | None, kept: Hashable | None
    ) -> tuple[Hashable, list[StoredFile]] | None:
        """The file with its version, as it is when it is opened, or was `kept`; None if it is gone."""
        columns = list_digest_columns(table)
        is_indexed = self._indexed and "task_id" in table.schema.names
        wanted = [*columns, *(["task_id"] if is_indexed else []), *([table.time] if file.is_day else [])]
        try:
            with path.open("rb") if path else BytesIO(file.read()) as source:
                version = kept or read_version(os.fstat(source.fileno()))
                rows, schema = _read_columns(source, list(dict.fromkeys(wanted)))
            schema = self._schemas.setdefault(schema, schema)
            return version, [
                self._make(table, file, name, period, version, part, is_indexed, schema)
                for name, period, part in self._split(table, file, rows)
            ]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, pa.ArrowException) as error:
            raise describe_damage(str(file), f"cannot be read: {error}") from error

    def _make(
        self,
        table: Table,
        file: OutputFile,
        name: str,
        period: Period,
        version: Hashable,
        rows: pa.RecordBatch,
        is_indexed: bool,
        schema: pa.Schema,
    ) -> StoredFile:
        digested = pa.schema([table.schema.field(each) for each in list_digest_columns(table)])
        tasks = hash_tasks(rows["task_id"]) if is_indexed else None
        grains = digest_rows(table, conform(rows, digested))
        return StoredFile(name, file, period, version, grains, tasks, schema)

    def _split(
        self, table: Table, file: OutputFile, rows: pa.RecordBatch
    ) -> Iterator[tuple[str, Period, pa.RecordBatch]]:
        """The parts of a file: of a day those that files of hours would have, so that the spans to derive and
        what each reads do not depend on how days are stored."""
        if not file.is_day:
            yield file.name, self._find_period(file.name), rows
            return
        if not rows.num_rows:
            return
        width = self._find_width(file.name)
        starts = rows[table.time].cast(pa.int64()).to_numpy(zero_copy_only=False) // width * width
        for start, part in split_rows(rows, starts):
            yield f"{file.name}/{start}", Period(start, start + width), part

    def _find_width(self, name: str) -> int:
        return HOUR_US if "/window_size=1" in name else self._minutes * MINUTE_US

    def _find_period(self, name: str) -> Period:
        """The span of a file by its name; all of time if it has none."""
        found = _TIMED.search(name)
        if found is None:
            return Period()
        start = datetime.fromisoformat(f"{found[1]}T{found[2]}:{found[3]}:00").replace(tzinfo=UTC)
        begin = int(start.timestamp()) * 1_000_000
        return Period(begin, begin + self._find_width(name))


class Catalog:
    """The files of a table, and their grains as columns, ascending by the start of the file.

    A grain of file i has the columns `files` (int64: i), `starts` (the file's), `numbers`, `received`, `sums`
    and `counts`.
    """

    def __init__(self, files: list[StoredFile]) -> None:
        self.list = sorted(files, key=lambda file: (file.period, file.name))
        parts = [file.grains for file in self.list]
        sizes = [len(part.numbers) for part in parts]
        self.files = np.repeat(np.arange(len(parts)), sizes)
        bounds = np.array([file.period for file in self.list], dtype=np.int64).reshape(-1, 2)
        self.starts, self.ends = np.repeat(bounds[:, 0], sizes), np.repeat(bounds[:, 1], sizes)
        self.numbers = _join([part.numbers for part in parts], np.int64)
        self.received = _join([part.received for part in parts], np.bool_)
        self.sums = _join([part.sums for part in parts], np.uint64).reshape(-1, 2)
        self.counts = _join([part.counts for part in parts], np.int64)
        # Rows that are effective long before their own time are few, and looked at one by one.
        day_before = np.maximum(self.starts, FIRST_US + DAY_US) - DAY_US
        self._early = np.flatnonzero(self.numbers * GRAIN < day_before)

    def find(self, period: Period, until: int | None = None) -> Ints:
        """The places of grains in files that overlap a span, as far as their number is at most `until`."""
        first, last = np.searchsorted(self.starts, (period.start - HOUR_US, period.end))
        if until is not None and len(self.numbers) and self.starts[0] > FIRST_US:
            last = min(last, np.searchsorted(self.starts, min(LAST_US, until * GRAIN + DAY_US), side="right"))
        places = np.arange(first, max(first, last))
        if until is not None:
            early = self._early[
                (self._early >= places.size + first) & (self.starts[self._early] < period.end)
            ]
            places = np.concatenate([places, early])
            places = places[self.numbers[places] <= until]
        return places[self.ends[places] > period.start]

    def add_up(self, places: Ints) -> Words:
        """uint64[3]: the digest of the rows of some grains, and their number."""
        first, second = self.sums[places].sum(axis=0, dtype=np.uint64) if len(places) else (0, 0)
        return np.array([first, second, self.counts[places].sum()], dtype=np.uint64)

    def name_files(self, places: Ints) -> list[StoredFile]:
        """The files that have some of these grains, in order."""
        return [self.list[number] for number in np.unique(self.files[places]).tolist()]


def is_recent(file: OutputFile, version: Hashable) -> bool:
    """Whether a file of this machine may change while a pass is at work."""
    if file.path is None or file.is_day or not isinstance(version, tuple):
        return False
    return bool(time.time_ns() - version[2] < _RECENT_SECONDS * 10**9)


def _read_columns(file: BinaryIO, names: list[str]) -> tuple[pa.RecordBatch, pa.Schema]:
    """The named columns of an open Parquet file, as far as it has them, as one batch; its schema."""
    with open_parquet(file) as parquet:
        schema = parquet.schema_arrow.remove_metadata()
        present = [name for name in names if name in schema.names]
        table = parquet.read(present).replace_schema_metadata().combine_chunks()
    batches = table.to_batches()
    rows = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
    return rows, schema


def _join(parts: list[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.zeros((0, *parts[0].shape[1:]) if parts else 0, kind), *parts])
