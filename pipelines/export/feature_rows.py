"""The rows of an export: the features of each report, columns of the report, and labels from its result.

A label is what became of the task. It may be later than the report, so no feature has it: labels are joined
here and nowhere else.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.export.dictionary import LABEL, add_texts, load_texts
from pipelines.failures import RunFailed
from pipelines.verify.table_scan import load, partition, scan
from schemas.tables import ENRICHMENT, FLAGS, REPORTS, RESULTS
from transforms.core.counts import format_count
from transforms.core.record_batches import concat, make_empty
from transforms.core.time_range import Span, keep_within
from transforms.derived.features import FEATURES
from transforms.sinks.parquet.output_files import OutputFile

CONTEXT = {"available_cores": pa.int64(), "available_memory_mb": pa.float64()}
"""Fields of execution_context that are exported as columns."""
OF_REPORT = (
    *("latency_ms", "accuracy", "cpu_usage", "memory_mb", "network_bytes", "gpu_utilization"),
    *ENRICHMENT.names,
    *FLAGS.names,
    *("baseline_n", "latency_zscore", "accuracy_percentile"),
)
"""Columns of kpi_reports that are exported as they are."""
OF_RESULT = (
    *("completed_at", "success", "execution_time_ms", "cpu_seconds", "memory_peak_mb"),
    *("network_tx_bytes", "network_rx_bytes", "disk_io_ops", "gpu_utilization"),
)
"""Columns of results that are exported as labels."""
_VERSION = ("effective_at", "version")
_Span = tuple[datetime, datetime]


def _make_schema() -> pa.Schema:
    texts = load_texts()
    reported = texts["kpi_reports"]
    fields = [add_texts(field, texts["features"][field.name]) for field in FEATURES.schema]
    fields += [add_texts(REPORTS.schema.field(name), reported[name]) for name in OF_REPORT]
    nested = "execution_context"
    fields += [
        add_texts(pa.field(name, kind), reported[f"{nested}.{name}"]) for name, kind in CONTEXT.items()
    ]
    for name in OF_RESULT:
        text = texts["results"][name] | {
            "null_when": "the task has no result, or none within `context_hours`"
        }
        fields.append(add_texts(RESULTS.schema.field(name).with_name(f"{LABEL}{name}"), text))
    return pa.schema(fields)


SCHEMA = _make_schema()
"""The columns of an export without encodings; the metadata of each says what it means."""


def iterate_hours(output: Path, span: Span, context: timedelta) -> Iterator[pa.RecordBatch]:
    """The rows (SCHEMA) of each hour that has features.

    Rows are recorded within the span. A label is of the current version of the task's result: the one with
    the largest (effective_at, version); it is null if the task ended more than `context` before or after the
    report was recorded.

    Raises:
        RunFailed: a file was replaced in the meantime, so that features lack their reports.
        transforms.core.errors.DamagedFile: a file cannot be read.
    """
    derived, reported = partition((output, FEATURES), (output, REPORTS))
    results = _Results(output, context)
    for name, files in sorted(derived.items()):
        features = concat([load(file, FEATURES) for file in files])
        for rows in keep_within(features, span, FEATURES.time):
            yield _join_rows(rows, _load_reports(reported.get(name, [])), results, output)


def count_reports(output: Path, span: Span) -> int:
    """How many stored reports were recorded within the span, whether they have features or not."""
    times = scan(output, REPORTS, [FEATURES.time])
    return sum(rows.num_rows for batch in times for rows in keep_within(batch, span, FEATURES.time))


def _load_reports(files: Sequence[OutputFile]) -> pa.RecordBatch:
    names = ("report_id", "execution_context", *OF_REPORT)
    schema = pa.schema([REPORTS.schema.field(name) for name in names])
    return concat([make_empty(schema), *(load(file, REPORTS, names) for file in files)])


def _join_rows(
    features: pa.RecordBatch, reports: pa.RecordBatch, results: "_Results", output: Path
) -> pa.RecordBatch:
    places = pc.index_in(features["report_id"], reports["report_id"])
    if places.null_count:
        problem = (
            f"{output} has features of {format_count(places.null_count, 'report')} that it does not store"
        )
        raise RunFailed(problem, f"run `kpiflow derive {output}`, then the same command again")
    own = reports.take(places)
    columns = [*features.columns, *(own[name] for name in OF_REPORT)]
    columns += [pc.struct_field(own["execution_context"], name).cast(kind) for name, kind in CONTEXT.items()]
    columns += results.find(features)
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


class _Results:
    """The results that may belong to the reports of a span. Spans must come in the order of time."""

    def __init__(self, output: Path, context: timedelta) -> None:
        self._context = context
        self._files = {_find_span(name): files for name, files in partition((output, RESULTS))[0].items()}
        self._loaded: dict[_Span, pa.RecordBatch] = {}

    def find(self, features: pa.RecordBatch) -> list[pa.Array]:
        """The columns OF_RESULT for each row of features; null where there is no result."""
        times = features[FEATURES.time]
        first, last = (bound.as_py() for bound in (pc.min(times), pc.max(times)))
        self._slide(first - self._context, last + self._context)
        tasks = features["task_id"]
        parts = [rows.filter(pc.is_in(rows["task_id"], tasks)) for rows in self._loaded.values()]
        current = _take_current(concat([make_empty(_NARROW), *parts]))
        found = current.take(pc.index_in(tasks, current["task_id"]))
        apart = pc.abs(pc.subtract(found["completed_at"].cast(pa.int64()), times.cast(pa.int64())))
        is_near = pc.less_equal(apart, self._context // timedelta(microseconds=1))
        return [pc.if_else(is_near, found[name], None) for name in OF_RESULT]

    def _slide(self, start: datetime, end: datetime) -> None:
        for span in [span for span in self._loaded if span[1] <= start]:
            del self._loaded[span]
        for span, files in self._files.items():
            if span[0] <= end and start < span[1] and span not in self._loaded:
                self._loaded[span] = concat([load(file, RESULTS, _NARROW.names) for file in files])


_NARROW = pa.schema([RESULTS.schema.field(name) for name in ("task_id", *_VERSION, *OF_RESULT)])


def _take_current(results: pa.RecordBatch) -> pa.RecordBatch:
    """The row of each task with the largest (effective_at, version)."""
    order = pc.sort_indices(results, [(name, "ascending") for name in _VERSION])
    ordered = results.take(order)
    numbered = pa.table({"task_id": ordered["task_id"], "place": np.arange(ordered.num_rows)})
    last = numbered.group_by("task_id").aggregate([("place", "max")])["place_max"]
    return ordered.take(last.combine_chunks())


def _find_span(name: str) -> _Span:
    """The start of the span `date=YYYY-MM-DD/hour=HH/` or `date=YYYY-MM-DD/`, and its end."""
    day, _, hour = name.removesuffix("/").partition("/")
    start = datetime.fromisoformat(
        f"{day.removeprefix('date=')}T{hour.removeprefix('hour=') or '00'}:00:00+00:00"
    )
    return start, start + timedelta(hours=1 if hour else 24)
