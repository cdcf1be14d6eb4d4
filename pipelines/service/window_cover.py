"""Which windows stand for the reports of a span, so that a summary need not read them.

A window counts only if it has every report: where the windows of an hour have as many reports as its files,
by the index of tasks. Windows are made of these reports, so then they have the same. Where a stream has not
yet written a window, or a late report is not yet in one, the reports of the hour are read. Whole hours are
taken from windows of an hour, the rest of an hour from those of a minute, the rest of a minute from reports.
"""

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipelines.queries.means import Covered
from pipelines.queries.sums import WINDOWS
from pipelines.service.folder_listing import is_settled
from pipelines.service.kept_sums import Kept, KeptSums
from pipelines.service.span_reports import SpanReports
from pipelines.service.task_index import CountedReports, TaskIndex
from pipelines.service.window_sums import AgentNames, WindowSums, join_sums, merge_sums
from schemas.partitioning import format_hour_folder, format_window_folder
from schemas.tables import AGGREGATIONS, REPORTS
from transforms.core.durable_files import read_version
from transforms.core.errors import Refused
from transforms.core.time_range import Span
from transforms.sinks.parquet.maintenance_ledger import UNSEALED, Ledger
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import read_file
from transforms.storage.local_folder import LocalFolder

_HOUR, _MINUTE = timedelta(hours=1), timedelta(minutes=1)
_EPOCH, _MICROSECOND = datetime.fromtimestamp(0, UTC), timedelta(microseconds=1)
MOST_WINDOWS = 2_000_000
"""Windows that are kept, 52 bytes each."""
MOST_MERGED = 500_000
"""Windows merged by day that are kept, as large."""
READ_FIRST = 192
"""Hours, or sealed days, whose windows are read at the start: those of 8 days."""
MOST_REPORTS = 200_000
"""Reports that are read here for a query; DuckDB reads those of a span that needs more."""


class _Whole(NamedTuple):
    """The windows of an hour, or of a sealed day, that is whole within a span."""

    start: datetime
    kept: Kept


