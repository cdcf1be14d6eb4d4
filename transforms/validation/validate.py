"""Validate: messages become typed reports, or quarantine rows that say why not.

The schema's compiled checks pass whole blocks; the rows they cannot vouch for are judged one by one. Recency is measured between a
report's recorded_at and its own message's received_at, never against the wall clock, so that a backfill judges as the stream did.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue
from numpy.typing import NDArray

from schemas.readers import fast_reader, strict_reader
from schemas.readers.formats import parse_date_time
from schemas.readers.verdicts import Limits, Rejection
from schemas.registry import Schema, load
from schemas.tables import QUARANTINE, REPORT
from transforms.core import (
    arrow_coder,  # noqa: F401 (the coder carries what leaves here)
    stage_counters,
)
from transforms.core.record_batches import REPORT_BATCH, build_batch, concat, make_empty
from transforms.core.run_metrics import MESSAGES
from transforms.validation.quarantine_rows import bisect_faults, quarantine_messages
from transforms.validation.report_id import compute_report_ids

THREADS = 2
"""Batches that are judged at once: most of the work is Arrow's and numpy's, outside of the interpreter's lock."""
SMALL = 4096
"""A batch of fewer rows is judged where it stands, and its rows come out at once: what a stream that keeps up wants."""

Judged = tuple[pa.RecordBatch, pa.RecordBatch]
"""Reports (REPORT_BATCH) and what is refused (QUARANTINE)."""


@dataclass(frozen=True)
class Rules:
    """What is asked of a message beside its schema: size, nesting, recency in seconds, and how large a custom metric may be."""

    limits: Limits = field(default_factory=Limits)
    stale_seconds: int = 3600
    future_seconds: int = 60
    custom_metric_limit: float = 1e15


def judge_block(messages: pa.RecordBatch, schema: Schema, rules: Rules) -> Judged:
    """RAW messages -> (REPORT_BATCH of the valid ones, QUARANTINE of the others); every message is in exactly one of them."""
    accepted = fast_reader.read_block(schema.root, messages["payload"], rules.limits)
    doubtful = np.setdiff1d(np.arange(messages.num_rows), accepted.rows, assume_unique=True)
    rows, columns, extra, refused, rejections = (
        accepted.rows,
        accepted.columns,
        accepted.extra,
        doubtful[:0],
        [],
    )
    if len(doubtful):
        strict = _judge(schema, messages["payload"], doubtful, accepted.distinct, rules.limits)
        rows = np.concatenate([rows, strict.rows])
        columns = [pa.concat_arrays(pair) for pair in zip(columns, strict.columns)]
        extra = pa.concat_arrays([extra, strict.extra])
        refused, rejections = strict.refused, strict.rejections
    known = messages.select(["source", "message_id", "received_at"])
    in_order = np.array_equal(
        rows, np.arange(messages.num_rows)
    )  # rows of one block may be read in several parts
    reports = _typed(schema, known if in_order else known.take(rows), columns, extra)
    late, reasons = _recency(reports, rules)
    wrong = quarantine_messages(messages.take(np.concatenate([refused, rows[late]])), [*rejections, *reasons])
    return (reports.filter(pa.array(~late)) if late.any() else reports), wrong


def judge_messages(messages: pa.RecordBatch, schema: Schema, rules: Rules) -> Judged:
    """`judge_block`, but a row at which it raises is refused with reason `error` instead of ending everything."""
    results, faults = bisect_faults(lambda part: judge_block(part, schema, rules), messages)
    reports = [reports for reports, _ in results] or [make_empty(REPORT_BATCH)]
    wrong = [
        make_empty(QUARANTINE),
        *(rows for _, rows in results),
        *(quarantine_messages(row, [why]) for row, why in faults),
    ]
    return concat(reports), concat(wrong)


@dataclass(frozen=True)
class _Strict:
    """What the strict reader made of some rows: the valid ones as columns, the refused ones with their rejections."""

    rows: NDArray[np.int64]
    columns: list[pa.Array]
    extra: pa.Array
    refused: NDArray[np.int64]
    rejections: list[Rejection]


def _judge(
    schema: Schema, payload: pa.Array, rows: NDArray[np.int64], distinct: NDArray[np.bool_], limits: Limits
) -> _Strict:
    read = [
        strict_reader.decode(payload[row].as_py().removesuffix(b"\n"), limits, bool(distinct[row]))
        for row in rows.tolist()
    ]
    found = [document for document in read if not isinstance(document, Rejection)]
    columns, failing = strict_reader.read_columns(schema.root, found)
    leaves = schema.root.leaves()
    verdicts = iter(failing.tolist())
    rejections: list[Rejection | None] = []
    for document in read:
        if isinstance(document, Rejection):
            rejections.append(document)
        else:
            leaf = next(verdicts)
            rejections.append(
                strict_reader.explain(schema.root, document, leaves[leaf]) if leaf >= 0 else None
            )
    valid = failing < 0
    refused = np.array([rejection is not None for rejection in rejections], dtype=bool)
    extra = [
        strict_reader.write_extra(schema.root, document)
        for document, fine in zip(found, valid.tolist())
        if fine
    ]
    return _Strict(
        rows[~refused],
        [column.filter(pa.array(valid)) for column in columns],
        pa.array(extra, pa.string()),
        rows[refused],
        [rejection for rejection in rejections if rejection is not None],
    )


