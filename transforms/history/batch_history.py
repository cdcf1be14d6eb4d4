"""History of a batch: all reports of a shard at once, each report once, with the baseline of its agent.

`transforms.history.stream_history` gives the same rows where reports come batch by batch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import DUPLICATE, REPORT
from transforms.core.record_batches import (
    BASELINED,
    PIECE_BYTES,
    concat,
    group_batches,
    split_by_bytes,
    split_by_rows,
)
from transforms.core.stage_counters import time_stage
from transforms.history import baseline, dedup
from transforms.history.history_outputs import OUTPUT_ROWS, TAGS, Fault, quarantine_faults
from transforms.validation.quarantine_rows import bisect_faults

WithHistory = tuple[Iterator[pa.RecordBatch], pa.RecordBatch]
"""BASELINED batches, and duplicates."""


class BatchHistory(beam.PTransform):
    """(shard, ReportBatch) -> `reports` (shard, BASELINED), `duplicates` and `quarantine`.

    All reports of an agent must be on one shard. A report with fewer than `min_samples` reports in its
    baseline is in warm-up. A report at which the kernel raises is quarantined alone.
    """

    def __init__(self, min_samples: int) -> None:
        super().__init__()
        self.min_samples = min_samples

    def expand(self, by_shard: beam.PCollection) -> Any:  # Beam warns of any other type for tagged outputs
        return (
            by_shard
            | "Group by shard" >> beam.GroupByKey()
            | "Apply history"
            >> beam.FlatMap(_apply_to_shard, self.min_samples)
            .with_output_types(tuple[int, pa.RecordBatch], **dict.fromkeys(TAGS, pa.RecordBatch))
            .with_outputs(*TAGS, main="reports")
        )


def _apply_to_shard(
    keyed: tuple[int, Iterable[pa.RecordBatch]], min_samples: int
) -> Iterator[tuple[int, pa.RecordBatch] | beam.pvalue.TaggedOutput]:
    shard, batches = keyed[0], list(keyed[1])
    with time_stage("history", sum(batch.num_rows for batch in batches)):
        (reports, duplicates), faults = _isolate_faults(
            lambda parts: apply_history(parts, min_samples), batches
        )
    yield from quarantine_faults(faults)
    for part in split_by_bytes(duplicates, DUPLICATE) if duplicates.num_rows else ():
        yield beam.pvalue.TaggedOutput("duplicates", part)
    for part in reports:
        yield shard, part


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


def apply_history(batches: Sequence[pa.RecordBatch], min_samples: int) -> WithHistory:
    """The reports of one shard, with history, as BASELINED batches, and the duplicates among them.

    `batches` are all its ReportBatches, at least one, in any order and cut. Context rows feed baselines and
    meet their duplicates, but are not in the result. A report's revision is its baseline_n: more history
    supersedes less.
    """
    table = pa.Table.from_batches(batches)
    unique = dedup.deduplicate(table)
    kept = table.select(baseline.INPUTS).take(pa.array(unique.rows))
    baselines = baseline.compute_baselines(kept, min_samples)
    fresh = ~unique.context
    if not fresh.all():
        baselines = baselines.filter(pa.array(fresh))
    return _attach_baselines(batches, unique.rows[fresh], baselines), unique.duplicates


def _attach_baselines(
    batches: Sequence[pa.RecordBatch], rows: NDArray[np.int64], baselines: pa.RecordBatch
) -> Iterator[pa.RecordBatch]:
    """BASELINED batches of the `rows` (int64[k], ascending) of all batches; `baselines` has a row for each.

    Only some batches are copied at a time: all columns of a large shard at once may not fit into memory
    twice.
    """
    parts = (part for batch in batches for part in split_by_rows(batch.select(REPORT.names), OUTPUT_ROWS))
    start = 0
    for group in group_batches(parts, PIECE_BYTES, OUTPUT_ROWS):
        part = concat(group)
        first, end = np.searchsorted(rows, (start, start + part.num_rows)).tolist()
        if first < end:
            reports = part.take(pa.array(rows[first:end] - start))
            added = baselines.slice(first, end - first)
            columns = [*reports.columns, added["baseline_n"], *added.columns]
            yield from split_by_rows(pa.RecordBatch.from_arrays(columns, schema=BASELINED), OUTPUT_ROWS)
        start += part.num_rows