class WindowCover:
    """The windows of an output. Thread-safe."""

    def __init__(self, index: TaskIndex, file_minutes: int) -> None:
        self._index = index
        self._names = AgentNames()
        self._kept = KeptSums(MOST_WINDOWS)
        self._days = KeptSums(MOST_MERGED)
        self._reports = SpanReports(self._names, file_minutes)

    def read(self, files: OutputFiles, is_ending: Callable[[], bool]) -> None:
        """Read the newest windows of 1 h, so that no request waits for those of a week."""
        for place in (self._index.count(files, Span()) or [])[-READ_FIRST:]:
            if is_ending():
                return
            self._get(files, "1h", place)

    def cover(self, files: OutputFiles, span: Span, by_hour: bool) -> Covered | None:
        """The windows of a span, and the spans whose reports must be read; None if there are no windows, or
        files are not on this machine. `by_hour`: there is a window for each hour."""
        places = self._index.count(files, span)
        if places is None or files.list_untimed(REPORTS):
            return None
        sums: list[WindowSums] = []
        left: list[Span] = []
        whole: list[_Whole] = []
        for place in places:
            kept = self._find_whole(files, place, span)
            if kept is not None:
                whole.append(_Whole(place.start, kept))
                continue
            taken, rest = self._cover_place(files, place, span)
            sums += taken
            left += rest
        sums += (each.kept.sums for each in whole) if by_hour else self._merge_days(whole)
        more, spans, count = self._read_reports(files, _join(left))
        sums += more
        if not sums:
            return None

        def merge(rest: pa.Table | None) -> pa.Table:
            others = [self._names.read_windows(batch) for batch in (rest.to_batches() if rest else [])]
            return self._names.make_rows(merge_sums(join_sums([*sums, *others]), by_hour))

        return Covered(tuple(spans), count, merge)

    def _cover_place(
        self, files: OutputFiles, place: CountedReports, span: Span
    ) -> tuple[list[WindowSums], list[Span]]:
        """The windows of a part of an hour or of a sealed day, and what they leave."""
        left, sums = [_intersect(span, Span(place.start, place.end))], []
        for size, width in (("1h", _HOUR), ("1m", _MINUTE)):
            rest: list[Span] = []
            for each in left:
                whole = _shrink(each, width)
                kept = self._get(files, size, place) if whole else None
                if whole is None or kept is None:
                    rest.append(each)
                    continue
                sums.append(kept.sums.keep_within(*_read_bounds(whole)))
                rest += _subtract(each, whole)
            left = rest
        return sums, left

    def _find_whole(self, files: OutputFiles, place: CountedReports, span: Span) -> Kept | None:
        """The windows of 1 h of a place that is whole within a span."""
        is_whole = (span.start is None or span.start <= place.start) and (
            span.end is None or place.end <= span.end
        )
        return self._get(files, "1h", place) if is_whole else None

    def _merge_days(self, whole: Sequence[_Whole]) -> Iterator[WindowSums]:
        """The windows of whole hours, those of a day merged: a week has 168 of each agent."""
        for _, group in groupby(whole, lambda each: each.start.date()):
            hours = list(group)
            key = hours[0].start, hours[-1].start
            version = tuple((each.start, each.kept.version) for each in hours)
            merged = self._days.get(key, version)
            if merged is None:
                sums = merge_sums(join_sums([each.kept.sums for each in hours]))
                merged = self._days.put(key, version, sums)
            yield merged.sums

    def _read_reports(
        self, files: OutputFiles, spans: Sequence[Span]
    ) -> tuple[list[WindowSums], list[Span], int]:
        """The reports of spans, as windows; the spans that have too many; how many files were read."""
        sums: list[WindowSums] = []
        left: list[Span] = []
        count, most = 0, MOST_REPORTS
        for span in spans:
            found = self._reports.read(files, span, most)
            if found is None:
                left.append(span)
                continue
            count += found.files
            most -= sum(len(each.counts) for each in found.parts)
            sums += [each.keep_within(*_read_bounds(span)) for each in found.parts]
        return sums, left, count

    def _get(self, files: OutputFiles, size: str, place: CountedReports) -> Kept | None:
        """The windows of a size in a place, as they are now; None if they do not have every report of it, or
        cannot be read here."""
        try:
            version = _read_version(files, size, place)
            kept = self._kept.get((size, place.start), version) or self._read(files, size, place, version)
        except (OSError, ValueError, pa.ArrowException, Refused):
            return None
        return kept if kept.reports == place.reports else None

    def _read(self, files: OutputFiles, size: str, place: CountedReports, version: Hashable) -> Kept:
        batches = [read_file(file.open(), WINDOWS) for file in _list_files(files, size, place)]
        sums = join_sums([self._names.read_windows(batch).check() for batch in batches]).sort()
        return self._kept.put((size, place.start), version, sums)


def _list_files(files: OutputFiles, size: str, place: CountedReports) -> list[OutputFile]:
    folder = _name_folder(size)
    if place.end - place.start == _HOUR:
        return files.list_hour(folder, place.start)
    return files.list_span(folder, Span(place.start, place.end), 60)


def _read_version(files: OutputFiles, size: str, place: CountedReports) -> Hashable:
    """What differs when the windows of a place were added or replaced: the change of their folder, or the
    versions of their files.

    Raises:
        FileNotFoundError: one is not on this machine, or missing.
    """
    if isinstance(files.hot, LocalFolder) and _is_in_place(files.ledger, size, place):
        changed = os.stat(_name_hour(files.hot.path, size, place.start)).st_mtime_ns
        return changed if is_settled(changed) else object()
    found = _list_files(files, size, place)
    if any(file.path is None for file in found):
        raise FileNotFoundError(str(found[0]))
    return tuple(read_version(os.stat(file.path)) for file in found if file.path)


def _is_in_place(ledger: Ledger, size: str, place: CountedReports) -> bool:
    """Whether the windows of a place are in one folder of an hour on the first root."""
    folder, day = _name_folder(size), place.start.date()
    is_moved = ledger.is_expired(folder, day) or ledger.find(folder, day) != UNSEALED
    return place.end - place.start == _HOUR and not is_moved


@lru_cache(maxsize=100_000)
def _name_hour(root: Path, size: str, start: datetime) -> str:
    """The folder of the windows of an hour."""
    return f"{root}/{_name_folder(size)}/{format_hour_folder(start)}"


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
