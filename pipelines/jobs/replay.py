"""Replay: refused messages judged again, as they were kept or as they were mended, without any of them counting twice.

A message is replayed only while its quarantine row is open and it has no other fate. The graph writes the reports first and the
row is closed after that, so a run that dies in between can be run again: its messages have their fate and are only closed. A row
that was closed is open again once the report that came of it is gone, for example because its hour was replaced.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.assembly import Read, choose_sinks, choose_sources
from pipelines.failures import WrongUse
from pipelines.graph import build, load_report_schema, make_rules
from pipelines.jobs.lock import lock_folders
from pipelines.outputs import Outputs, local_folder, open_outputs
from pipelines.settings import Settings
from pipelines.verify.table_scan import scan
from runners import direct
from schemas.tables import CLOSED, DUPLICATES, QUARANTINED, REPLAYED, REPORTS, WAIVED
from transforms.core.arrow_coder import pass_by_reference
from transforms.core.record_batches import RAW, build_batch, concat, make_empty, split_by_bytes
from transforms.core.time_range import Span
from transforms.validation.validate import judge_messages

EVER = 10**12
"""Seconds that are more than any two times lie apart, and whose microseconds fit into 64 bits."""
FIRST = 1
"""The revision of a quarantine row that was never closed."""


@dataclass(frozen=True)
class Replay:
    """How many messages found a fate, and how many of these by a waiver; which are still refused (QUARANTINE rows, with the new
    reason), or are not open in quarantine."""

    replayed: int
    waived: int
    refused: pa.RecordBatch
    unknown: list[str]


class _Given(beam.PTransform):
    """Messages that are at hand, as a source."""

    def __init__(self, messages: Sequence[pa.RecordBatch]) -> None:
        super().__init__()
        self.messages = messages

    def expand(self, root: beam.pvalue.PBegin) -> Read:
        def given(name: str, batches: Sequence[pa.RecordBatch]) -> beam.PCollection:
            return root | name >> beam.Create(batches, reshuffle=False).with_output_types(pa.RecordBatch)

        return Read(given("Messages", self.messages), given("Nothing refused", []))


def replay(
    texts: Sequence[str],
    settings: Settings,
    reasons: Sequence[str] = (),
    mended: pa.RecordBatch | None = None,
    waive_recency: bool = False,
) -> Replay:
    """Judge open messages of the first output's quarantine again: those of `reasons` (all, if none), or `mended` ones (RAW) by
    their identity. What comes of them goes to every output. With `waive_recency` those refused for their recency alone are
    accepted, and their rows say so.

    Raises:
        WrongUse: the first output is no folder, another job holds it, or one was made with other settings.
    """
    with opened(texts, settings) as (outputs, settings, output):
        rows = concat([make_empty(QUARANTINED.schema), *open_rows(output, reasons)])
        write_rows(outputs, rows.filter(pc.greater(rows["revision"], FIRST)))
        cut = _cut(rows) if mended is None else rows.slice(0, 0)
        messages, unknown = _chosen(rows.filter(pc.invert(_among(rows, cut))), mended)
        valid, refused = _accepted(messages, settings)
        judge, waived = settings, messages.slice(0, 0)
        if waive_recency:
            judge = settings.model_copy(update={"stale_seconds": EVER, "future_seconds": EVER})
            waived, refused = _accepted(messages.filter(_among(messages, refused)), judge)
        accepted = concat([valid, waived])
        fresh = accepted.filter(pa.array(~_fated(output, accepted)))
        if fresh.num_rows:
            given = choose_sources(_Given(list(split_by_bytes(fresh, RAW))), outputs, Span())
            direct.run(
                lambda root: build(root, given, choose_sinks(outputs, settings), judge),
                alone=pass_by_reference,
            )
        # A kernel after validation may raise at a message again: it then has no fate and stays open.
        failed = accepted.filter(pa.array(~_fated(output, accepted)))
        valid, waived = (found.filter(pc.invert(_among(found, failed))) for found in (valid, waived))
        for found, resolution in ((valid, REPLAYED), (waived, WAIVED)):
            _close(outputs, rows.filter(_among(rows, found)), resolution)
        again = rows.filter(_among(rows, failed)).select(refused.schema.names)
        return Replay(
            valid.num_rows + waived.num_rows, waived.num_rows, concat([refused, cut, again]), unknown
        )


@contextmanager
def opened(texts: Sequence[str], settings: Settings) -> Iterator[tuple[Outputs, Settings, Path]]:
    """The outputs, held for this job, the settings to write them with, and the folder of the first.

    Raises:
        WrongUse: the first output is no folder, another job holds it, or one was made with other settings.
    """
    outputs, settings = open_outputs(texts, settings, create=False)
    output = local_folder(outputs.main)
    if output is None:
        raise WrongUse(
            f"{outputs.main.name} is no folder of this machine",
            "name the job's output folder first, then the others",
        )
    with lock_folders(*outputs.folders):
        yield outputs, settings, output


def _cut(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows that hold only the beginning of their message, with what can be done."""
    cut = rows.filter(
        pc.fill_null(pc.greater(rows["payload_bytes"], pc.binary_length(rows["payload"])), False)
    )
    fix = "; only its beginning is kept: give it mended with --input, or backfill its source under a larger max_payload_bytes"
    columns = {name: cut[name] for name in cut.schema.names} | {
        "message": pc.binary_join_element_wise(cut["message"], fix, "")
    }
    return pa.RecordBatch.from_pydict(columns, schema=cut.schema)


