"""Rows of what messages say: valid documents in the columns of their kind's table, beside their messages.

Recency is measured between the time that a message tells and the time at which it was received, never against
the wall clock, so that a backfill judges as the stream did.
"""

from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import timedelta
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.kinds import Kind
from schemas.readers.formats import parse_date_time
from schemas.readers.verdicts import Accepted, Mask, Rejection
from schemas.registry import Schema
from schemas.tables import MESSAGE
from transforms.core.record_batches import REPORT_BATCH, build_batch
from transforms.core.time_units import HOUR_US
from transforms.validation.report_id import compute_fingerprints

Columns = Mapping[str, pa.Array]

_READ: Mapping[str | None, Callable[[pa.Array], pa.Array]] = {
    "date-time": parse_date_time,
    "uuid": pc.ascii_lower,
}


def make_rows(messages: pa.RecordBatch, kind: Kind, schema: Schema, accepted: Accepted) -> pa.RecordBatch:
    """The accepted rows of a block of messages (RAW): REPORT_BATCH, or rows of the kind's table.

    The column of a leaf of the schema has the last step of its path as its name.
    """
    known = messages.select([name for name, _ in MESSAGE])
    if not np.array_equal(accepted.rows, np.arange(messages.num_rows)):
        known = known.take(pa.array(accepted.rows))
    rows = len(accepted.rows)
    wanted = REPORT_BATCH if kind.is_report else kind.table.schema
    found = _read_leaves(kind, schema, accepted)
    own = {field.name: _fit(field, found) for field in wanted if _is_found(field, found)}
    columns = own | {name: known[name] for name in known.schema.names}
    columns["schema_version"] = pa.array(np.full(rows, schema.version))
    if kind.is_report:
        columns["report_id"] = compute_fingerprints(own, kind.contents, rows)
        columns["context"] = pa.array(np.zeros(rows, bool))
    else:
        columns["effective_at"] = pc.coalesce(known["received_at"], own[kind.time])
        own["effective_hour"] = _floor_hours(columns["effective_at"])
        columns["version"] = compute_fingerprints(own, kind.contents, rows)
    return build_batch(columns, wanted, rows)


def find_untimely(
    rows: pa.RecordBatch, kind: Kind, stale_seconds: int, future_seconds: int
) -> tuple[Mask, list[Rejection]]:
    """bool[n]: rows whose own time is too long before, or after, their message was received; and why, for
    each.

    A message without one of the two times is never untimely.
    """
    if not kind.is_recent:
        return np.zeros(rows.num_rows, bool), []
    lag = pc.subtract(rows["received_at"].cast(pa.int64()), rows[kind.time].cast(pa.int64()))
    stale = np.asarray(pc.fill_null(pc.greater(lag, stale_seconds * 1_000_000), False))
    future = np.asarray(pc.fill_null(pc.less(lag, -future_seconds * 1_000_000), False))
    rejections = []
    for row in np.flatnonzero(stale | future).tolist():
        reason, side, most = (
            ("stale", "before", stale_seconds) if stale[row] else ("future", "after", future_seconds)
        )
        distance = timedelta(microseconds=abs(lag[row].as_py()))
        did = kind.time.removesuffix("_at")
        text = f"{did} {distance} {side} it was received, more than {timedelta(seconds=most)}"
        rejections.append(Rejection(reason, text, kind.time, "recency"))
    return stale | future, rejections


def _read_leaves(kind: Kind, schema: Schema, accepted: Accepted) -> dict[str, pa.Array]:
    """The columns of the schema's leaves, `extra`, and what is computed from them, by their names."""
    found = {"extra": accepted.extra}
    for leaf, column in zip(schema.root.leaves(), accepted.columns):
        name = kind.record_id if leaf.path == ("id",) and kind.record_id else leaf.name
        read = _READ.get(leaf.schema.get("format"))
        found[name] = read(column) if read else column
    return found | _COMPUTED.get(kind.schema, lambda _: {})(found)


def _is_found(field: pa.Field, found: Columns) -> bool:
    return field.name in found or pa.types.is_struct(field.type)


def _fit(field: pa.Field, found: Columns) -> pa.Array:
    """A column as the table has it; a struct is made of the columns of its fields."""
    if not pa.types.is_struct(field.type):
        return found[field.name].cast(field.type)
    fields = [_fit(inner, found) for inner in field.type]
    return pa.StructArray.from_arrays(fields, fields=list(field.type))


def _measure_payload(found: Columns) -> dict[str, pa.Array]:
    return {"payload_bytes": pc.binary_length(found["payload"])}


def _digest_program(found: Columns) -> dict[str, pa.Array]:
    """SHA-256 and length of each program, which was checked to be base64."""
    programs = (text.as_py() for text in found["wasm_binary"])
    digests = [None if text is None else _digest(b64decode(text)) for text in programs]
    return {
        "wasm_sha256": pa.array([each and each[0] for each in digests], pa.string()),
        "wasm_bytes": pa.array([each and each[1] for each in digests], pa.int64()),
    }


def _digest(octets: bytes) -> tuple[str, int]:
    return sha256(octets).hexdigest(), len(octets)


_COMPUTED: Mapping[str, Callable[[Columns], dict[str, pa.Array]]] = {
    "task": _measure_payload,
    "agent": _digest_program,
}
"""Columns that are made of others, by kind."""


def _floor_hours(times: pa.Array) -> pa.Array:
    """int64[n]: the hour of each time, counted from 1970; null where it is."""
    micros = times.cast(pa.int64())
    return pa.array(micros.fill_null(0).to_numpy() // HOUR_US, mask=np.asarray(times.is_null()))
