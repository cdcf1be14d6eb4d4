"""Quarantine rows, all built here: the original bytes of a message, why it is rejected, and where."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import apache_beam as beam
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from schemas.kinds import KINDS, REPORT_KIND, Kind
from schemas.readers.verdicts import OVERSIZE, MessageLimits, Rejection
from schemas.tables import MESSAGE, QUARANTINE, REPORT
from transforms.core.excerpt import Excerpt
from transforms.core.message_encodings import read_encodings
from transforms.core.record_batches import RAW, append_columns, build_batch, concat, fit_column
from transforms.core.stage_counters import count_stage
from transforms.validation.message_kinds import KIND, bound, name_kinds

Result = TypeVar("Result")


def quarantine_messages(
    messages: pa.RecordBatch, rejections: Sequence[Rejection], kind: Kind | None = None
) -> pa.RecordBatch:
    """A QUARANTINE row for each message (RAW columns) with its rejection.

    The messages are of `kind`, or of the kinds that they or their sources name.
    """
    payloads = [payload.removesuffix(b"\n") for payload in messages["payload"].to_pylist()]
    columns = {
        "source": messages["source"],
        "message_id": messages["message_id"],
        "received_at": messages["received_at"],
        "kind": pa.repeat(kind.schema, messages.num_rows) if kind else name_kinds(messages),
        "encoding": read_encodings(messages),
        "payload": fit_column(pa.array(payloads, pa.large_binary()), pa.binary()),
        "reason": pa.array([each.reason for each in rejections], pa.string()),
        "field": pa.array([each.field for each in rejections], pa.string()),
        "rule": pa.array([each.rule for each in rejections], pa.string()),
        "message": pa.array([each.message for each in rejections], pa.string()),
        "revision": pa.array([1] * messages.num_rows, pa.int64()),
    }
    return build_batch(columns, QUARANTINE, messages.num_rows)


def quarantine_unwritten(
    rows: pa.RecordBatch, rejections: Sequence[Rejection], kind: Kind | None = None
) -> pa.RecordBatch:
    """A QUARANTINE row for each row of a table with MESSAGE columns; its payload is the row as JSON.

    `kind`: that of the table's messages; None if each row names its own, or its source does.
    """
    payloads = [orjson.dumps(row, default=str) for row in rows.to_pylist(maps_as_pydicts="lossy")]
    messages = {name: rows[name] for name, _ in MESSAGE} | {"payload": pa.array(payloads, pa.large_binary())}
    unwritten = build_batch(messages, RAW, rows.num_rows)
    if kind is None and KIND.name in rows.schema.names:
        unwritten = append_columns(unwritten, [(KIND, rows[KIND.name])])
    return quarantine_messages(unwritten, rejections, kind)


def quarantine_failed(reports: pa.RecordBatch, rejections: Sequence[Rejection]) -> pa.RecordBatch:
    """A QUARANTINE row for each report (REPORT columns among others) at which a kernel raised later.

    The payload is not what was received, but a document that validates to the same columns and report_id.
    """
    rows = reports.select(REPORT.names).to_pylist(maps_as_pydicts="lossy")
    payloads = pa.array([json.dumps(_restore_document(row)).encode() for row in rows], pa.large_binary())
    messages = {name: reports[name] for name, _ in MESSAGE} | {"payload": payloads}
    return quarantine_messages(build_batch(messages, RAW, reports.num_rows), rejections, REPORT_KIND)


def _restore_document(row: dict[str, Any]) -> dict[str, Any]:
    """The report of a row of REPORT."""
    context = _drop_nulls(row["execution_context"])
    for holder in (row, context):
        holder |= {name: json.loads(holder[name]) for name in _JSON if holder.get(name) is not None}
    own = {name: value for name, value in row.items() if name not in _ADDED}
    extra = json.loads(row["extra"]) if row["extra"] else {}
    context |= extra.pop("execution_context", {})
    recorded = row["recorded_at"].isoformat().replace("+00:00", "Z")
    return _drop_nulls(own) | {"recorded_at": recorded, "execution_context": context} | extra


def _drop_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


_JSON = ("error_details", "gpu_info")
_ADDED = {"extra", "report_id", "schema_version", *(name for name, _ in MESSAGE)}


def bisect_faults(
    kernel: Callable[[pa.RecordBatch], Result],
    rows: pa.RecordBatch,
    faults: tuple[type[Exception], ...] = (Exception,),
) -> tuple[list[Result], list[tuple[pa.RecordBatch, Rejection]]]:
    """The kernel's results over the rows without those at which it raises; and these, each with a rejection.

    The rows are halved until each row at fault is alone; its reason is `error`.

    Raises:
        MemoryError, and errors that are none of `faults`.
    """
    try:
        return [kernel(rows)], []
    except MemoryError:
        raise
    except faults as error:
        if rows.num_rows <= 1:
            return [], [(rows, Rejection("error", f"{type(error).__name__}: {error}"[:400]))]
    half = rows.num_rows // 2
    results, wrong = bisect_faults(kernel, rows[:half], faults)
    more, others = bisect_faults(kernel, rows[half:], faults)
    return results + more, wrong + others


class RowWise(beam.PTransform):
    """(key, reports) -> `reports`, (key, the kernel's result), and `quarantine`, rows at which it raises.

    The kernel takes a batch and `options`, gives a batch, and treats each row by itself. A batch stays one
    batch.
    """

    def __init__(self, name: str, kernel: Callable[..., Any], *options: Any) -> None:
        super().__init__()
        self.kernel, self.options = count_stage(name, kernel), options

    def expand(self, reports: beam.PCollection) -> Any:  # Beam warns of any other type for tagged outputs
        guarded = beam.FlatMap(_run_guarded, self.kernel, self.options).with_output_types(
            tuple[int, pa.RecordBatch], quarantine=pa.RecordBatch
        )
        return reports | guarded.with_outputs("quarantine", main="reports")


def _run_guarded(
    keyed: tuple[int, pa.RecordBatch], kernel: Callable[..., Any], options: Sequence[Any]
) -> Iterator[Any]:
    key, batch = keyed
    results, faults = bisect_faults(lambda part: kernel(part, *options), batch)
    if results:
        yield key, concat(results)  # one batch again: in a batch job it has all reports of its hours
    for row, why in faults:
        yield beam.pvalue.TaggedOutput("quarantine", quarantine_failed(row, [why]))


def quarantine_misfits(bad: pa.RecordBatch, limits: MessageLimits) -> pa.RecordBatch:
    """QUARANTINE rows of what is no message (REJECTED of the sources): `oversize`, or else `envelope`."""
    lengths = pc.coalesce(bad["payload_bytes"], pc.subtract(pc.binary_length(bad["payload"]), 1)).to_pylist()
    bounds = [bound(limits, KINDS[name]) for name in name_kinds(bad).to_pylist()]
    problems = zip(bad["message"].to_pylist(), lengths, bounds)
    rejections = [own.oversize(length) or Rejection("envelope", problem) for problem, length, own in problems]
    rows = quarantine_messages(bad, rejections)
    columns = {name: rows[name] for name in QUARANTINE.names}
    columns |= {name: bad[name] for name in ("payload_bytes", "payload_sha256")}
    return build_batch(columns, QUARANTINE, rows.num_rows)


def shorten_oversize(rows: pa.RecordBatch) -> pa.RecordBatch:
    """QUARANTINE rows; of each `oversize` payload an excerpt, its length and its SHA-256 are kept."""
    long = pc.equal(rows["reason"], OVERSIZE)
    if not pc.any(long).as_py():
        return rows
    # A row that has a length already is an excerpt: its message was too long for memory.
    here = pc.and_(long, rows["payload_bytes"].is_null())
    found = [Excerpt(payload) for payload in rows["payload"].filter(here).to_pylist()]
    values = {
        "payload": pa.array([each.head for each in found], rows["payload"].type),
        "payload_bytes": pa.array([each.length for each in found], pa.int64()),
        "payload_sha256": pa.array([each.sha256 for each in found], pa.string()),
    }
    columns = {name: rows[name] for name in QUARANTINE.names}
    columns |= {name: pc.replace_with_mask(rows[name], here, values[name]) for name in values}
    columns["payload"] = fit_column(columns["payload"], pa.binary())
    return build_batch(columns, QUARANTINE, rows.num_rows)