def _accepted(messages: pa.RecordBatch, settings: Settings) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """The messages that are valid by the settings, and QUARANTINE rows of the others."""
    parts = [
        judge_messages(part, load_report_schema(settings), make_rules(settings))[1]
        for part in split_by_bytes(messages, RAW)
    ]
    refused = concat([make_empty(QUARANTINED.schema), *parts])
    return messages.filter(pc.invert(_among(messages, refused))), refused


def open_rows(output: Path, reasons: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """The quarantine rows that are open, a file at a time. A row that was closed but whose report is gone is among them, without
    its resolution and with the next revision."""
    gone = closed_without_fate(output)
    for rows in scan(output, QUARANTINED):
        again = (
            pc.and_(_is_closed(rows), _among(rows, gone))
            if gone.num_rows
            else pa.array([False] * rows.num_rows)
        )
        columns = {name: rows[name] for name in rows.schema.names}
        columns["resolution"] = pc.if_else(again, pa.scalar(None, pa.string()), rows["resolution"])
        columns["revision"] = pc.add(rows["revision"], again.cast(pa.int64()))
        rows = pa.RecordBatch.from_pydict(columns, schema=rows.schema)
        is_open = pc.is_null(rows["resolution"])
        if reasons:
            is_open = pc.and_(is_open, pc.is_in(rows["reason"], pa.array(reasons, pa.string())))
        yield rows.filter(is_open)


def closed_without_fate(output: Path) -> pa.RecordBatch:
    """`source` and `message_id` of the quarantine rows that a replay closed and whose messages are no report or duplicate now."""
    names = ["source", "message_id", "resolution"]
    closed = [rows.filter(_is_closed(rows)) for rows in scan(output, QUARANTINED, names)]
    messages = concat([make_empty(pa.schema([QUARANTINED.schema.field(name) for name in names])), *closed])
    return messages.filter(pa.array(~_fated(output, messages))) if messages.num_rows else messages


def _is_closed(rows: pa.RecordBatch) -> pa.Array:
    return pc.is_in(rows["resolution"], pa.array(CLOSED))


class _Chosen(NamedTuple):
    messages: pa.RecordBatch
    unknown: list[str]


def _chosen(rows: pa.RecordBatch, mended: pa.RecordBatch | None) -> _Chosen:
    """The messages to judge: as they were kept, or as they were mended, under the time at which they were first received."""
    kept = {name: rows[name] for name in ("source", "message_id", "received_at")}
    if mended is None:
        newline, nothing = (pa.scalar(octets, pa.large_binary()) for octets in (b"\n", b""))
        payload = pc.binary_join_element_wise(rows["payload"].cast(pa.large_binary()), newline, nothing)
        return _Chosen(pa.RecordBatch.from_pydict(kept | {"payload": payload}, schema=RAW), [])
    places = {key: place for place, key in enumerate(_keys(rows))}
    names = _keys(mended)
    found = [
        (row, places.pop(key)) for row, key in enumerate(names) if key in places
    ]  # of two mends of one message the first
    unknown = ["/".join(names[row]) for row in sorted(set(range(len(names))) - {row for row, _ in found})]
    known = rows.take(pa.array([place for _, place in found], pa.int64()))
    payload = mended["payload"].take(pa.array([row for row, _ in found], pa.int64()))
    columns = {name: known[name] for name in kept} | {"payload": payload}
    return _Chosen(pa.RecordBatch.from_pydict(columns, schema=RAW), unknown)


def _keys(rows: pa.RecordBatch) -> list[tuple[str, str]]:
    return list(zip(rows["source"].to_pylist(), rows["message_id"].to_pylist()))


def _among(rows: pa.RecordBatch, others: pa.RecordBatch) -> pa.Array:
    known = set(_keys(others))
    return pa.array([key in known for key in _keys(rows)], pa.bool_())


def _fated(output: Path, messages: pa.RecordBatch) -> np.ndarray:
    """bool[n]: the messages that are a report already, or a duplicate of one that is stored."""
    ids = messages["message_id"]
    repeated: dict[tuple[str, str], str] = {}
    for stored in scan(output, DUPLICATES, ["source", "message_id", "report_id"]):
        found = stored.filter(pc.is_in(stored["message_id"], ids))
        repeated |= zip(_keys(found), found["report_id"].to_pylist())
    originals, known, present = pa.array(repeated.values(), pa.string()), set(), set()
    for stored in scan(output, REPORTS, ["source", "message_id", "report_id"]):
        found = stored.filter(
            pc.or_(pc.is_in(stored["message_id"], ids), pc.is_in(stored["report_id"], originals))
        )
        known.update(_keys(found))
        present.update(found["report_id"].to_pylist())
    known.update(key for key, report_id in repeated.items() if report_id in present)
    return np.array([key in known for key in _keys(messages)], dtype=bool)


def _close(outputs: Outputs, rows: pa.RecordBatch, resolution: str) -> None:
    columns = {name: rows[name] for name in QUARANTINED.schema.names}
    columns["resolution"] = pa.array([resolution] * rows.num_rows, pa.string())
    columns["revision"] = pc.add(rows["revision"], 1)
    write_rows(outputs, build_batch(columns, QUARANTINED.schema, rows.num_rows))


def write_rows(outputs: Outputs, rows: pa.RecordBatch) -> None:
    """Write QUARANTINED rows to every output that keeps them, to the main one first."""
    for sink in sorted(outputs.sinks, key=lambda sink: sink is not outputs.main):
        if rows.num_rows and QUARANTINED.name in sink.tables:
            sink.write(QUARANTINED, [rows])
