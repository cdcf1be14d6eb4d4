"""Replay: rejected messages are validated again, as they were kept or corrected; none of them counts twice.

A message is replayed only while its quarantine row is open and it has no other fate. The graph writes reports
and records first, and the row is closed after that. So a run that dies in between can be run again: its
messages have their fate, and only their rows are closed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.assembly import SourceRows, make_batch_sinks, make_batch_timing, make_sources
from pipelines.graph import build, make_rules
from pipelines.jobs.derive_after import derive_outputs
from pipelines.jobs.engines import LocalEngine
from pipelines.jobs.quarantine import (
    are_among,
    close_rows,
    have_fate,
    list_keys,
    open_quarantine,
    read_open_rows,
    write_rows,
)
from pipelines.outputs import Outputs
from pipelines.settings import Settings
from schemas.kinds import REPORT_KIND, Kind
from schemas.readers.verdicts import Rejection
from schemas.tables import QUARANTINED, REPLAYED, WAIVED
from transforms.core.expiry import Expiry
from transforms.core.message_encodings import ENCODING, read_encodings
from transforms.core.record_batches import RAW, append_columns, concat, make_empty, split_by_bytes
from transforms.core.time_range import Span
from transforms.validation.message_kinds import KIND
from transforms.validation.quarantine_rows import quarantine_messages
from transforms.validation.validate import judge_kinds

EVER = 10**12
"""Seconds that are more than any two times are apart, and whose microseconds fit into 64 bits."""
FIRST = 1
"""The revision of a quarantine row that was never closed."""


@dataclass(frozen=True)
class Replay:
    """What came of a replay.

    Attributes:
        replayed: how many messages became a report, a record or a duplicate.
        waived: how many of these by a waiver.
        refused: rows (QUARANTINE) of those that are still rejected, with the new reason.
        unknown: names of messages that are not open in quarantine.
    """

    replayed: int
    waived: int
    refused: pa.RecordBatch
    unknown: list[str]


def replay(
    texts: Sequence[str],
    settings: Settings,
    reasons: Sequence[str] = (),
    kinds: Sequence[str] = (),
    corrected: pa.RecordBatch | None = None,
    waive_recency: bool = False,
) -> Replay:
    """Validate open messages of the first output's quarantine again; what comes of them goes to every output.

    These are the messages of `reasons` and `kinds` (all, if none), or those of them that `corrected` (RAW)
    has a new payload for. Each is validated as the kind that its row names.
    With `waive_recency` messages that are rejected for their recency alone are accepted, and their rows say
    so.

    Raises:
        WrongUse: the first output is no folder, another job is writing to one, or one was made with other
            settings.
    """
    with open_quarantine(texts, settings) as (outputs, settings, output):
        rows = concat([make_empty(QUARANTINED.schema), *read_open_rows(output, reasons, kinds)])
        write_rows(outputs, rows.filter(pc.greater(rows["revision"], FIRST)))
        cut = _explain_cut(rows) if corrected is None else rows.slice(0, 0)
        messages, unknown = _choose_messages(rows.filter(pc.invert(are_among(rows, cut))), corrected)
        judged = _judge(messages, settings, outputs.read_expiry(), waive_recency)
        _run_graph(judged, outputs, output, settings)
        # A kernel after validation may raise at a message again: it then has no fate and stays open.
        accepted = concat([judged.valid, judged.waived])
        failed = accepted.filter(pa.array(~have_fate(output, accepted)))
        counts = []
        for found, resolution in ((judged.valid, REPLAYED), (judged.waived, WAIVED)):
            done = found.filter(pc.invert(are_among(found, failed)))
            close_rows(outputs, rows.filter(are_among(rows, done)), resolution)
            counts.append(done.num_rows)
        derive_outputs(outputs, settings)
        again = rows.filter(are_among(rows, failed)).select(judged.rejected.schema.names)
        return Replay(sum(counts), counts[1], concat([judged.rejected, cut, again]), unknown)


class _Judged(NamedTuple):
    """Messages (RAW) that are valid, or are but for their recency, and QUARANTINE rows of the others."""

    valid: pa.RecordBatch
    waived: pa.RecordBatch
    rejected: pa.RecordBatch


def _judge(messages: pa.RecordBatch, settings: Settings, expiry: Expiry, waive_recency: bool) -> _Judged:
    valid, rejected = _validate(messages, settings, expiry)
    if not waive_recency:
        return _Judged(valid, messages.slice(0, 0), rejected)
    again = messages.filter(are_among(messages, rejected))
    waived, rejected = _validate(again, _waive_recency(settings), expiry)
    return _Judged(valid, waived, rejected)


def _validate(
    messages: pa.RecordBatch, settings: Settings, expiry: Expiry
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """The messages that are valid by the settings, and QUARANTINE rows of the others.

    Among these are valid messages whose rows would lie in what has expired: they stay in quarantine.
    """
    rules = make_rules(settings)
    judged = [make_empty(QUARANTINED.schema)]
    for part in split_by_bytes(messages, messages.schema):
        for kind, found in judge_kinds(part, rules):
            late = found.rows.filter(pa.array(expiry.find_expired(kind.table, found.rows)))
            judged += [found.quarantine, _keep_expired(part.filter(are_among(part, late)), kind, expiry)]
    rejected = concat(judged)
    return messages.filter(pc.invert(are_among(messages, rejected))), rejected


def _keep_expired(messages: pa.RecordBatch, kind: Kind, expiry: Expiry) -> pa.RecordBatch:
    """QUARANTINE rows of messages of a kind whose rows would lie in what has expired."""
    if not messages.num_rows:
        return make_empty(QUARANTINED.schema)
    start = expiry.find_start(kind.table)
    text = f"{kind.table.name} no longer takes rows from before {start:%Y-%m-%d %H:%M} UTC: they have expired"
    why = Rejection("expired", text, kind.table.time, "retention")
    return quarantine_messages(messages, [why] * messages.num_rows, kind)


def _waive_recency(settings: Settings) -> Settings:
    return settings.model_copy(update={"stale_seconds": EVER, "future_seconds": EVER})


def _run_graph(judged: _Judged, outputs: Outputs, output: Path, settings: Settings) -> None:
    """Run the graph over the accepted messages that have no fate yet."""
    accepted = concat([judged.valid, judged.waived])
    new = accepted.filter(pa.array(~have_fate(output, accepted)))
    if not new.num_rows:
        return
    messages = _Messages(list(split_by_bytes(new, new.schema)))
    settings = _waive_recency(settings) if judged.waived.num_rows else settings

    def wire(root: beam.Pipeline) -> None:
        sources = make_sources(messages, outputs, settings, Span(), outputs.main.has_reports())
        build(root, sources, make_batch_sinks(outputs, settings), settings, make_batch_timing(settings))

    LocalEngine().run(wire, output)


class _Messages(beam.PTransform):
    """Messages in memory, as a source."""

    def __init__(self, messages: Sequence[pa.RecordBatch]) -> None:
        super().__init__()
        self.messages = messages

    def expand(self, root: beam.pvalue.PBegin) -> SourceRows:
        def create(name: str, batches: Sequence[pa.RecordBatch]) -> beam.PCollection:
            return root | name >> beam.Create(batches, reshuffle=False).with_output_types(pa.RecordBatch)

        return SourceRows(create("Messages", self.messages), create("Nothing refused", []))


def _explain_cut(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows that hold only the beginning of their message; their `message` says what can be done."""
    is_cut = pc.greater(rows["payload_bytes"], pc.binary_length(rows["payload"]))
    cut = rows.filter(pc.fill_null(is_cut, False))
    fix = (
        "; only its beginning is kept: give it corrected with --input, or backfill its source with a larger "
        "max_payload_bytes"
    )
    columns = {name: cut[name] for name in cut.schema.names}
    columns["message"] = pc.binary_join_element_wise(cut["message"], fix, "")
    return pa.RecordBatch.from_pydict(columns, schema=cut.schema)


