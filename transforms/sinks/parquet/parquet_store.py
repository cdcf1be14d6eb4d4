"""Tables as Parquet files, in a folder or on object storage: a file becomes the union of what it holds and what is new.

`schemas.tables.files` names the files; beside them lies `_kpiflow.json`, what the job says of its rows.
"""

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.partitioning import assign_files, format_hour_folder
from schemas.tables import DUPLICATES, FLEET, REPORTS, TABLES, TRIMMED, Table
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.core.grouping import Ints, sort_by_columns
from transforms.core.record_batches import PIECE_BYTES, concat, conform, make_empty, split_by_bytes
from transforms.core.retry import back_off
from transforms.sinks.parquet.sealed_files import damaged, encode, read, verify
from transforms.sinks.parquet.storage import Conflict, Storage, Stored, as_sink_error
from transforms.sinks.row_merge import merge_rows
from transforms.sinks.sink import Written

DESCRIPTION = "_kpiflow.json"
TRIES = 10
"""How often a file is merged while other writers are in the way; each time one of them gets through."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
_IGNORED = ("_", ".", "lost+found")
"""How entries of a new place may begin that are nobody's data."""


class _Part(NamedTuple):
    """A file, and the rows that go there."""

    name: str
    indices: Ints


class _Merged(NamedTuple):
    """A file as it was, and its next content, empty when it stays so; the new rows it takes; the messages it displaces."""

    part: _Part
    stored: Stored | None
    data: bytes | bytearray
    taken: int
    displaced: pa.RecordBatch


