"""Time slices: how a backfill larger than memory is cut.

The messages are first sorted into one file per hour, by the hour that their bytes name as recorded_at (or
else by received_at), and the graph then runs over a few hours at a time, each run recalling the stored
reports that it touches. Since runs that follow one another give what one run would, the cut only needs to be
roughly right: it bounds memory, never the result.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transforms.core.grouping import split_rows
from transforms.core.record_batches import RAW, concat

BATCH_BYTES = 16 << 20
_RECORDED = (
    r'"recorded_at"\s*:\s*"(?P<hour>\d{4}-\d{2}-\d{2}[Tt]\d{2})'
    r"(?::(?P<minute>\d{2}):[\d.]*(?P<sign>[+-])(?P<hours>\d{2}):(?P<minutes>\d{2}))?"
)
"""The hour, and where an offset from UTC follows, that and the minute."""
_NUMBERS = ("minute", "hours", "minutes")
_HOUR_US = 3_600_000_000


@dataclass
class _Hour:
    path: Path
    rows: int = 0


class Spool:
    """Messages on disk, by hour, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hours: dict[int, _Hour] = {}

    def add(self, messages: pa.RecordBatch) -> None:
        """Put RAW messages behind those of their hours."""
        for hour, rows in split_rows(messages, approximate_hours(messages)):
            entry = self._hours.setdefault(hour, _Hour(self.folder / f"{hour}.arrows"))
            with entry.path.open("ab") as file, pa.ipc.new_stream(file, RAW, options=_OPTIONS) as writer:
                writer.write_batch(rows)
            entry.rows += rows.num_rows

    def slices(self, rows: int) -> list[list[Path]]:
        """The files of consecutive hours, in order, of at most about `rows` messages; no hour is cut."""
        found: list[list[Path]] = []
        held = rows
        for hour in sorted(self._hours):
            entry = self._hours[hour]
            if held + entry.rows > rows:
                found.append([])
                held = 0
            found[-1].append(entry.path)
            held += entry.rows
        return found


_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


def approximate_hours(messages: pa.RecordBatch) -> NDArray[np.int64]:
    """int64[n]: hours since 1970 as the payload's bytes say at first sight, else of received_at, else 0."""
    found = pc.extract_regex(messages["payload"], _RECORDED)
    texts = pc.struct_field(found, "hour").cast(pa.string())
    named = pc.strptime(pc.utf8_upper(texts), format="%Y-%m-%dT%H", unit="s", error_is_null=True).cast(
        pa.int64()
    )
    received = pc.floor(
        pc.divide(messages["received_at"].cast(pa.int64()).cast(pa.float64()), _HOUR_US)
    ).cast(pa.int64())
    hours = np.array(pc.coalesce(pc.divide(named, 3600), received, 0))
    rows = np.flatnonzero(pc.fill_null(pc.not_equal(pc.struct_field(found, "sign"), b""), False))
    hours[rows] += _shifts(found.take(pa.array(rows)))
    return hours


def _shifts(found: pa.StructArray) -> NDArray[np.int64]:
    """int64[n]: hours from the one that is named to that of UTC, of what has an offset."""
    minute, hours, minutes = (
        pc.struct_field(found, name).cast(pa.string()).cast(pa.int64()).to_numpy() for name in _NUMBERS
    )
    east = np.where(pc.equal(pc.struct_field(found, "sign"), b"+"), 1, -1)
    shifts: NDArray[np.int64] = (minute - east * (60 * hours + minutes)) // 60
    return shifts


def read(path: Path) -> Iterator[pa.RecordBatch]:
    """The messages of a spool file, in batches of a good size to parse."""
    held: list[pa.RecordBatch] = []
    size = 0
    with path.open("rb") as file:
        end = path.stat().st_size
        while file.tell() < end:
            with pa.ipc.open_stream(file) as stream:
                for batch in stream:
                    held.append(batch)
                    size += batch.nbytes
            if size >= BATCH_BYTES:
                yield concat(held)
                held, size = [], 0
    if held:
        yield concat(held)


class ReadSpool(beam.PTransform):
    """The messages (RAW) of spool files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.paths = [str(path) for path in paths]

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            root
            | beam.Create(self.paths, reshuffle=False)
            | beam.FlatMap(lambda path: read(Path(path))).with_output_types(pa.RecordBatch)
        )
