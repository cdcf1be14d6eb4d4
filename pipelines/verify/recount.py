"""Checks kpi_aggregations against kpi_reports: counts each window again, an hour at a time."""

import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.jobs.pending_rows import PendingRows
from pipelines.verify.table_scan import load, paths
from schemas.partitioning import format_window_folder
from schemas.tables import AGGREGATIONS, GRANULARITIES, METRICS, REPORTS, Table
from transforms.core.grouping import number_groups
from transforms.core.record_batches import concat, make_empty

TOLERANCE = 1e-9
"""Relative difference up to which two sums of the same values, added in another order, are one."""
OUTLIERS = tuple(f"{metric}_outlier_count" for metric in METRICS)
COUNTS = ("task_count", *OUTLIERS)
MEAN = "avg_latency_ms"
WINDOW = ("agent_id", "time_window_start")

_HOUR_OF = re.compile(r"date=(\d{4}-\d{2}-\d{2})/hour=(\d{2})/")
_FLAGS = tuple(f"is_{metric}_outlier" for metric in METRICS)
_REPORT_COLUMNS = ("agent_id", "recorded_at", "latency_ms", "source", "received_at", "revision", *_FLAGS)
_WINDOW_COLUMNS = (*WINDOW, *COUNTS, MEAN, "revision")


@dataclass(frozen=True)
class Hour:
    """An hour of UTC, in the form of file names."""

    date: str
    hour: str

    def folder(self, table: str) -> str:
        """The folder of this hour's files, below that of a table or a window size."""
        return f"{table}/date={self.date}/hour={self.hour}"

    def windows(self, granularity: str) -> str:
        """The folder of this hour's windows."""
        return self.folder(f"{AGGREGATIONS.name}/{format_window_folder(granularity)}")


def hours(output: Path, damaged: Set[Path] = frozenset()) -> list[Hour]:
    """Every hour that has a report or a window; damaged files are left out, here and in `disagreements`."""
    files = {*paths(output, REPORTS), *paths(output, AGGREGATIONS)} - damaged
    found = {
        Hour(*match.groups())
        for path in files
        if (match := _HOUR_OF.search(path.relative_to(output).as_posix()))
    }
    return sorted(found, key=lambda each: (each.date, each.hour))


class Agreement(NamedTuple):
    """A line for each granularity whose windows do not agree with their reports, naming the first such
    window.

    `waiting` is the number of windows that will agree once a stopped stream continues.
    """

    differences: list[str]
    waiting: int


def disagreements(
    output: Path, hour: Hour, damaged: Set[Path] = frozenset(), waiting: PendingRows | None = None
) -> Agreement:
    """Compare the windows of an hour with its reports.

    A window waits if its revision is less than that of its reports, and one of these is among the `waiting`
    rows.
    """
    reports = _loaded(_files(output / hour.folder(REPORTS.name)) - damaged, REPORTS, _REPORT_COLUMNS)
    waits = waiting.among(reports) if waiting else np.zeros(reports.num_rows, bool)
    differences, count = [], 0
    for granularity, seconds in GRANULARITIES.items():
        windows = _loaded(_files(output / hour.windows(granularity)) - damaged, AGGREGATIONS, _WINDOW_COLUMNS)
        expected = counted(reports, seconds)
        if waits.any():
            both = _behind(expected, windows, counted(reports.filter(pa.array(waits)), seconds))
            count += int(both[0].sum())
            expected, windows = (
                rows.filter(pa.array(~behind)) for rows, behind in zip((expected, windows), both)
            )
        if difference := _difference(expected, windows):
            folder = hour.windows(granularity)
            differences.append(
                f"{folder} does not agree with the reports of {hour.date} {hour.hour}:00: {difference}"
            )
    return Agreement(differences, count)


