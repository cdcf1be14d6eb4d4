"""Rows of an output's quarantine: which are open, which messages have another fate, and how rows are closed.

A row that a replay closed is open again once the report or record that came of it is gone, for example
because its hour was replaced.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.failures import WrongUse
from pipelines.jobs.lock import lock_for_batch
from pipelines.outputs import Outputs, local_folder, open_outputs
from pipelines.settings import Settings
from pipelines.verify.record_keys import REPEATED, read_repeated_keys
from pipelines.verify.table_scan import scan
from schemas.kinds import KINDS, Kind
from schemas.tables import CLOSED, DUPLICATES, MESSAGE_KEY, QUARANTINED
from transforms.core.record_batches import build_batch, concat, make_empty
from transforms.sinks.row_merge import format_keys


@contextmanager
def open_quarantine(texts: Sequence[str], settings: Settings) -> Iterator[tuple[Outputs, Settings, Path]]:
    """Lock outputs for this job; yield them, the settings to write them with, and the folder of the first.

    Raises:
        WrongUse: the first output is no folder, another job is writing to one, or one was made with other
            settings.
    """
    outputs, settings = open_outputs(texts, settings, create=False)
    output = local_folder(outputs.main)
    if output is None:
        fix = "name the job's output folder first, then the others"
        raise WrongUse(f"{outputs.main.name} is no folder of this machine", fix)
    with lock_for_batch(*outputs.folders):
        yield outputs, settings, output


def read_open_rows(
    output: Path, reasons: Sequence[str] = (), kinds: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """The open rows (QUARANTINED) of some reasons and kinds, or of all, a file at a time.

    A row that is open again has no resolution and the next revision.
    """
    gone = _read_closed_without_fate(output)
    for stored in scan(output, QUARANTINED):
        rows = _reopen(stored, gone) if gone.num_rows else stored
        is_open = pc.is_null(rows["resolution"])
        for name, wanted in (("reason", reasons), ("kind", kinds)):
            if wanted:
                is_open = pc.and_(is_open, pc.is_in(rows[name], pa.array(wanted, pa.string())))
        yield rows.filter(is_open)


def have_fate(output: Path, messages: pa.RecordBatch) -> NDArray[np.bool_]:
    """bool[n]: the messages that are a report or record already, or a duplicate of one that is stored."""
    ids = messages["message_id"]
    repeated: dict[tuple[str, str], tuple[str, str]] = {}
    for stored in scan(output, DUPLICATES, [*MESSAGE_KEY, *REPEATED]):
        found = stored.filter(pc.is_in(stored["message_id"], ids))
        repeated |= zip(
            list_keys(found), zip(found["kind"].to_pylist(), read_repeated_keys(found).to_pylist())
        )
    known = set().union(*(_find_stored(output, kind, ids, repeated) for kind in KINDS.values()))
    return np.array([key in known for key in list_keys(messages)], dtype=bool)


def _find_stored(
    output: Path, kind: Kind, ids: pa.Array, repeated: Mapping[tuple[str, str], tuple[str, str]]
) -> set[tuple[str, str]]:
    """The messages (with these ids) that are stored as a kind, and those that repeat one that is.

    `repeated`: by message, the kind and the key that it repeats.
    """
    of_kind = {message: key for message, (name, key) in repeated.items() if name == kind.schema}
    originals, known, present = pa.array(of_kind.values(), pa.string()), set(), set()
    for stored in scan(output, kind.table, list(dict.fromkeys([*MESSAGE_KEY, *kind.table.key]))):
        keys = format_keys(kind, stored)
        is_repeated = pc.is_in(keys, originals)
        known.update(list_keys(stored.filter(pc.is_in(stored["message_id"], ids))))
        present.update(keys.filter(is_repeated).to_pylist())
    return known | {message for message, key in of_kind.items() if key in present}


def close_rows(outputs: Outputs, rows: pa.RecordBatch, resolution: str) -> None:
    """Write open rows (QUARANTINED) to every output as closed."""
    columns = {name: rows[name] for name in QUARANTINED.schema.names}
    columns["resolution"] = pa.array([resolution] * rows.num_rows, pa.string())
    columns["revision"] = pc.add(rows["revision"], 1)
    write_rows(outputs, build_batch(columns, QUARANTINED.schema, rows.num_rows))


def write_rows(outputs: Outputs, rows: pa.RecordBatch) -> None:
    """Write QUARANTINED rows to every output that keeps them, to the main one first."""
    for sink in sorted(outputs.sinks, key=lambda sink: sink is not outputs.main):
        if rows.num_rows and QUARANTINED.name in sink.tables:
            sink.write(QUARANTINED, [rows])


def list_keys(rows: pa.RecordBatch) -> list[tuple[str, str]]:
    """(source, message_id) of each row."""
    return list(zip(rows["source"].to_pylist(), rows["message_id"].to_pylist()))


def are_among(rows: pa.RecordBatch, others: pa.RecordBatch) -> pa.Array:
    """bool[n]: the rows whose message is one of the others'."""
    known = set(list_keys(others))
    return pa.array([key in known for key in list_keys(rows)], pa.bool_())


def _read_closed_without_fate(output: Path) -> pa.RecordBatch:
    """The messages of rows that a replay closed and that are no report, record or duplicate now."""
    names = [*MESSAGE_KEY, "resolution"]
    closed = [rows.filter(_are_closed(rows)) for rows in scan(output, QUARANTINED, names)]
    messages = concat([make_empty(pa.schema([QUARANTINED.schema.field(name) for name in names])), *closed])
    return messages.filter(pa.array(~have_fate(output, messages))) if messages.num_rows else messages


def _reopen(rows: pa.RecordBatch, gone: pa.RecordBatch) -> pa.RecordBatch:
    """The rows, of which the closed ones whose messages are `gone` are open again."""
    again = pc.and_(_are_closed(rows), are_among(rows, gone))
    columns = {name: rows[name] for name in rows.schema.names}
    columns["resolution"] = pc.if_else(again, pa.scalar(None, pa.string()), rows["resolution"])
    columns["revision"] = pc.add(rows["revision"], again.cast(pa.int64()))
    return pa.RecordBatch.from_pydict(columns, schema=rows.schema)


def _are_closed(rows: pa.RecordBatch) -> pa.Array:
    return pc.is_in(rows["resolution"], pa.array(CLOSED))
