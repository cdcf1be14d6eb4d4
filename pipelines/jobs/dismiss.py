"""Dismissal: quarantine rows are closed because their messages were corrected at their source, or given up.

The first output is written first. A run that dies after that can be run again: it finds there what was
dismissed, with the reason and the time, and writes the same rows to the other outputs.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.jobs.derive_after import derive_outputs
from pipelines.jobs.quarantine import open_quarantine, read_open_rows, write_rows
from pipelines.settings import Settings
from pipelines.verify.table_scan import scan
from schemas.tables import DISMISSED, QUARANTINED, TIME
from transforms.core.record_batches import build_batch, concat, make_empty


@dataclass(frozen=True)
class Dismissal:
    """How many rows were closed, how many had been dismissed before, and the names that no open row has."""

    dismissed: int
    already: int
    unknown: list[str]


def dismiss(
    texts: Sequence[str], settings: Settings, names: Collection[str], reason: str, at: datetime
) -> Dismissal:
    """Close the open rows of messages (`SOURCE/MESSAGE_ID`) in every output.

    A row keeps the reason and the time of its first dismissal.

    Raises:
        WrongUse: the first output is no folder, another job is writing to one, or one was made with other
            settings.
    """
    with open_quarantine(texts, settings) as (outputs, settings, output):
        wanted = pa.array(sorted(set(names)), pa.string())
        was_open = _filter(read_open_rows(output), wanted)
        already = _filter((rows.filter(_are_dismissed(rows)) for rows in scan(output, QUARANTINED)), wanted)
        write_rows(outputs, concat([_dismiss_rows(was_open, reason, at), already]))
        derive_outputs(outputs, settings)
        found = {*_join_names(was_open).to_pylist(), *_join_names(already).to_pylist()}
        unknown = [name for name in wanted.to_pylist() if name not in found]
        return Dismissal(was_open.num_rows, already.num_rows, unknown)


def _dismiss_rows(rows: pa.RecordBatch, reason: str, at: datetime) -> pa.RecordBatch:
    closed = {
        "resolution": pa.repeat(DISMISSED, rows.num_rows),
        "dismissed_because": pa.repeat(reason, rows.num_rows),
        "dismissed_at": pa.repeat(pa.scalar(at, TIME), rows.num_rows),
        "revision": pc.add(rows["revision"], 1),
    }
    columns = {name: closed.get(name, rows[name]) for name in QUARANTINED.schema.names}
    return build_batch(columns, QUARANTINED.schema, rows.num_rows)


def _are_dismissed(rows: pa.RecordBatch) -> pa.Array:
    return pc.fill_null(pc.equal(rows["resolution"], DISMISSED), False)


def _filter(parts: Iterable[pa.RecordBatch], wanted: pa.Array) -> pa.RecordBatch:
    """The rows of the messages of these names."""
    named = [rows.filter(pc.is_in(_join_names(rows), wanted)) for rows in parts]
    return concat([make_empty(QUARANTINED.schema), *named])


def _join_names(rows: pa.RecordBatch) -> pa.Array:
    """string[n]: `SOURCE/MESSAGE_ID` of each row."""
    return pc.binary_join_element_wise(rows["source"], rows["message_id"], "/")
