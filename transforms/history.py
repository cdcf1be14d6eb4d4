"""History: each report once, with the baseline of its agent. The one step that must see other reports."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import REPORT
from transforms import baseline, dedup
from transforms.batches import BASELINED
from transforms.stages import timed

PORTION = 1 << 16
"""Most rows of a batch that leaves history: large enough to work on in columns, small enough to pass on."""


class History(beam.PTransform):
    """(shard, ReportBatch) -> `reports`, batches of BASELINED, and `duplicates`, batches of `schemas.tables.DUPLICATE`.

    All reports of an agent must be on one shard. `min_samples` is the size of a window that is out of warm-up.
    """

    def __init__(self, min_samples: int) -> None:
        super().__init__()
        self.min_samples = min_samples

    def expand(self, by_shard: beam.PCollection) -> Any:  # Beam warns of any other type for tagged outputs
        return (
            by_shard
            | "GroupByShard" >> beam.GroupByKey()
            | "Judge"
            >> beam.FlatMap(_tagged, self.min_samples)
            .with_output_types(pa.RecordBatch, duplicates=pa.RecordBatch)
            .with_outputs("duplicates", main="reports")
        )


def _tagged(
    shard: tuple[int, Iterable[pa.RecordBatch]], min_samples: int
) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
    batches = list(shard[1])
    with timed("history", sum(batch.num_rows for batch in batches)):
        reports, duplicates = judge(batches, min_samples)
    if duplicates.num_rows:
        yield beam.pvalue.TaggedOutput("duplicates", duplicates)
    yield from reports


def judge(batches: Sequence[pa.RecordBatch], min_samples: int) -> tuple[Iterator[pa.RecordBatch], pa.RecordBatch]:
    """The reports of one shard, as BASELINED batches of at most PORTION rows, and the duplicates among them.

    `batches` are all its ReportBatches, at least one, in any order and cut. Context rows feed baselines and meet their
    duplicates, but do not come out. A report's revision is its baseline_n: one that was judged by more history supersedes.
    """
    table = pa.Table.from_batches(batches)
    unique = dedup.dedup(table)
    judged = baseline.baseline(table.select(baseline.INPUTS).take(pa.array(unique.rows)), min_samples)
    fresh = ~unique.context
    if not fresh.all():
        judged = judged.filter(pa.array(fresh))
    return _portions(table, unique.rows[fresh], judged), unique.duplicates


def _portions(table: pa.Table, rows: NDArray[np.int64], judged: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """`rows` (ascending) of the table, joined with the rows of `judged`, a part of the table at a time."""
    reports = table.select(REPORT.names)
    for start in range(0, table.num_rows, PORTION):
        first, end = np.searchsorted(rows, (start, start + PORTION)).tolist()
        if first == end:
            continue
        part = reports.slice(start, PORTION).take(pa.array(rows[first:end] - start))
        baselines = judged.slice(first, end - first)
        joined = pa.Table.from_arrays([*part.columns, baselines["baseline_n"], *baselines.columns], schema=BASELINED)
        yield from joined.combine_chunks().to_batches()
