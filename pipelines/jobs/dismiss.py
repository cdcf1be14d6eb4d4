"""Dismissal: quarantine rows closed because their messages were corrected, or given up, where they came from.

The first output is written first. A run that dies after that can be run again: it finds what was dismissed there, with the reason
and the time, and writes the same rows to the other outputs.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.jobs.replay import open_rows, opened, write_rows
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
    """Close the open rows of the messages of these names (`SOURCE/MESSAGE_ID`), in every output. A row keeps the reason and the
    time of its first dismissal.

    Raises:
        WrongUse: the first output is no folder, another job holds it, or one was made with other settings.
    """
    with opened(texts, settings) as (outputs, _, output):
        wanted = pa.array(sorted(set(names)), pa.string())
        was_open = _named(open_rows(output), wanted)
        already = _named((rows.filter(_is_dismissed(rows)) for rows in scan(output, QUARANTINED)), wanted)
        closed = {
            "resolution": pa.repeat(DISMISSED, was_open.num_rows),
            "dismissed_because": pa.repeat(reason, was_open.num_rows),
            "dismissed_at": pa.repeat(pa.scalar(at, TIME), was_open.num_rows),
            "revision": pc.add(was_open["revision"], 1),
        }
        columns = {name: closed.get(name, was_open[name]) for name in QUARANTINED.schema.names}
        write_rows(outputs, concat([build_batch(columns, QUARANTINED.schema, was_open.num_rows), already]))
        found = {*_names(was_open).to_pylist(), *_names(already).to_pylist()}
        return Dismissal(
            was_open.num_rows, already.num_rows, [name for name in wanted.to_pylist() if name not in found]
        )


def _is_dismissed(rows: pa.RecordBatch) -> pa.Array:
    return pc.fill_null(pc.equal(rows["resolution"], DISMISSED), False)


def _named(parts: Iterable[pa.RecordBatch], wanted: pa.Array) -> pa.RecordBatch:
    """The rows of the messages of these names."""
    return concat(
        [make_empty(QUARANTINED.schema), *(rows.filter(pc.is_in(_names(rows), wanted)) for rows in parts)]
    )


def _names(rows: pa.RecordBatch) -> pa.Array:
    """string[n]: `SOURCE/MESSAGE_ID` of each row."""
    return pc.binary_join_element_wise(rows["source"], rows["message_id"], "/")
