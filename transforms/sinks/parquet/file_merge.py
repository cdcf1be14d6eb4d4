"""Adding rows to the files of a table: each file becomes the merged set of its rows and the new ones."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.kinds import KIND_OF_TABLE
from schemas.partitioning import assign_files
from schemas.tables import DUPLICATES, QUARANTINED, REPORTS, Table
from transforms.core.errors import Unavailable
from transforms.core.events import MESSAGES_EXPIRED, log_event
from transforms.core.grouping import Ints, sort_by_columns
from transforms.core.key_wrapping import MonthKey
from transforms.core.process_stats import WRITTEN, count_expired, observe_latency
from transforms.core.record_batches import concat, conform, make_empty
from transforms.core.retry import back_off
from transforms.sinks.parquet.day_file import encode_day_file
from transforms.sinks.parquet.outcome_ledger import FileChange, OutcomeLedger, is_counted, measure_growth
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import encode_file, read_whole
from transforms.sinks.row_merge import merge_rows
from transforms.sinks.sink import Written
from transforms.storage.storage import Conflict, Storage, Stored

ATTEMPTS = 10
"""How often a file is merged again because another writer changed it; each time one of the writers succeeds.
"""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0


class _Part(NamedTuple):
    """A file, and the numbers of the rows that belong to it."""

    file: OutputFile
    rows: Ints


class _Merged(NamedTuple):
    """What a file holds (`stored`) and is to hold (`data`, empty if it does not change).

    `taken`: the new rows in it; `displaced` (DUPLICATE): the messages that lose their place to another
    message; `growth`: what is new in it for the ledger, by reason; `received`: when the new reports in it
    were received.
    """

    part: _Part
    stored: Stored | None
    data: bytes | bytearray
    taken: int
    displaced: pa.RecordBatch
    growth: Mapping[str, int] = MappingProxyType({})
    received: pa.Array | None = None


def write_rows(
    table: Table,
    storage: Storage,
    rows: Sequence[pa.RecordBatch],
    file_minutes: int,
    ledger: OutcomeLedger | None = None,
    key: MonthKey | None = None,
) -> Written:
    """Add rows to the files of a table; on return they are safe. `Written.requests` counts the files
    replaced.

    Batches have the table's columns in any order; others are ignored. Each file is replaced at most once, and
    not at all if nothing in it changes. Rows of a sealed day go into its file, wherever that is. Rows of an
    expired day go nowhere; messages among them are counted as expired, since the job that wrote them began
    before they were. Messages that lose their place to another message of the same report go to the
    duplicates table *before* the reports are replaced: a crash in between leaves a message in two tables, of
    which reconcile counts one, never in none. With a `ledger` it is counted how much files grow.
    With a `key` the files are encrypted.

    Raises:
        OutputFull: no space is left. The files written so far are complete; the same call again does the
        rest.
        DamagedFile: a file to merge with is not as it was written.
        Unavailable: the storage does not answer, or other writers changed a file again and again.
        Refused: the storage will not take files.
    """
    if not sum(batch.num_rows for batch in rows):
        return Written(0, 0)
    gathered = concat([conform(batch, table.schema) for batch in rows])
    left = dict(_split_by_name(table, gathered, file_minutes))
    counted = ledger if is_counted(table) else None
    files, counts = OutputFiles.of(storage), []
    while left:
        _count_expired(table, gathered, [part for name, part in left.items() if files.find(name) is None])
        parts = _choose_files(files, left)
        merge = _FileMerge(table, storage, gathered, file_minutes, counted, key)
        counts += merge.merge_parts(parts)
        # A day that was sealed or moved in the meantime lacks what was written to its old files.
        before, files = files, OutputFiles.of(storage)
        left = {name: part for name, part in left.items() if files.find(name) != before.find(name)}
    return Written(sum(counts), len(counts))


def _split_by_name(table: Table, rows: pa.RecordBatch, file_minutes: int) -> Iterator[tuple[str, Ints]]:
    """The rows of each file of hours, by its name, in the order in which they came."""
    codes, names = assign_files(table, rows, file_minutes)
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    narrow = codes.astype(np.min_scalar_type(len(names)))  # numpy sorts integers of 16 bits in linear time
    yield from zip(names, np.split(np.argsort(narrow, kind="stable"), ends[:-1]))


def _choose_files(files: OutputFiles, rows: Mapping[str, Ints]) -> list[_Part]:
    """The rows by the file that gets them: those of a sealed day have one."""
    chosen: dict[OutputFile, list[Ints]] = defaultdict(list)
    for name, numbers in rows.items():
        if (file := files.find(name)) is not None:
            chosen[file].append(numbers)
    return [_Part(file, np.concatenate(numbers)) for file, numbers in chosen.items()]


def _count_expired(table: Table, rows: pa.RecordBatch, expired: Sequence[Ints]) -> None:
    """Count the messages among rows of expired days. Rows of windows are no messages."""
    kind = KIND_OF_TABLE.get(table.name)
    if not expired or (kind is None and table.name not in (DUPLICATES.name, QUARANTINED.name)):
        return
    numbers = np.concatenate(expired)
    kinds = [kind.schema] * len(numbers) if kind else rows["kind"].take(pa.array(numbers)).to_pylist()
    for name, count in Counter(kinds).items():
        count_expired(name or "unknown", count)
    log_event(MESSAGES_EXPIRED, table=table.name, messages=len(numbers))


@contextmanager
def _open_map(threads: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map` over a pool of threads; the plain `map` if one thread is enough."""
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads) as pool:
        yield pool.map


