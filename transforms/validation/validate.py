"""Validate: messages become typed reports and records, or quarantine rows that say why not.

The messages of each kind are a block (`transforms.validation.message_kinds`), which passes these modules,
each once, and a row at most six of them:

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
    content_rows: types, ids, recency        quarantine_rows: the bytes, and why

The two readers are those of JSON; `schemas.protobuf.reader` is both for payloads of Protocol Buffers.

Of both, rows of days that have expired in the output are counted and dropped (`transforms.core.expiry`).

The kernels that they call (`parser_guards`, `object_pattern`, `constraints`, `formats`, `numbers`,
`report_id`) call none of these modules.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.kinds import KINDS, Kind
from schemas.readers import fast_reader, strict_reader
from schemas.readers.verdicts import Accepted, MessageLimits, Rejected, join_accepted
from schemas.registry import Schema, load
from schemas.tables import QUARANTINE, QUARANTINED, RECORD_TABLES
from transforms.core import (
    arrow_coder,  # noqa: F401 (the coder carries what leaves here)
    stage_counters,
)
from transforms.core.expiry import NOTHING, Expiry
from transforms.core.message_encodings import JSON, PROTOBUF, split_by_encoding
from transforms.core.process_stats import VALIDATED, observe_latency
from transforms.core.record_batches import REPORT_BATCH, concat, make_empty
from transforms.core.run_metrics import MESSAGES, count_expired
from transforms.validation.content_rows import find_untimely, make_rows
from transforms.validation.message_kinds import bound, split_by_kind
from transforms.validation.quarantine_rows import bisect_faults, quarantine_messages


class Judged(NamedTuple):
    """What became of messages of one kind: `rows` (REPORT_BATCH, or rows of the kind's table) and
    `quarantine` (QUARANTINE)."""

    rows: pa.RecordBatch
    quarantine: pa.RecordBatch


@dataclass(frozen=True)
class MessageRules:
    """What is required of a message beside its schema: size, nesting, recency, bounds of custom metrics."""

    limits: MessageLimits = field(default_factory=MessageLimits)
    stale_seconds: int = 3600
    future_seconds: int = 60
    custom_metric_limit: float = 1e15


def judge_block(
    messages: pa.RecordBatch, schema: Schema, rules: MessageRules, encoding: str = JSON
) -> Judged:
    """RAW messages of the kind of a schema, in one encoding, as rows and quarantine rows; every message is in
    exactly one of them."""
    kind = KINDS[schema.name]
    accepted, rejected = _READ[encoding](schema, messages["payload"], bound(rules.limits, kind))
    rows = make_rows(messages, kind, schema, accepted)
    untimely, reasons = find_untimely(rows, kind, rules.stale_seconds, rules.future_seconds)
    wrong = messages.take(pa.array(np.concatenate([rejected.rows, accepted.rows[untimely]])))
    quarantine = quarantine_messages(wrong, [*rejected.rejections, *reasons], kind)
    return Judged(rows.filter(pa.array(~untimely)) if untimely.any() else rows, quarantine)


def _read_json(schema: Schema, payload: pa.Array, limits: MessageLimits) -> tuple[Accepted, Rejected]:
    fast = fast_reader.read_block(schema.root, payload, limits)
    left = np.setdiff1d(np.arange(len(payload)), fast.accepted.rows, assume_unique=True)
    strict, rejected = strict_reader.read_rows(schema.root, payload, left, limits, fast.distinct)
    return join_accepted(schema.root, [fast.accepted, strict]), rejected


def _read_protobuf(schema: Schema, payload: pa.Array, limits: MessageLimits) -> tuple[Accepted, Rejected]:
    from schemas.protobuf import reader  # takes a while, and few jobs need it

    fast = reader.read_block(schema.name, schema.root, payload, limits)
    left = np.setdiff1d(np.arange(len(payload)), fast.rows, assume_unique=True)
    strict, rejected = reader.read_rows(schema.name, schema.root, payload, left, limits)
    return join_accepted(schema.root, [fast, strict]), rejected


_READ: Mapping[str, Callable[[Schema, pa.Array, MessageLimits], tuple[Accepted, Rejected]]] = {
    JSON: _read_json,
    PROTOBUF: _read_protobuf,
}
"""What reads the payloads of a block: the valid rows, and why each of the others is not valid."""


def judge_messages(
    messages: pa.RecordBatch, schema: Schema, rules: MessageRules, encoding: str = JSON
) -> Judged:
    """`judge_block`, but a row at which it raises is quarantined as `error`, and the others go on."""
    kind = KINDS[schema.name]
    results, faults = bisect_faults(lambda part: judge_block(part, schema, rules, encoding), messages)
    wrong = [quarantine_messages(row, [why], kind) for row, why in faults]
    nothing = make_empty(REPORT_BATCH if kind.is_report else kind.table.schema)
    return Judged(
        concat([each.rows for each in results] or [nothing]),
        concat([make_empty(QUARANTINE), *(each.quarantine for each in results), *wrong]),
    )


def judge_kinds(messages: pa.RecordBatch, rules: MessageRules) -> Iterator[tuple[Kind, Judged]]:
    """`judge_messages` of the RAW messages of each kind and encoding."""
    for kind, rows in split_by_kind(messages):
        schema = load_bounded(kind.schema, rules.custom_metric_limit)
        for encoding, part in split_by_encoding(rows):
            yield kind, judge_messages(part, schema, rules, encoding)


def drop_expired(found: Judged, kind: Kind, expiry: Expiry) -> Judged:
    """What may be written of judged messages of a kind; the others are counted as expired."""
    if not expiry:
        return found
    rows, quarantine = expiry.split(kind.table, found.rows), expiry.split(QUARANTINED, found.quarantine)
    count_expired(kind.schema, rows.expired + quarantine.expired)
    return Judged(rows.kept, quarantine.kept)


@cache
def load_bounded(name: str, custom_metric_limit: float) -> Schema:
    """The newest schema of a name, with the limit that a setting puts into it."""
    return load(name).bounded(custom_metric_limit)


class Validate(beam.PTransform):
    """RAW messages -> `reports` (REPORT_BATCH, the main output), `quarantine`, and the rows of each of
    RECORD_TABLES under the table's name.

    Of use alone: `messages | Validate()` gives `.reports`, `.quarantine`, `.tasks` and so on. Messages whose
    row would lie in what has expired by `expiry` are in none of the outputs.
    """

    def __init__(self, rules: MessageRules | None = None, expiry: Expiry = NOTHING) -> None:
        super().__init__()
        self.rules, self.expiry = rules or MessageRules(), expiry

    def expand(self, messages: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        tags = ("quarantine", *RECORD_TABLES)
        types = dict.fromkeys(tags, pa.RecordBatch)
        judge = beam.ParDo(_ValidateFn(self.rules, self.expiry)).with_output_types(pa.RecordBatch, **types)
        return messages | judge.with_outputs(*tags, main="reports")


class _ValidateFn(beam.DoFn):
    def __init__(self, rules: MessageRules, expiry: Expiry) -> None:
        self.rules, self.expiry = rules, expiry

    def setup(self) -> None:
        for name in KINDS:
            load_bounded(name, self.rules.custom_metric_limit)

    def process(self, messages: pa.RecordBatch) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        MESSAGES.inc(messages.num_rows)
        with stage_counters.time_stage("validate", messages.num_rows):
            judged = [
                (kind, drop_expired(found, kind, self.expiry))
                for kind, found in judge_kinds(messages, self.rules)
            ]
        observe_latency(VALIDATED, messages["received_at"])
        for kind, found in judged:
            if found.quarantine.num_rows:
                yield beam.pvalue.TaggedOutput("quarantine", found.quarantine)
            if found.rows.num_rows:
                yield found.rows if kind.is_report else beam.pvalue.TaggedOutput(kind.table.name, found.rows)
