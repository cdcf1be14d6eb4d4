"""Replay: refused messages judged again, as they were kept or as they were mended, without any of them counting twice.

A message is replayed only while its quarantine row is open and it has no other fate. The graph writes the reports first and the
row is closed after that, so a run that dies in between can be run again: its messages have their fate and are only closed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.backfill import only_job
from pipelines.connectors import Read, sinks, sources
from pipelines.failures import WrongUse
from pipelines.graph import build, rules
from pipelines.outputs import Outputs, local_folder, open_outputs
from pipelines.settings import Settings
from pipelines.tables.scan import scan
from runners import direct
from schemas.registry import load
from schemas.tables import DUPLICATES, QUARANTINED, REPORTS
from transforms.batches import RAW, concat, empty
from transforms.coder import by_reference
from transforms.validate import judged
from transforms.within import Span

REPLAYED = "replayed"
"""The resolution of a quarantine row whose message has found another fate."""


@dataclass(frozen=True)
class Replay:
    """How many messages found a fate, are still refused (QUARANTINE rows, with the new reason), or are not open in quarantine."""

    replayed: int
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


def replay(texts: Sequence[str], settings: Settings, reasons: Sequence[str] = (), mended: pa.RecordBatch | None = None) -> Replay:
    """Judge open messages of the first output's quarantine again: those of `reasons` (all, if none), or `mended` ones (RAW) by
    their identity. What comes of them goes to every output.

    Raises:
        WrongUse: the first output is no folder, another job holds it, or one was made with other settings.
    """
    outputs, settings = open_outputs(texts, settings, create=False)
    output = local_folder(outputs.main)
    if output is None:
        raise WrongUse(f"{outputs.main.name} is no folder of this machine", "name the job's output folder first, then the others")
    with only_job(output):
        rows = concat([empty(QUARANTINED.schema), *open_rows(output, reasons)])
        messages, unknown = _chosen(rows, mended)
        _, refused = judged(messages, load("kpi_report"), rules(settings))
        valid = messages.filter(pc.invert(_among(messages, refused)))
        fated = _fated(output, valid)
        fresh = valid.filter(pa.array(~fated))
        if fresh.num_rows:
            given = sources(_Given([fresh]), outputs, Span())
            direct.run(lambda root: build(root, given, sinks(outputs, settings), settings), alone=by_reference)
        _close(outputs, rows.filter(_among(rows, valid)))
        return Replay(valid.num_rows, refused, unknown)


def open_rows(output: Path, reasons: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """The quarantine rows that are not resolved, a file at a time."""
    for rows in scan(output, QUARANTINED):
        is_open = pc.is_null(rows["resolution"])
        if reasons:
            is_open = pc.and_(is_open, pc.is_in(rows["reason"], pa.array(reasons, pa.string())))
        yield rows.filter(is_open)


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
    found = [(row, places.pop(key)) for row, key in enumerate(names) if key in places]  # of two mends of one message the first
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
    """bool[n]: the messages that are a report or a duplicate already."""
    known: set[tuple[str, str]] = set()
    for table in (REPORTS, DUPLICATES):
        for stored in scan(output, table, ["source", "message_id"]):
            known.update(_keys(stored.filter(pc.is_in(stored["message_id"], messages["message_id"]))))
    return np.array([key in known for key in _keys(messages)], dtype=bool)


def _close(outputs: Outputs, rows: pa.RecordBatch) -> None:
    columns = {name: rows[name] for name in QUARANTINED.schema.names}
    columns["resolution"] = pa.array([REPLAYED] * rows.num_rows, pa.string())
    columns["revision"] = pc.add(rows["revision"], 1)
    closed = pa.RecordBatch.from_pydict(columns, schema=QUARANTINED.schema)
    for target in outputs.targets:
        if QUARANTINED.name in target.tables:
            target.write(QUARANTINED, [closed])
