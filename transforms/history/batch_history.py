"""History of a batch: all reports of a block at once, each report once, with the baseline of its agent.

`transforms.history.stream_history` gives the same rows where reports come batch by batch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import DUPLICATE, REPORT
from transforms.core.grouping import sort_rows
from transforms.core.record_batches import BASELINED, concat, join_columns, split_by_bytes
from transforms.core.stage_counters import time_stage
from transforms.history import baseline, dedup
from transforms.history.blocks import LOOKBACK, is_lookback
from transforms.history.history_outputs import TAGS, Fault, quarantine_faults
from transforms.history.time_rules import HOUR_MINUTES, find_minutes
from transforms.validation.quarantine_rows import bisect_faults

PIECE_ROWS = 1 << 16
"""Rows of a batch of reports, at least, unless its block has fewer: each batch has a cost of its own."""

WithHistory = tuple[Iterator[pa.RecordBatch], pa.RecordBatch]
"""BASELINED batches, and duplicates."""


class BatchHistory(beam.PTransform):
    """(block, ReportBatch or LOOKBACK) -> `reports` (block, BASELINED), `duplicates` and `quarantine`.

    A batch of `reports` has all reports of some hours. A report with fewer than `min_samples` reports in its
    baseline is in warm-up. A report at which the kernel raises is quarantined alone.
    """

    def __init__(self, min_samples: int) -> None:
        super().__init__()
        self.min_samples = min_samples

    def expand(self, by_block: beam.PCollection) -> Any:  # Beam warns of any other type for tagged outputs
        return (
            by_block
            | "Group by block" >> beam.GroupByKey()
            | "Apply history"
            >> beam.FlatMap(_apply_to_block, self.min_samples)
            .with_output_types(tuple[int, pa.RecordBatch], **dict.fromkeys(TAGS, pa.RecordBatch))
            .with_outputs(*TAGS, main="reports")
        )


def _apply_to_block(
    keyed: tuple[int, Iterable[pa.RecordBatch]], min_samples: int
) -> Iterator[tuple[int, pa.RecordBatch] | beam.pvalue.TaggedOutput]:
    reports: list[pa.RecordBatch] = []
    lookback: list[pa.RecordBatch] = []
    for batch in keyed[1]:
        (lookback if is_lookback(batch) else reports).append(batch)
    if not reports:
        return
    with time_stage("history", sum(batch.num_rows for batch in reports)):
        before = dedup.drop_repeats(pa.Table.from_batches(lookback, LOOKBACK))
        (found, duplicates), faults = _isolate_faults(
            lambda parts: apply_history(parts, before, min_samples), reports
        )
    yield from quarantine_faults(faults)
    for part in split_by_bytes(duplicates, DUPLICATE) if duplicates.num_rows else ():
        yield beam.pvalue.TaggedOutput("duplicates", part)
    for part in found:
        yield keyed[0], part


def _isolate_faults(
    kernel: Callable[[Sequence[pa.RecordBatch]], WithHistory], batches: Sequence[pa.RecordBatch]
) -> tuple[WithHistory, list[Fault]]:
    """The kernel's result over some ReportBatches without the rows at which it raises, and these rows.

    Raises:
        Exception: the kernel raises at no single row, or still raises without the rows at which it does.
    """
    try:
        return kernel(batches), []
    except MemoryError:
        raise
    except Exception:
        found = [bisect_faults(lambda part: (kernel([part]), part)[1], batch) for batch in batches]
        faults = [fault for _, wrong in found for fault in wrong]
        if not faults:
            raise
        sound = [part for parts, _ in found for part in parts]
    return kernel(sound or [batches[0][:0]]), faults


def apply_history(batches: Sequence[pa.RecordBatch], lookback: pa.Table, min_samples: int) -> WithHistory:
    """The reports of one block, with history, as BASELINED batches, and the duplicates among them.

    `batches` are all its ReportBatches, at least one, in any order and cut. `lookback` (LOOKBACK, each report
    once) only feeds baselines. A report's revision is its baseline_n: more history supersedes less. Batches
    of the result ascend by hour, and an hour is never cut.
    """
    table = pa.Table.from_batches(batches)
    unique = dedup.deduplicate(table)
    kept = table.select(baseline.INPUTS).take(pa.array(unique.rows))
    baselines = baseline.compute_baselines(kept, lookback, min_samples)
    hours = find_minutes(kept) // HOUR_MINUTES
    return _attach_baselines(batches, unique.rows, hours, baselines), unique.duplicates


def _attach_baselines(
    batches: Sequence[pa.RecordBatch],
    rows: NDArray[np.int64],
    hours: NDArray[np.int64],
    baselines: pa.RecordBatch,
) -> Iterator[pa.RecordBatch]:
    """BASELINED batches of the `rows` (int64[k], ascending) of all batches, in the order of their hours.

    `hours` (int64[k]) and `baselines` have a row for each. All columns are copied for one batch of the result
    at a time.
    """
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
    for picked in _cut_by_hour(hours):
        edges = np.searchsorted(rows[picked], starts)
        parts = [
            batch.select(REPORT.names).take(pa.array(rows[picked[first:end]] - start))
            for batch, start, first, end in zip(batches, starts, edges, edges[1:])
            if first < end
        ]
        reports, added = concat(parts), baselines.take(pa.array(picked))
        columns = [*reports.columns, added["baseline_n"], *added.columns]
        yield join_columns(columns, BASELINED)


def _cut_by_hour(hours: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Rows of whole hours, PIECE_ROWS at least but at the end; each int64[m], ascending."""
    order = sort_rows(hours)
    ends = np.flatnonzero(np.append(np.diff(hours[order]) != 0, True)) + 1
    start = 0
    for end in ends.tolist():
        if end - start >= PIECE_ROWS or end == len(hours):
            yield np.sort(order[start:end])
            start = end
