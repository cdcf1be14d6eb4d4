"""Deduplication: of the messages that carry one report, the earliest stands for it and the others are duplicates.

Messages are ordered by (received_at, source, message_id), nulls first and a shorter text before a longer one (`5-9` before `5-10`):
the order in which the tables settle ties, so it does not matter which message came to hand first. A message that was delivered
again, with the source and message_id of another row of the same report, leaves no trace.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.tables import DUPLICATE, FIRST_MESSAGE
from transforms.core.hashing import hash_ids
from transforms.core.record_batches import concat, make_empty

INPUTS = ("report_id", "source", "message_id", "received_at", "context")
"""The columns of a ReportBatch that decide what is a duplicate."""

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

_ID_LENGTH = 32


@dataclass(frozen=True)
class Deduplicated:
    """What became of the rows.

    `rows` (int64[k], ascending) are those that stand for their report, one for each report_id; `context` (bool[k]) tells which
    reports were context in every copy; `duplicates` has the schema `schemas.tables.DUPLICATE`.
    """

    rows: Rows
    context: Mask
    duplicates: pa.RecordBatch


def deduplicate(reports: pa.Table) -> Deduplicated:
    """Which rows of `reports` stand for their report. It has the columns INPUTS; only received_at may be null.

    A report counts as context if all its copies do. A duplicate whose deliveries were all context is not given again.
    """
    context = np.array(reports["context"])
    suspects = _suspects(reports["report_id"])
    copies = _taken(reports.select(INPUTS), suspects)
    report, message, order = _sorted(copies)
    rows, fresh = suspects[order], ~context[suspects[order]]

    stands = np.diff(report, prepend=-1) != 0
    _, first, which = np.unique(
        report * (message.max(initial=0) + 1) + message, return_index=True, return_inverse=True
    )
    delivered = np.zeros(len(first), np.bool_)
    delivered[which[fresh]] = True
    lost = first[delivered & ~stands[first]]

    keep = np.ones(len(context), np.bool_)
    keep[rows[~stands]] = False
    if len(rows):
        context[rows[stands]] = ~np.logical_or.reduceat(fresh, np.flatnonzero(stands))
    return Deduplicated(np.flatnonzero(keep), context[keep], _duplicates(copies.take(pa.array(order[lost]))))


def _taken(table: pa.Table, rows: Rows) -> pa.RecordBatch:
    """The rows (ascending) of a table as one batch."""
    batches = table.to_batches()
    edges = np.searchsorted(rows, np.cumsum([0, *(batch.num_rows for batch in batches)]))
    parts, start = [make_empty(table.schema)], 0
    for batch, first, end in zip(batches, edges, edges[1:]):
        if first < end:
            parts.append(batch.take(pa.array(rows[first:end] - start)))
        start += batch.num_rows
    return concat(parts)


def _suspects(report_ids: pa.ChunkedArray) -> Rows:
    """Rows that may share their report_id with another: those whose 64-bit hash is not the only one of its kind."""
    if not pc.all(pc.equal(pc.binary_length(report_ids), _ID_LENGTH)).as_py():
        return np.arange(len(report_ids))
    hashes = hash_ids(report_ids.cast(pa.binary(_ID_LENGTH)).combine_chunks())
    order = np.argsort(hashes)
    again = np.diff(hashes[order]) == 0
    return np.sort(order[np.concatenate([[False], again]) | np.concatenate([again, [False]])])


def _sorted(copies: pa.RecordBatch) -> tuple[Rows, Rows, Rows]:
    """The report and the message of each copy as numbers, by (report, received_at, source, message_id); and that order."""
    report, source, message = (_codes(copies[name]) for name in ("report_id", "source", "message_id"))
    message = source * (message.max(initial=0) + 1) + message
    columns: list[Any] = [report]
    for each in FIRST_MESSAGE:
        columns += [pc.binary_length(copies[each.column])] if each.is_text else []
        columns.append(copies[each.column])
    keyed = pa.table(columns, names=[str(place) for place in range(len(columns))])
    order = pc.sort_indices(keyed, [(name, "ascending", "at_start") for name in keyed.column_names])
    order = np.array(order, np.int64)
    return report[order], message[order], order


def _codes(strings: pa.Array) -> Rows:
    """int64[n]: a number for each string, from 0, equal where the strings are."""
    return np.array(strings.dictionary_encode().indices, np.int64)


def _duplicates(copies: pa.RecordBatch) -> pa.RecordBatch:
    columns = [copies[name] for name in DUPLICATE.names if name in INPUTS] + [
        pa.array(np.ones(copies.num_rows, np.int64))
    ]
    return pa.RecordBatch.from_arrays(columns, names=DUPLICATE.names)
