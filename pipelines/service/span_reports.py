"""The reports of short spans, in memory: those at the edges of the spans that are summed up."""

import os
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.service.kept_sums import KeptSums
from pipelines.service.window_sums import REPORT_COLUMNS, AgentNames, WindowSums
from schemas.tables import REPORTS
from transforms.core.durable_files import FileVersion, read_version
from transforms.core.errors import Refused
from transforms.core.record_batches import make_empty
from transforms.core.time_range import Span
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import open_parquet
from transforms.sinks.parquet.row_groups import list_row_groups

MOST_ROWS = 1_000_000
"""Reports that are kept, 52 bytes each."""
_MOST_FILES = 20_000
"""Files of which the row groups are kept."""


class SpanSums(NamedTuple):
    """The reports of row groups that may be in a span, each as a window, and of how many files they are."""

    parts: list[WindowSums]
    files: int


class _File(NamedTuple):
    """The row groups of a file at a version: the span of their times, and their rows."""

    version: FileVersion
    spans: list[Span]
    rows: list[int]

    def find(self, span: Span) -> list[int]:
        """The row groups that may have a time within a span."""
        return [number for number, each in enumerate(self.spans) if each.overlaps(span)]


class _TooMany(Exception):  # noqa: N818 (a state)
    """There are more reports than may be read."""


class SpanReports:
    """The reports of an output. Thread-safe: what a thread reads is replaced, never changed."""

    def __init__(self, names: AgentNames, file_minutes: int) -> None:
        self._names, self._file_minutes = names, file_minutes
        self._files: dict[Path, _File] = {}
        self._kept = KeptSums(MOST_ROWS)

    def read(self, files: OutputFiles, span: Span, most: int) -> SpanSums | None:
        """The reports of a span; None if that takes more than `most` of them, or a file cannot be read here:
        then a query reads every file, and says which one it is."""
        parts: list[WindowSums] = []
        count = 0
        try:
            for file in files.list_span(REPORTS.name, span, self._file_minutes):
                found = self._read(file, span, most)
                count += found is not None
                parts += found or []
                most -= sum(len(each.counts) for each in found or [])
        except (_TooMany, OSError, ValueError, pa.ArrowException, Refused):
            return None
        return SpanSums(parts, count)

    def _read(self, file: OutputFile, span: Span, most: int) -> list[WindowSums] | None:
        """The row groups of a file that may have reports of a span; None if it is gone.

        Raises:
            _TooMany: they have too many.
            FileNotFoundError: it is not on this machine, or that of a sealed day.
            OSError, ValueError, pyarrow.ArrowException, Refused: it cannot be read.
        """
        path = file.path
        if path is None:
            raise FileNotFoundError(str(file))
        try:
            found = self._find(path, span, most)
            return self._open(path, span, most) if found is None else found
        except FileNotFoundError:
            if file.is_day:
                raise
            return None

    def _find(self, path: Path, span: Span, most: int) -> list[WindowSums] | None:
        """The same from what is kept; None if something is not."""
        version, known = read_version(os.stat(path)), self._files.get(path)
        if known is None or known.version != version:
            return None
        kept = [self._kept.get((path, number), version) for number in _choose(known, span, most)]
        return [each.sums for each in kept if each] if all(kept) else None

    def _open(self, path: Path, span: Span, most: int) -> list[WindowSums]:
        with path.open("rb") as file:
            version = read_version(os.fstat(file.fileno()))
            parquet = open_parquet(file)
            groups = map(parquet.metadata.row_group, range(parquet.num_row_groups))
            known = _File(version, list_row_groups(parquet, REPORTS.time), [each.num_rows for each in groups])
            if len(self._files) >= _MOST_FILES:
                self._files.clear()
            self._files[path] = known
            return [
                self._kept.put((path, number), version, self._read_group(parquet, number)).sums
                for number in _choose(known, span, most)
            ]

    def _read_group(self, parquet: pq.ParquetFile, number: int) -> WindowSums:
        rows = parquet.read_row_group(number, REPORT_COLUMNS, use_threads=False)
        if missing := set(REPORT_COLUMNS) - set(rows.column_names):  # pyarrow leaves it out in silence
            raise ValueError(f"there is no column {min(missing)}")
        batches = rows.combine_chunks().to_batches() or [make_empty(rows.schema)]
        return self._names.read_reports(batches[0]).check()


def _choose(file: _File, span: Span, most: int) -> list[int]:
    """The row groups of a file that may have reports of a span.

    Raises:
        _TooMany: they have more than `most`.
    """
    found = file.find(span)
    if sum(file.rows[number] for number in found) > most:
        raise _TooMany
    return found