@dataclass(frozen=True, eq=False)
class _FileMerge:
    """Rows on their way into the files of a table, of which `storage` is the first root."""

    table: Table
    storage: Storage
    rows: pa.RecordBatch
    file_minutes: int
    ledger: OutcomeLedger | None
    key: MonthKey | None

    def merge_parts(self, parts: Sequence[_Part]) -> list[int]:
        """Merge rows into files; the number of new rows in each file that changed."""
        folders: dict[OutputFile, list[_Part]] = defaultdict(list)
        for part in parts:
            name, root = part.file
            folders[OutputFile(name.rpartition("/")[0], root)].append(part)
        threads = min(len(folders), self.storage.threads) or 1
        merge = partial(self._merge_folder, self.storage.threads // threads)
        with _open_map(threads) as map_threads:
            taken = list(map_threads(merge, folders, folders.values()))
        return [count for folder in taken for count in folder]

    def _merge_folder(self, threads: int, folder: OutputFile, parts: Sequence[_Part]) -> list[int]:
        """Merge rows into the files of a folder; the number of new rows in each file that changed."""
        taken: list[int] = []
        lock = folder.storage.lock(folder.name)
        with lock, _open_map(min(len(parts), threads)) as map_threads:
            for _ in back_off(ATTEMPTS, _FIRST_PAUSE, _LONGEST_PAUSE):
                merged = list(map_threads(self._merge, parts))
                self._write_displaced(merged)
                changed = [one for one in merged if one.taken]
                is_put = self._put_counted(merged, changed, map_threads)
                taken += [one.taken for one, done in zip(changed, is_put) if done]
                parts = [one.part for one, done in zip(changed, is_put) if not done]
                if not parts:
                    return taken
        raise Unavailable(
            f"{parts[0].file} was changed by other writers {ATTEMPTS} times while it was merged; "
            "let fewer write to one output"
        )

    def _merge(self, part: _Part) -> _Merged:
        """Merge the rows of a part with the file, if there is one."""
        old, stored = make_empty(self.table.schema), part.file.get()
        if stored is not None:
            old = read_whole(stored.data, str(part.file))
        merged = merge_rows(self.table, old, self._sort(part.rows), sorted_new=True)
        encode = partial(encode_day_file, self.table) if part.file.is_day else encode_file
        data = encode(merged.rows, key=self.key) if merged.taken else b""
        result = _Merged(part, stored, data, merged.taken, merged.displaced)
        if self.ledger is None or not merged.taken:
            return result
        growth, received = measure_growth(self.table, old, merged.rows), self._find_received(part, old)
        return result._replace(growth=growth, received=received)

    def _find_received(self, part: _Part, old: pa.RecordBatch) -> pa.Array | None:
        """When the reports of a part were received that are in no file yet: others come again, or are
        revised."""
        if self.table.name != REPORTS.name:
            return None
        new = self.rows.select(["report_id", "received_at"]).take(pa.array(part.rows))
        return new["received_at"].filter(pc.invert(pc.is_in(new["report_id"], old["report_id"])))

    def _sort(self, numbers: Ints) -> pa.RecordBatch:
        """These rows in the order of a file. They are sorted before they are gathered: one copy of the wide
        columns."""
        names = self.table.file_order
        order = sort_by_columns(self.rows.select(names).take(pa.array(numbers)), names)
        return self.rows.take(pa.array(numbers[order]))

    def _write_displaced(self, merged: Sequence[_Merged]) -> None:
        displaced = concat([one.displaced for one in merged])
        if displaced.num_rows:
            write_rows(DUPLICATES, self.storage, [displaced], self.file_minutes, self.ledger, self.key)

    def _put_counted(
        self, merged: Sequence[_Merged], changed: Sequence[_Merged], map_threads: Callable[..., Iterator[Any]]
    ) -> list[bool]:
        """Replace the files that change, with the growth in the ledger; which of them are replaced."""
        if self.ledger is None:
            return list(map_threads(self._put, changed))
        changes = [
            FileChange(one.part.file.name, one.stored and one.stored.data, one.data, one.growth)
            for one in merged
        ]
        self.ledger.begin(self.table.name, changes)
        is_put = list(map_threads(self._put, changed))
        self.ledger.commit(self.table.name, {one.part.file.name: done for one, done in zip(changed, is_put)})
        for one, done in zip(changed, is_put):
            if done and one.received is not None:
                observe_latency(WRITTEN, one.received)
        return is_put

    def _put(self, merged: _Merged) -> bool:
        """Replace the file; False if another writer has changed it since it was read."""
        version = merged.stored.version if merged.stored else None
        try:
            merged.part.file.storage.put(merged.part.file.name, merged.data, version)
        except Conflict:
            return False
        return True
