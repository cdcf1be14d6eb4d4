"""Which windows stand for the reports of a span, so that a summary need not read them.

A window counts only if it has every report: where the windows of an hour have as many reports as its files,
by the index of tasks. Windows are made of these reports, so then they have the same. Where a stream has not
yet written a window, or a late report is not yet in one, the reports of the hour are read. Whole hours are
taken from windows of an hour, the rest of an hour from those of a minute, the rest of a minute from reports.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pyarrow as pa

from pipelines.queries.means import Covered
from pipelines.queries.sums import WINDOWS
from pipelines.service.folder_listing import is_settled
from pipelines.service.task_index import Counted, TaskIndex
from pipelines.service.window_sums import AgentNames, WindowSums, join_sums, merge_sums
from schemas.partitioning import format_hour_folder, format_window_folder
from schemas.tables import AGGREGATIONS
from transforms.core.durable_files import read_version
from transforms.core.errors import Refused
from transforms.core.time_range import Span
from transforms.sinks.parquet.local_folder import LocalFolder
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import read_file

_HOUR, _MINUTE = timedelta(hours=1), timedelta(minutes=1)
_EPOCH, _MICROSECOND = datetime.fromtimestamp(0, UTC), timedelta(microseconds=1)
MOST_ROWS = 2_000_000
"""Windows that are kept, 44 bytes each."""


class _Kept(NamedTuple):
    """The windows of some files, and the version of these. `reports`: how many are in them."""

    version: Hashable
    sums: WindowSums
    reports: int


class WindowCover:
    """The windows of an output. Thread-safe."""

    def __init__(self, index: TaskIndex) -> None:
        self._index = index
        self._names = AgentNames()
        self._kept: OrderedDict[tuple[str, datetime], _Kept] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def cover(self, files: OutputFiles, span: Span, by_hour: bool) -> Covered | None:
        """The windows of a span, and the spans whose reports must be read; None if there are no windows, or
        files are not on this machine. `by_hour`: the windows of an agent are not merged."""
        places = self._index.count(files, span)
        if places is None:
            return None
        sums: list[WindowSums] = []
        left: list[Span] = []
        for place in places:
            taken, rest = self._cover_place(files, place, _intersect(span, Span(place.start, place.end)))
            sums += taken
            left += rest
        if not sums:
            return None
        joined = join_sums(sums)
        return Covered(self._names.make_rows(joined if by_hour else merge_sums(joined)), tuple(_join(left)))

    def _cover_place(
        self, files: OutputFiles, place: Counted, span: Span
    ) -> tuple[list[WindowSums], list[Span]]:
        """The windows of a part of an hour or of a sealed day, and what they leave."""
        sums: list[WindowSums] = []
        left = [span]
        for size, width in (("1h", _HOUR), ("1m", _MINUTE)):
            rest: list[Span] = []
            for each in left:
                whole = _shrink(each, width)
                kept = self._get(files, size, place) if whole else None
                if whole is None or kept is None or kept.reports != place.reports:
                    rest.append(each)
                    continue
                is_all = whole == Span(place.start, place.end)
                sums.append(kept.sums if is_all else kept.sums.keep_within(*_read_bounds(whole)))
                rest += _subtract(each, whole)
            left = rest
        return sums, left

    def _get(self, files: OutputFiles, size: str, place: Counted) -> _Kept | None:
        """The windows of a size in a place, as they are now; None if they cannot be read here."""
        try:
            version = _read_version(files, size, place)
            kept = self._kept.get((size, place.start))
            if kept is None or kept.version != version:
                kept = self._read(files, size, place, version)
            return kept
        except (OSError, ValueError, pa.ArrowException, Refused):
            return None

    def _read(self, files: OutputFiles, size: str, place: Counted, version: Hashable) -> _Kept:
        """Read windows and keep them; forget those that were read first where there are too many."""
        batches = [read_file(file.open(), WINDOWS) for file in _list_files(files, size, place)]
        sums = join_sums([self._names.read(batch) for batch in batches])
        new = _Kept(version, sums, int(sums.counts.sum()))
        with self._lock:
            old = self._kept.pop((size, place.start), None)
            self._count += len(sums.counts) - (len(old.sums.counts) if old else 0)
            self._kept[size, place.start] = new
            while self._count > MOST_ROWS and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._count -= len(oldest.sums.counts)
        return new


def _list_files(files: OutputFiles, size: str, place: Counted) -> list[OutputFile]:
    folder = _name_folder(size)
    if place.end - place.start == _HOUR:
        return files.list_hour(folder, place.start)
    return files.list_span(folder, Span(place.start, place.end), 60)


def _read_version(files: OutputFiles, size: str, place: Counted) -> Hashable:
    """What differs when the windows of a place were added or replaced: the change of their folder, or the
    versions of their files.

    Raises:
        FileNotFoundError: one is not on this machine, or missing.
    """
    if files.is_plain and isinstance(files.hot, LocalFolder):
        folder = f"{files.hot.path}/{_name_folder(size)}/{format_hour_folder(place.start)}"
        changed = os.stat(folder).st_mtime_ns
        return changed if is_settled(changed) else object()
    found = _list_files(files, size, place)
    if any(file.path is None for file in found):
        raise FileNotFoundError(str(found[0]))
    return tuple(read_version(os.stat(file.path)) for file in found if file.path)


def _name_folder(size: str) -> str:
    return f"{AGGREGATIONS.name}/{format_window_folder(size)}"


def _read_bounds(span: Span) -> tuple[int, int]:
    """The bounds of a span in microseconds since 1970."""
    assert span.start
    assert span.end
    return (span.start - _EPOCH) // _MICROSECOND, (span.end - _EPOCH) // _MICROSECOND


def _intersect(one: Span, other: Span) -> Span:
    """What a span has in common with another, which has both bounds and overlaps it."""
    assert other.start
    assert other.end
    start = other.start if one.start is None else max(one.start, other.start)
    return Span(start, other.end if one.end is None else min(one.end, other.end))


def _shrink(span: Span, width: timedelta) -> Span | None:
    """The windows of a width that are whole within a span; None if there are none."""
    assert span.start
    assert span.end
    start = span.start + (-_since_midnight(span.start)) % width
    end = span.end - _since_midnight(span.end) % width
    return Span(start, end) if start < end else None


def _since_midnight(moment: datetime) -> timedelta:
    return moment - moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _subtract(span: Span, inner: Span) -> list[Span]:
    """What is left of a span before and after one within it."""
    found = [Span(span.start, inner.start), Span(inner.end, span.end)]
    return [each for each in found if each.start != each.end]


def _join(spans: list[Span]) -> list[Span]:
    """Spans in order, those that touch as one."""
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].end == span.start:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined
