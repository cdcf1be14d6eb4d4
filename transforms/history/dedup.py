"""Deduplication: of the messages with one report, one is kept and the others are duplicates.

`schemas.tables.KEPT_ROW` says which message is kept, so it does not matter which message came first. A
message that was delivered again, with the source and message_id of another row of the same report, leaves no
trace.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.kinds import REPORT_KIND
from schemas.tables import DUPLICATE
from transforms.core.grouping import group_rows, number_groups
from transforms.core.hashing import hash_ids
from transforms.core.kept_rows import find_kept
from transforms.core.record_batches import build_batch, concat, make_empty

INPUTS = ("report_id", "source", "message_id", "received_at", "context")
"""The columns of a ReportBatch that decide what is a duplicate."""

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

_ID_LENGTH = 32


@dataclass(frozen=True)
class Deduplicated:
    """The result of deduplication.

    `rows` (int64[k], ascending) are the rows that are kept, one for each report_id; `context` (bool[k]) says
    which reports were context in every copy; `duplicates` has the schema `schemas.tables.DUPLICATE`.
    """

    rows: Rows
    context: Mask
    duplicates: pa.RecordBatch


def deduplicate(reports: pa.Table) -> Deduplicated:
    """Which rows of `reports` are kept, and the duplicates.

    `reports` has the columns INPUTS; only received_at may be null. A report counts as context if all its
    copies do. A duplicate whose deliveries were all context is not given again.
    """
    context = np.array(reports["context"])
    suspects = _find_suspects(reports["report_id"])
    copies = _take(reports.select(INPUTS), suspects)
    fresh = ~context[suspects]
    report = number_groups(copies, ("report_id",))
    delivery = number_groups(copies, ("report_id", "source", "message_id"))

    kept = find_kept(copies, report)
    of_kept, delivered, has_fresh = np.zeros((3, len(copies)), np.bool_)
    of_kept[delivery[kept]] = True
    delivered[delivery[fresh]] = True
    has_fresh[report[fresh]] = True
    lost = find_kept(copies, delivery) & delivered[delivery] & ~of_kept[delivery]

    context[suspects[kept]] = ~has_fresh[report[kept]]
    stays = np.ones(len(context), np.bool_)
    stays[suspects[~kept]] = False
    duplicates = make_duplicates(copies.filter(pa.array(lost)))
    return Deduplicated(np.flatnonzero(stays), context[stays], duplicates)


def drop_repeats(rows: pa.Table) -> pa.Table:
    """One row of each report_id; it does not matter which one."""
    suspects = _find_suspects(rows["report_id"])
    if not len(suspects):
        return rows
    stays = np.ones(rows.num_rows, np.bool_)
    stays[suspects] = False
    report = number_groups(_take(rows.select(["report_id"]), suspects), ("report_id",))
    stays[suspects[group_rows(report).picks]] = True
    return rows.filter(pa.array(stays))


def make_duplicates(copies: pa.RecordBatch) -> pa.RecordBatch:
    """The DUPLICATE rows of copies (columns INPUTS) that are not kept for their report."""
    columns = {name: copies[name] for name in DUPLICATE.names if name in INPUTS}
    columns["kind"] = pa.repeat(REPORT_KIND.schema, copies.num_rows)
    columns["revision"] = pa.array(np.ones(copies.num_rows, np.int64))
    return build_batch(columns, DUPLICATE, copies.num_rows)


def _find_suspects(report_ids: pa.ChunkedArray) -> Rows:
    """int64[k], ascending: rows that may share their report_id with another.

    Their report_ids have a 64-bit hash that occurs twice.

    Few rows have a copy. Sorting a number a row finds them, so that texts are compared only for these.
    """
    if not pc.all(pc.equal(pc.binary_length(report_ids), _ID_LENGTH)).as_py():
        return np.arange(len(report_ids))
    hashes = hash_ids(report_ids.cast(pa.binary(_ID_LENGTH)).combine_chunks())
    order = np.argsort(hashes)
    again = np.diff(hashes[order]) == 0
    return np.sort(order[np.concatenate([[False], again]) | np.concatenate([again, [False]])])


def _take(table: pa.Table, rows: Rows) -> pa.RecordBatch:
    """The rows (int64[k], ascending) of a table as one batch, without a copy of the whole table."""
    batches = table.to_batches()
    edges = np.searchsorted(rows, np.cumsum([0, *(batch.num_rows for batch in batches)]))
    parts, start = [make_empty(table.schema)], 0
    for batch, first, end in zip(batches, edges, edges[1:]):
        if first < end:
            parts.append(batch.take(pa.array(rows[first:end] - start)))
        start += batch.num_rows
    return concat(parts)
