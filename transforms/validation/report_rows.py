"""Report rows: valid documents with the types of REPORT, beside the messages that they came in.

Recency is measured between a report's recorded_at and its own message's received_at, never against the wall
clock, so that a backfill judges as the stream did.
"""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.readers.formats import parse_date_time
from schemas.readers.verdicts import Accepted, Mask, Rejection
from schemas.registry import Schema
from schemas.tables import MESSAGE, REPORT
from transforms.core.record_batches import REPORT_BATCH, build_batch
from transforms.validation.report_id import compute_report_ids


def make_reports(messages: pa.RecordBatch, schema: Schema, accepted: Accepted) -> pa.RecordBatch:
    """The accepted rows of a block of messages (RAW) as REPORT_BATCH."""
    known = messages.select([name for name, _ in MESSAGE])
    if not np.array_equal(accepted.rows, np.arange(messages.num_rows)):
        known = known.take(pa.array(accepted.rows))
    leaves = schema.root.leaves()
    formats = {leaf.path: leaf.schema.get("format") for leaf in leaves}
    found = {leaf.path: column for leaf, column in zip(leaves, accepted.columns)}

    def give_type(path: tuple[str, ...], type_: pa.DataType) -> pa.Array:
        if pa.types.is_struct(type_):
            fields = [give_type((*path, inner.name), inner.type) for inner in type_]
            return pa.StructArray.from_arrays(fields, fields=list(type_))
        if formats[path] == "date-time":
            return parse_date_time(found[path])
        return pc.ascii_lower(found[path]) if formats[path] == "uuid" else found[path].cast(type_)

    rows = len(accepted.rows)
    names = [name for name in REPORT.names if (name,) in found or name == "execution_context"]
    own = {name: give_type((name,), REPORT.field(name).type) for name in names} | {"extra": accepted.extra}
    columns = own | {name: known[name] for name in known.schema.names}
    columns["report_id"] = compute_report_ids(pa.RecordBatch.from_pydict(own))
    columns["schema_version"] = pa.array(np.full(rows, schema.version))
    columns["context"] = pa.array(np.zeros(rows, bool))
    return build_batch(columns, REPORT_BATCH, rows)


def find_untimely(
    reports: pa.RecordBatch, stale_seconds: int, future_seconds: int
) -> tuple[Mask, list[Rejection]]:
    """bool[n]: reports recorded too long before, or after, their message was received; and why, for each.

    A message without a time is never untimely.
    """
    lag = pc.subtract(reports["received_at"].cast(pa.int64()), reports["recorded_at"].cast(pa.int64()))
    stale = np.asarray(pc.fill_null(pc.greater(lag, stale_seconds * 1_000_000), False))
    future = np.asarray(pc.fill_null(pc.less(lag, -future_seconds * 1_000_000), False))
    rejections = []
    for row in np.flatnonzero(stale | future).tolist():
        reason, side, most = (
            ("stale", "before", stale_seconds) if stale[row] else ("future", "after", future_seconds)
        )
        distance = timedelta(microseconds=abs(lag[row].as_py()))
        text = f"recorded {distance} {side} it was received, more than {timedelta(seconds=most)}"
        rejections.append(Rejection(reason, text, "recorded_at", "recency"))
    return stale | future, rejections
