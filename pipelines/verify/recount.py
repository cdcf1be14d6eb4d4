"""Checks kpi_aggregations against kpi_reports: counts each window again, an hour at a time."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.jobs.pending_rows import PendingRows
from pipelines.verify.table_scan import list_files, load
from schemas.partitioning import format_window_folder
from schemas.tables import AGGREGATIONS, GRANULARITIES, METRICS, OUTLIER_FLAGS, REPORTS, Table
from transforms.core.counts import format_count
from transforms.core.expiry import NOTHING, Expiry
from transforms.core.grouping import number_groups
from transforms.core.record_batches import concat, make_empty
from transforms.sinks.parquet.output_files import OutputFile

TOLERANCE = 1e-9
"""Relative difference up to which two sums of the same values, added in another order, are one."""
OUTLIERS = tuple(f"{metric}_outlier_count" for metric in METRICS)
COUNTS = ("task_count", *OUTLIERS)
MEAN = "avg_latency_ms"
WINDOW = ("agent_id", "time_window_start")

_SPAN = re.compile(r"(?P<folder>.*)/date=(?P<date>\d{4}-\d\d-\d\d)/(?:hour=(?P<hour>\d\d)/)?[^/]+$")
_REPORT_COLUMNS = (
    "agent_id", "recorded_at", "latency_ms", "source", "received_at", "revision", *OUTLIER_FLAGS.values(),
)  # fmt: skip
_WINDOW_COLUMNS = (*WINDOW, *COUNTS, MEAN, "revision")


class HourFiles(NamedTuple):
    """An hour of UTC in the form of file names, and its files by the folder of their table or window size.

    It is a whole day, with an empty `hour`, if one of its folders has the day in one file.
    """

    date: str
    hour: str
    files: Mapping[str, Sequence[OutputFile]]

    def __str__(self) -> str:
        return f"{self.date} {self.hour}:00" if self.hour else self.date

    def locate(self, folder: str) -> str:
        """The folder of this hour's files, below that of a table or a window size."""
        return f"{folder}/date={self.date}/hour={self.hour}" if self.hour else f"{folder}/date={self.date}"

    def load(self, folder: str, table: Table, columns: tuple[str, ...]) -> pa.RecordBatch:
        """The rows of a folder."""
        nothing = make_empty(pa.schema([table.schema.field(name) for name in columns]))
        return concat([nothing, *(load(file, table, columns) for file in self.files.get(folder, []))])


def hours(output: Path, damaged: Set[OutputFile] = frozenset()) -> list[HourFiles]:
    """Every hour that has a report or a window, without the damaged files."""
    files = [file for table in (REPORTS, AGGREGATIONS) for file in list_files(output, table)]
    spans = [(file, match) for file in files if (match := _SPAN.match(file.name)) and file not in damaged]
    days = {match["date"] for file, match in spans if file.is_day}
    found: dict[tuple[str, str], dict[str, list[OutputFile]]] = defaultdict(lambda: defaultdict(list))
    for file, match in spans:
        hour = "" if match["date"] in days else match["hour"]
        found[match["date"], hour][match["folder"]].append(file)
    return [HourFiles(*span, found[span]) for span in sorted(found)]


class Agreement(NamedTuple):
    """A line for each granularity whose windows do not agree with their reports, naming the first such
    window.

    `waiting` is the number of windows that will agree once a stopped stream continues.
    """

    differences: list[str]
    waiting: int


def disagreements(hour: HourFiles, waiting: PendingRows | None = None, expiry: Expiry = NOTHING) -> Agreement:
    """Compare the windows of an hour with its reports, without the sizes of windows that have expired.

    A window waits if its revision is less than that of its reports, and one of these is among the `waiting`
    rows.
    """
    reports = hour.load(REPORTS.name, REPORTS, _REPORT_COLUMNS)
    waits = waiting.among(reports) if waiting else np.zeros(reports.num_rows, bool)
    differences, count = [], 0
    for granularity, seconds in GRANULARITIES.items():
        folder = f"{AGGREGATIONS.name}/{format_window_folder(granularity)}"
        if expiry.has_expired(folder, hour.date):
            continue
        windows = hour.load(folder, AGGREGATIONS, _WINDOW_COLUMNS)
        expected = counted(reports, seconds)
        if waits.any():
            both = _behind(expected, windows, counted(reports.filter(pa.array(waits)), seconds))
            count += int(both[0].sum())
            expected, windows = (
                rows.filter(pa.array(~behind)) for rows, behind in zip((expected, windows), both)
            )
        if difference := _difference(expected, windows):
            where = hour.locate(folder)
            differences.append(f"{where} does not agree with the reports of {hour}: {difference}")
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
        flags = pc.fill_null(reports[OUTLIER_FLAGS[metric]], False).to_numpy(zero_copy_only=False)
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
    return f"{format_count(count, 'difference')}, first {first}" if count else ""


def _differ(name: str, expected: pa.Array, found: pa.Array, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The pairs of rows that differ in a column, bool[n]."""
    left, right = (_floats(column)[rows] for column, rows in zip((expected, found), pairs))
    allowed = TOLERANCE * np.maximum(np.abs(left), np.abs(right)) if name == MEAN else 0.0
    return ~(np.abs(left - right) <= allowed)


def _floats(column: pa.Array) -> NDArray[np.float64]:
    return pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)


def _named(windows: pa.RecordBatch, row: int) -> str:
    return f"agent {windows['agent_id'][row]} at {windows['time_window_start'][row]}"