def _behind(
    expected: pa.RecordBatch, found: pa.RecordBatch, newest: pa.RecordBatch
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The expected windows, bool[n], and the found windows, bool[m], that are behind.

    They are among the `newest`, and the found revision is less than the expected one.
    """
    parts = (expected, found, newest)
    groups = number_groups(pa.concat_batches([part.select(WINDOW) for part in parts]), WINDOW)
    of_expected, of_found, of_newest = np.split(groups, np.cumsum([part.num_rows for part in parts])[:-1])
    revisions = np.full((2, int(groups.max(initial=-1)) + 1), -1)
    revisions[0, of_expected], revisions[1, of_found] = (part["revision"].to_numpy() for part in parts[:2])
    behind = (revisions[1] < revisions[0]) & np.isin(np.arange(revisions.shape[1]), of_newest)
    return behind[of_expected], behind[of_found]


def counted(reports: pa.RecordBatch, seconds: int) -> pa.RecordBatch:
    """Count the windows of `seconds` from reports.

    Columns: agent_id, time_window_start, task_count, outlier counts, avg_latency_ms and revision.
    """
    width = seconds * 1_000_000
    starts = reports["recorded_at"].cast(pa.int64()).to_numpy(zero_copy_only=False) // width * width
    times = pa.array(starts).cast(AGGREGATIONS.schema.field("time_window_start").type)
    rows = pa.RecordBatch.from_arrays([reports["agent_id"], times], names=list(WINDOW))
    _, first, groups, counts = np.unique(
        number_groups(rows, WINDOW), return_index=True, return_inverse=True, return_counts=True
    )
    columns = {name: rows[name].take(pa.array(first)) for name in WINDOW} | {"task_count": pa.array(counts)}
    for metric, name in zip(METRICS, OUTLIERS):
        flags = pc.fill_null(reports[f"is_{metric}_outlier"], False).to_numpy(zero_copy_only=False)
        columns[name] = pa.array(np.bincount(groups[flags], minlength=len(first)))
    sums = np.bincount(groups, weights=_floats(reports["latency_ms"]), minlength=len(first))
    columns[MEAN] = pa.array(sums / counts)
    revisions = np.zeros(len(first), np.int64)
    np.add.at(revisions, groups, 1 + pc.fill_null(reports["revision"], 0).to_numpy(zero_copy_only=False))
    columns["revision"] = pa.array(revisions)
    return pa.RecordBatch.from_pydict({name: columns[name] for name in _WINDOW_COLUMNS})


def _difference(expected: pa.RecordBatch, found: pa.RecordBatch) -> str:
    """The number of windows that differ, and how the first differs; empty if none does."""
    groups = number_groups(pa.concat_batches([expected.select(WINDOW), found.select(WINDOW)]), WINDOW)
    place = np.full((2, int(groups.max(initial=-1)) + 1), -1)
    place[0, groups[: expected.num_rows]] = np.arange(expected.num_rows)
    place[1, groups[expected.num_rows :]] = np.arange(found.num_rows)
    here, there = place >= 0
    absent, unexpected, pairs = place[0, here & ~there], place[1, there & ~here], place[:, here & there]
    differing = {
        name: pairs[:, _differ(name, expected[name], found[name], pairs)] for name in (*COUNTS, MEAN)
    }
    count = len(absent) + len(unexpected) + sum(cells.shape[1] for cells in differing.values())
    if len(absent):
        first = f"no window of {_named(expected, absent[0])}, which has reports"
    elif len(unexpected):
        first = f"a window of {_named(found, unexpected[0])}, which has no report"
    elif count:
        name, (left, right) = next((name, cells[:, 0]) for name, cells in differing.items() if cells.shape[1])
        stored, given = found[name][right], expected[name][left]
        first = f"{name} of {_named(expected, left)} is {stored}, its reports give {given}"
    return f"{count} differences, first {first}" if count else ""


def _differ(name: str, expected: pa.Array, found: pa.Array, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The pairs of rows that differ in a column, bool[n]."""
    left, right = (_floats(column)[rows] for column, rows in zip((expected, found), pairs))
    allowed = TOLERANCE * np.maximum(np.abs(left), np.abs(right)) if name == MEAN else 0.0
    return ~(np.abs(left - right) <= allowed)


def _floats(column: pa.Array) -> NDArray[np.float64]:
    return pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)


def _named(windows: pa.RecordBatch, row: int) -> str:
    return f"agent {windows['agent_id'][row]} at {windows['time_window_start'][row]}"


def _files(place: Path) -> set[Path]:
    return set(place.glob("*.parquet"))


def _loaded(files: Set[Path], table: Table, columns: tuple[str, ...]) -> pa.RecordBatch:
    nothing = make_empty(pa.schema([table.schema.field(name) for name in columns]))
    return concat([nothing, *(load(path, table, columns) for path in sorted(files))])