class _Chosen(NamedTuple):
    """Messages (RAW), and the names of corrected ones that are not open."""

    messages: pa.RecordBatch
    unknown: list[str]


def _choose_messages(rows: pa.RecordBatch, corrected: pa.RecordBatch | None) -> _Chosen:
    """The messages to validate, as kept or as corrected, with the time at which they were first received."""
    if corrected is None:
        newline, nothing = (pa.scalar(octets, pa.large_binary()) for octets in (b"\n", b""))
        payload = pc.binary_join_element_wise(rows["payload"].cast(pa.large_binary()), newline, nothing)
        return _Chosen(_replace_payload(rows, payload, rows[ENCODING.name]), [])
    places = {key: place for place, key in enumerate(list_keys(rows))}
    keys = list_keys(corrected)
    # Of two corrections of one message the first counts.
    found = [(row, places.pop(key)) for row, key in enumerate(keys) if key in places]
    chosen = {row for row, _ in found}
    unknown = ["/".join(key) for row, key in enumerate(keys) if row not in chosen]
    known = rows.take(pa.array([place for _, place in found], pa.int64()))
    given = corrected.take(pa.array([row for row, _ in found], pa.int64()))
    return _Chosen(_replace_payload(known, given["payload"], read_encodings(given)), unknown)


def _replace_payload(rows: pa.RecordBatch, payload: pa.Array, encodings: pa.Array) -> pa.RecordBatch:
    columns = {name: rows[name] for name in ("source", "message_id", "received_at")}
    messages = pa.RecordBatch.from_pydict(columns | {"payload": payload}, schema=RAW)
    kinds = pc.fill_null(rows[KIND.name], REPORT_KIND.schema)
    return append_columns(messages, [(KIND, kinds), (ENCODING, encodings)])