def _typed(
    schema: Schema, messages: pa.RecordBatch, columns: list[pa.Array], extra: pa.Array
) -> pa.RecordBatch:
    """The leaves' columns with the types of REPORT, beside what is known of the messages they came in."""
    found: dict[tuple[str, ...], pa.Array] = {
        leaf.path: column for leaf, column in zip(schema.root.leaves(), columns)
    }
    formats = {leaf.path: leaf.schema.get("format") for leaf in schema.root.leaves()}

    def typed(path: tuple[str, ...], type_: pa.DataType) -> pa.Array:
        if pa.types.is_struct(type_):
            return pa.StructArray.from_arrays(
                [typed((*path, inner.name), inner.type) for inner in type_], fields=list(type_)
            )
        column = found[path]
        if formats[path] == "date-time":
            return parse_date_time(column)
        return pc.ascii_lower(column) if formats[path] == "uuid" else column.cast(type_)

    rows = messages.num_rows
    known = {
        "extra": extra,
        "schema_version": pa.array(np.full(rows, schema.version)),
        "context": pa.array(np.zeros(rows, bool)),
    }
    known |= {name: messages[name] for name in messages.schema.names}
    own = [name for name in REPORT.names if (name,) in found or name == "execution_context"]
    known |= {name: typed((name,), REPORT.field(name).type) for name in own}
    known["report_id"] = compute_report_ids(
        pa.RecordBatch.from_pydict({name: known[name] for name in [*own, "extra"]})
    )
    return build_batch(known, REPORT_BATCH, rows)


def _recency(reports: pa.RecordBatch, rules: Rules) -> tuple[NDArray[np.bool_], list[Rejection]]:
    """bool[n]: the reports recorded too long before, or after, their message was received; and a rejection for each."""
    received = reports["received_at"].cast(pa.int64())
    lag = pc.subtract(received, reports["recorded_at"].cast(pa.int64()))
    stale = np.asarray(pc.fill_null(pc.greater(lag, rules.stale_seconds * 1_000_000), False))
    future = np.asarray(pc.fill_null(pc.less(lag, -rules.future_seconds * 1_000_000), False))
    late = stale | future
    reasons = []
    for row in np.flatnonzero(late).tolist():
        distance = timedelta(microseconds=abs(lag[row].as_py()))
        if stale[row]:
            text = f"recorded {distance} before it was received, more than {timedelta(seconds=rules.stale_seconds)}"
            reasons.append(Rejection("stale", text, "recorded_at", "recency"))
        else:
            text = f"recorded {distance} after it was received, more than {timedelta(seconds=rules.future_seconds)}"
            reasons.append(Rejection("future", text, "recorded_at", "recency"))
    return late, reasons


class Validate(beam.PTransform):
    """RAW messages -> `reports` (REPORT_BATCH, the main output) and `quarantine`.

    Of use alone: `messages | Validate()` gives `.reports` and `.quarantine`.
    """

    def __init__(
        self, rules: Rules | None = None, schema: str = "kpi_report", version: int | None = None
    ) -> None:
        super().__init__()
        self.rules, self.schema, self.version = rules or Rules(), schema, version

    def expand(self, messages: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        judge = beam.ParDo(_ValidateFn(self.rules, self.schema, self.version))
        judge = judge.with_output_types(pa.RecordBatch, quarantine=pa.RecordBatch)
        return messages | judge.with_outputs("quarantine", main="reports")


class _ValidateFn(beam.DoFn):
    """Judges batches in threads, some at a time: a batch's rows come out with those of a later one, or at the bundle's end.

    Those of a small batch come out at once.
    """

    def __init__(self, rules: Rules, schema: str, version: int | None) -> None:
        self.rules, self.name, self.version = rules, schema, version

    def setup(self) -> None:
        self.schema = load(self.name, self.version).bounded(self.rules.custom_metric_limit)
        self.pool = ThreadPoolExecutor(THREADS)

    def teardown(self) -> None:
        self.pool.shutdown()

    def start_bundle(self) -> None:
        self.pending: deque[tuple[Future[Judged], Timestamp, Any]] = deque()

    def process(
        self,
        messages: pa.RecordBatch,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[WindowedValue | beam.pvalue.TaggedOutput]:
        MESSAGES.inc(messages.num_rows)
        if messages.num_rows < SMALL and not self.pending:
            yield from _outputs(self._judged(messages), timestamp, window)
            return
        self.pending.append((self.pool.submit(self._judged, messages), timestamp, window))
        if len(self.pending) > THREADS:
            yield from self._first()

    def finish_bundle(self) -> Iterator[WindowedValue | beam.pvalue.TaggedOutput]:
        while self.pending:
            yield from self._first()

    def _first(self) -> Iterator[WindowedValue | beam.pvalue.TaggedOutput]:
        future, timestamp, window = self.pending.popleft()
        yield from _outputs(future.result(), timestamp, window)

    def _judged(self, messages: pa.RecordBatch) -> Judged:
        with stage_counters.time_stage("validate", messages.num_rows):
            return judge_messages(messages, self.schema, self.rules)


def _outputs(
    found: Judged, timestamp: Timestamp, window: Any
) -> Iterator[WindowedValue | beam.pvalue.TaggedOutput]:
    reports, wrong = found
    if wrong.num_rows:
        yield beam.pvalue.TaggedOutput("quarantine", WindowedValue(wrong, timestamp, (window,)))
    if reports.num_rows:
        yield WindowedValue(reports, timestamp, (window,))
