"""The rows of a day out of its files of hours, in the order of the day's file, in bounded memory.

A file of hours is in the order of its table. Where that is by agent and then by time, so is each block of
BLOCK_HOURS of the day. The agents of a block are divided into ranges of about PART_ROWS rows; each file is
read once and its rows of each range are spilled to a work folder; then the ranges are put together one by
one. Memory is bounded by a file of hours and by a range. Where the order of a table does not begin so, the
day is its hours one after the other.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import Table
from transforms.core.grouping import Ints, sort_by_columns
from transforms.core.key_wrapping import MonthKey
from transforms.core.record_batches import concat, conform
from transforms.sinks.parquet.day_file import BLOCK_HOURS
from transforms.sinks.parquet.parquet_file import encode_file, read_file

PART_ROWS = 1 << 17
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")

ReadHours = Callable[[str, Sequence[str] | None], pa.RecordBatch]
"""The rows of a file of hours by its name: all columns, or those of some names."""


def merge_day(
    table: Table,
    names: Sequence[str],
    read: ReadHours,
    work: Path,
    part_rows: int = PART_ROWS,
    key: MonthKey | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of files of hours, given in the order of time, as batches in the order of the day's file.

    With a `key` nothing is written to the work folder that is not encrypted.
    """
    if table.order[1:2] != (table.time,):
        for name in names:
            yield conform(read(name, None), table.schema)
        return
    for block, same in groupby(names, key=_number_block):
        yield from _merge_block(table, list(same), read, work / str(block), part_rows, key)


def _number_block(name: str) -> int:
    """The block of a file of hours, by its name `.../hour=HH/HHMM.parquet`."""
    return int(name.rpartition("/")[2][:2]) // BLOCK_HOURS


def _merge_block(
    table: Table, names: Sequence[str], read: ReadHours, work: Path, part_rows: int, key: MonthKey | None
) -> Iterator[pa.RecordBatch]:
    """As `merge_day`, of the files of a block."""
    column = table.order[0]
    encoded = [read(name, [column])[column].dictionary_encode("encode") for name in names]
    parts = divide_rows(encoded, part_rows)
    spills = [_Spill(work / str(number), key) for number in range(len(names))]
    for name, spill, places in zip(names, spills, parts):
        spill.write(conform(read(name, None), table.schema), places)
    for part in range(1 + max((int(each.max(initial=-1)) for each in parts), default=-1)):
        rows = concat([spill.read(part) for spill in spills if part in spill.parts])
        order = sort_by_columns(rows.select(table.file_order), table.file_order)
        yield rows.take(pa.array(order))


def divide_rows(encoded: Sequence[pa.DictionaryArray], part_rows: int) -> list[Ints]:
    """The part of each row of each file (int64[n]), by its value in the first column of the order.

    Parts ascend by that value. A value with more rows than `part_rows` has parts of its own, by file.
    """
    dictionaries = [each.dictionary for each in encoded]
    values = pc.unique(pa.chunked_array(dictionaries, pa.string())) if dictionaries else pa.array([])
    values = values.take(pc.sort_indices(values))
    places = [pc.index_in(each, values).to_numpy() for each in dictionaries]
    counts = np.zeros((len(encoded), len(values)), np.int64)
    for file, (each, place) in enumerate(zip(encoded, places)):
        counts[file, place] = np.bincount(each.indices.to_numpy(), minlength=len(place))
    parts = _divide_cells(counts, part_rows)
    return [
        parts[file, place][each.indices.to_numpy()] for file, (each, place) in enumerate(zip(encoded, places))
    ]


def _divide_cells(counts: Ints, part_rows: int) -> Ints:
    """int64[files, values]: the part of the rows that a file has of a value, by their counts."""
    parts = np.zeros_like(counts)
    part = size = 0
    for value, total in enumerate(counts.sum(axis=0).tolist()):
        if size and size + total > part_rows:
            part, size = part + 1, 0
        if total <= part_rows:
            parts[:, value] = part
            size += total
            continue
        for file, rows in enumerate(counts[:, value].tolist()):
            if size and size + rows > part_rows:
                part, size = part + 1, 0
            parts[file, value] = part
            size += rows
    return parts


class _Spill:
    """The rows of a file in a folder, a file for each part."""

    def __init__(self, folder: Path, key: MonthKey | None) -> None:
        self.folder, self.key = folder, key
        self.parts: set[int] = set()

    def write(self, rows: pa.RecordBatch, parts: Ints) -> None:
        """Write rows by their parts."""
        self.folder.mkdir(parents=True)
        if (np.diff(parts) < 0).any():
            order = np.argsort(parts, kind="stable")
            rows, parts = rows.take(pa.array(order)), parts[order]
        used, starts = np.unique(parts, return_index=True)
        for part, start, end in zip(used.tolist(), starts.tolist(), [*starts[1:].tolist(), rows.num_rows]):
            self._write(self.folder / str(part), rows.slice(start, end - start))
            self.parts.add(part)

    def read(self, part: int) -> pa.RecordBatch:
        """The rows of a part; its file is removed."""
        path = self.folder / str(part)
        if self.key:
            rows = read_file(path)
        else:
            with pa.memory_map(str(path)) as source:
                rows = pa.ipc.open_file(source).get_batch(0)
        path.unlink()
        return rows

    def _write(self, path: Path, rows: pa.RecordBatch) -> None:
        if self.key:
            path.write_bytes(encode_file(rows, key=self.key))
            return
        with pa.ipc.new_file(path, rows.schema, options=_LZ4) as writer:
            writer.write_batch(rows)
