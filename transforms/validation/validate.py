"""Validate: messages become typed reports, or quarantine rows that say why not.

A block of messages passes these modules, each once, and a row at most six of them:

    validate
       |  payloads
    schemas/readers/fast_reader: Arrow parses all rows at once, or in few parts
       |  struct
    schemas/readers/leaf_columns: a column for each leaf, rules checked
       |  Leaves
    schemas/readers/raw_text: what no schema describes, cut from the bytes
       |  Accepted, and the rows that are left
    schemas/readers/strict_reader: these one by one
       |  Accepted                             |  Rejected
    report_rows: types, report_id, recency     quarantine_rows: the bytes, and why

The kernels that they call (`parser_guards`, `object_pattern`, `constraints`, `formats`, `numbers`,
`report_id`) call none of these modules.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.readers import fast_reader, strict_reader
from schemas.readers.verdicts import Limits, join_accepted
from schemas.registry import Schema, load
from schemas.tables import QUARANTINE
from transforms.core import (
    arrow_coder,  # noqa: F401 (the coder carries what leaves here)
    stage_counters,
)
from transforms.core.process_stats import VALIDATED, observe_latency
from transforms.core.record_batches import REPORT_BATCH, concat, make_empty
from transforms.core.run_metrics import MESSAGES
from transforms.validation.quarantine_rows import bisect_faults, quarantine_messages
from transforms.validation.report_rows import find_untimely, make_reports


class Judged(NamedTuple):
    """What became of messages: `reports` (REPORT_BATCH) and `quarantine` (QUARANTINE)."""

    reports: pa.RecordBatch
    quarantine: pa.RecordBatch


@dataclass(frozen=True)
class Rules:
    """What is required of a message beside its schema: size, nesting, recency, bounds of custom metrics."""

    limits: Limits = field(default_factory=Limits)
    stale_seconds: int = 3600
    future_seconds: int = 60
    custom_metric_limit: float = 1e15


def judge_block(messages: pa.RecordBatch, schema: Schema, rules: Rules) -> Judged:
    """RAW messages as reports and quarantine rows; every message is in exactly one of them."""
    root, payload = schema.root, messages["payload"]
    fast = fast_reader.read_block(root, payload, rules.limits)
    left = np.setdiff1d(np.arange(messages.num_rows), fast.accepted.rows, assume_unique=True)
    strict, rejected = strict_reader.read_rows(root, payload, left, rules.limits, fast.distinct)
    accepted = join_accepted(root, [fast.accepted, strict])
    reports = make_reports(messages, schema, accepted)
    untimely, reasons = find_untimely(reports, rules.stale_seconds, rules.future_seconds)
    wrong = messages.take(pa.array(np.concatenate([rejected.rows, accepted.rows[untimely]])))
    quarantine = quarantine_messages(wrong, [*rejected.rejections, *reasons])
    return Judged(reports.filter(pa.array(~untimely)) if untimely.any() else reports, quarantine)


def judge_messages(messages: pa.RecordBatch, schema: Schema, rules: Rules) -> Judged:
    """`judge_block`, but a row at which it raises is quarantined as `error`, and the others go on."""
    results, faults = bisect_faults(lambda part: judge_block(part, schema, rules), messages)
    wrong = [quarantine_messages(row, [why]) for row, why in faults]
    return Judged(
        concat([each.reports for each in results] or [make_empty(REPORT_BATCH)]),
        concat([make_empty(QUARANTINE), *(each.quarantine for each in results), *wrong]),
    )


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
    def __init__(self, rules: Rules, schema: str, version: int | None) -> None:
        self.rules, self.name, self.version = rules, schema, version

    def setup(self) -> None:
        self.schema = load(self.name, self.version).bounded(self.rules.custom_metric_limit)

    def process(self, messages: pa.RecordBatch) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        MESSAGES.inc(messages.num_rows)
        with stage_counters.time_stage("validate", messages.num_rows):
            found = judge_messages(messages, self.schema, self.rules)
        observe_latency(VALIDATED, messages["received_at"])
        if found.quarantine.num_rows:
            yield beam.pvalue.TaggedOutput("quarantine", found.quarantine)
        if found.reports.num_rows:
            yield found.reports