def write(table: Table, storage: Storage, rows: Sequence[pa.RecordBatch], file_minutes: int) -> Written:
    """Add rows to the files of a table; afterwards they are safe in the storage. `Written.requests` counts files replaced.

    Batches hold the table's columns in any order, further ones are ignored. Each file is replaced at most once, and not at all when
    nothing in it changes. Messages whose report another message already is go to the duplicates table *before* the reports are
    replaced: a crash in between leaves a message in two tables, of which reconcile counts one, never in none.

    Raises:
        OutputFull: no space is left; files written so far are whole, the same call again completes the rest.
        DamagedFile: a file that would be merged is not as it was written.
        Unavailable: the storage does not answer, or other writers are in the way time and again.
        Refused: the storage will not take files.
    """
    if not sum(batch.num_rows for batch in rows):
        return Written(0, 0)
    gathered = concat([conform(batch, table.schema) for batch in rows])
    folders: dict[str, list[_Part]] = defaultdict(list)
    for part in _routed(table, gathered, file_minutes):
        folders[part.name.rpartition("/")[0]].append(part)
    threads = min(len(folders), storage.threads)
    writing = _Writing(table, storage, gathered, file_minutes, storage.threads // threads)
    with _spread(threads) as spread:
        taken = list(spread(writing.folder, folders, folders.values()))
    counts = [count for folder in taken for count in folder]
    return Written(sum(counts), len(counts))


def _routed(table: Table, rows: pa.RecordBatch, file_minutes: int) -> Iterator[_Part]:
    """The rows of each file, in the order in which they came."""
    codes, names = assign_files(table, rows, file_minutes)
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    narrow = codes.astype(np.min_scalar_type(len(names)))  # numpy sorts 16 bits in linear time
    yield from map(_Part, names, np.split(np.argsort(narrow, kind="stable"), ends[:-1]))


@contextmanager
def _spread(threads: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map` by so many threads; in the caller's where one is enough."""
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads) as pool:
        yield pool.map


@dataclass(frozen=True, eq=False)
class _Writing:
    """Some rows on their way into the files of a table; the files of one folder share `threads`."""

    table: Table
    storage: Storage
    rows: pa.RecordBatch
    file_minutes: int
    threads: int

    def folder(self, folder: str, parts: Sequence[_Part]) -> list[int]:
        """Merge rows into the files of a folder; the number of rows that each file that changed has taken."""
        taken: list[int] = []
        with self.storage.locked(folder), _spread(min(len(parts), self.threads)) as spread:
            for _ in back_off(TRIES, _FIRST_PAUSE, _LONGEST_PAUSE):
                merged = list(spread(self._merge, parts))
                self._displace(merged)
                changed = [one for one in merged if one.taken]
                put = list(spread(self._put, changed))
                taken += [one.taken for one, done in zip(changed, put) if done]
                parts = [one.part for one, done in zip(changed, put) if not done]
                if not parts:
                    return taken
        where = self.storage.where(parts[0].name)
        raise Unavailable(
            f"{where} was changed by other writers {TRIES} times while it was merged; let fewer write to one output"
        )

    def _merge(self, part: _Part) -> _Merged:
        """The union of a file, if there is one, and new rows."""
        held, stored = make_empty(self.table.schema), self.storage.get(part.name)
        if stored is not None:
            where = self.storage.where(part.name)
            if problem := verify(stored.data):
                raise damaged(where, problem)
            held = read(stored.data, name=where)
        merged = merge_rows(self.table, held, self._sorted(part.indices), sorted_new=True)
        return _Merged(
            part, stored, encode(merged.rows) if merged.taken else b"", merged.taken, merged.displaced
        )

    def _sorted(self, indices: Ints) -> pa.RecordBatch:
        """These rows as a file holds them."""
        names = self.table.file_order
        order = sort_by_columns(self.rows.select(names).take(pa.array(indices)), names)
        return self.rows.take(pa.array(indices[order]))

    def _displace(self, merged: Sequence[_Merged]) -> None:
        displaced = concat([one.displaced for one in merged])
        if displaced.num_rows:
            write(DUPLICATES, self.storage, [displaced], self.file_minutes)

    def _put(self, merged: _Merged) -> bool:
        """Whether the file could be replaced: no other writer was there in between."""
        try:
            self.storage.put(merged.part.name, merged.data, merged.stored and merged.stored.version)
        except Conflict:
            return False
        return True


def by_time(reports: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Rows of kpi_reports as batches of at most PIECE_BYTES, ascending in time from batch to batch."""
    count = min(-(-reports.nbytes // PIECE_BYTES), reports.num_rows)
    if count <= 1:
        yield from split_by_bytes(reports, REPORTS.schema)
        return
    for rows in np.array_split(sort_by_columns(reports.select([REPORTS.time]), (REPORTS.time,)), count):
        yield from split_by_bytes(reports.take(pa.array(rows)), REPORTS.schema)


@dataclass(frozen=True)
class ParquetFiles:
    """A store of files; `file_minutes` (a divisor of 60) is the span of a `<HHMM>.parquet`."""

    storage: Storage
    file_minutes: int = 30
    gather_seconds: int = 5

    @property
    def name(self) -> str:
        return self.storage.name

    @property
    def tables(self) -> tuple[str, ...]:
        return (*TABLES, FLEET.name, TRIMMED.name)

    def write(self, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
        return write(table, self.storage, rows, self.file_minutes)

    def check(self) -> Iterator[Finding]:
        what, well = "an output of kpiflow, or an empty place", True
        for finding in self.storage.check():
            well = well and not finding.problem
            yield finding
        if well:
            try:
                self.read_description()
                yield Finding(what)
            except (Refused, Unavailable) as error:
                yield Finding.of(what, error)

    def read_description(self) -> dict[str, Any] | None:
        stored = self.storage.get(DESCRIPTION)
        if stored is not None:
            return self._parsed(stored)
        foreign = sorted(entry for entry in self.storage.entries() if not entry.startswith(_IGNORED))
        if foreign:
            held = f"it holds {', '.join(foreign[:3])} but no {DESCRIPTION}"
            raise Refused(
                f"{self.name} is no output of kpiflow: {held}; name an empty or a new place as the output"
            )
        return None

    def prepare(self, description: dict[str, Any]) -> None:
        data = (json.dumps(description, indent=2) + "\n").encode()
        with self.storage.locked(""):
            stored = self.storage.get(DESCRIPTION)
            known = self.read_description() if stored is None else self._parsed(stored)
            if known is None:
                try:
                    self.storage.put(DESCRIPTION, data, None)
                except Conflict:
                    known = self.read_description()
            if known is not None and known != description:
                raise Refused(
                    f"another job has begun {self.name} otherwise at the same time; run this one again"
                )

    def has_reports(self) -> bool:
        return any(True for _ in self._files(REPORTS.name))

    def read_reports(self, hour: int) -> Iterator[pa.RecordBatch]:
        start = datetime.fromtimestamp(0, UTC) + timedelta(hours=hour)
        names = sorted(self._files(f"{REPORTS.name}/{format_hour_folder(start)}"))
        for name, stored in self._fetched(names):
            yield from by_time(conform(read(stored.data, name=self.storage.where(name)), REPORTS.schema))

    def copy_to(self, folder: Path) -> None:
        names = [DESCRIPTION, *(name for table in self.tables for name in self._files(table))]
        for name, stored in self._fetched(names):
            with as_sink_error(folder):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(stored.data)

    def _parsed(self, stored: Stored) -> dict[str, Any]:
        try:
            description = json.loads(stored.data)
            if not isinstance(description, dict):
                raise ValueError("it is no JSON object")
        except ValueError as error:
            where = self.storage.where(DESCRIPTION)
            raise Refused(
                f"{where} is damaged ({error}); put it back from a copy, or name another output"
            ) from error
        return description

    def _files(self, folder: str) -> Iterator[str]:
        return (name for name in self.storage.names(folder) if name.endswith(".parquet"))

    def _fetched(self, names: Sequence[str]) -> Iterator[tuple[str, Stored]]:
        """Files in the order of `names`, the next ones on their way while one is used; those that are gone by now are left out."""
        get, left = self.storage.get, iter(names)
        with ThreadPoolExecutor(self.storage.threads) as pool:
            ahead = deque((name, pool.submit(get, name)) for name in islice(left, self.storage.threads))
            while ahead:
                name, coming = ahead.popleft()
                stored = coming.result()
                ahead.extend((each, pool.submit(get, each)) for each in islice(left, 1))
                if stored is not None:
                    yield name, stored
