"""Merging rows of a table: of two sets of rows one, with one row for each key. A file is such a set.

`schemas.tables.KEPT_ROW` is the rule which of several rows with one key is kept.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.kinds import KIND_OF_TABLE, Kind
from schemas.tables import DUPLICATE, MESSAGE, Table
from transforms.core.grouping import Ints, number_groups, sort_by_columns
from transforms.core.kept_rows import find_kept
from transforms.core.record_batches import build_batch, concat, conform, join_columns, make_empty


@dataclass(frozen=True)
class MergedRows:
    """Stored and new rows as one set.

    `rows` has the table's columns (wide ones where they are that large), in `Table.file_order`, each key
    once. `taken` counts the new rows among them: 0 means that nothing changed. `displaced` (DUPLICATE) are
    the messages that no row of the set names any more, because another message with the same report or record
    is kept.
    """

    rows: pa.RecordBatch
    displaced: pa.RecordBatch
    taken: int


def merge_rows(
    table: Table, stored: pa.RecordBatch, new: pa.RecordBatch, sorted_new: bool = False
) -> MergedRows:
    """Merge rows of `table`. Columns may come in any order; missing ones are null, unknown ones are ignored.

    `sorted_new` says that the new rows are in `Table.file_order`: they need not be sorted if none are stored.
    Of rows that the rule cannot tell apart a stored one is kept: they are the same row, up to the rounding of
    a sum.
    """
    both = conform(new, table.schema)
    if stored.num_rows:
        both = concat([conform(stored, table.schema), both])
    groups = number_groups(both, table.key)
    is_kept = find_kept(both, groups)
    kept = np.flatnonzero(is_kept)
    taken = int((kept >= stored.num_rows).sum())
    displaced = make_empty(DUPLICATE)
    if has_contents(table) and len(kept) < both.num_rows:
        displaced = _find_displaced(table, both, groups, np.flatnonzero(~is_kept), kept)
    if stored.num_rows or not sorted_new:
        order = sort_by_columns(both.select(table.file_order).take(pa.array(kept)), table.file_order)
        kept = kept[order]
    # A file that gets only new keys in order is the common case: no copy of it.
    is_whole = len(kept) == both.num_rows and bool((np.diff(kept) == 1).all())
    rows = both if is_whole else both.take(pa.array(kept))
    return MergedRows(join_columns(rows.columns, table.schema), displaced, taken)


def has_contents(table: Table) -> bool:
    """Whether a row is a message, and its key what the message says: two messages can have one key."""
    kind = KIND_OF_TABLE.get(table.name)
    return kind is not None and kind.record_id is not None


def format_keys(kind: Kind, rows: pa.RecordBatch) -> pa.Array:
    """string[n]: the key of each row of a kind's table, as rows of DUPLICATE name it: its columns, joined by
    spaces."""
    columns = [rows[name] for name in kind.table.key]
    return columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, " ")


def _find_displaced(
    table: Table, rows: pa.RecordBatch, groups: Ints, losers: Ints, kept: Ints
) -> pa.RecordBatch:
    """The messages of `losers` that are not the message of the row kept of their group, each once, as rows of
    DUPLICATE."""
    keeper = np.empty(int(groups.max()) + 1, dtype=np.int64)
    keeper[groups[kept]] = kept
    fate = tuple(dict.fromkeys(["source", "message_id", *table.key]))  # the key may have them already
    named = rows.select(list(dict.fromkeys([*(name for name, _ in MESSAGE), *table.key])))
    winners = keeper[groups[losers]]
    both = np.union1d(losers, winners)
    messages = number_groups(named.take(pa.array(both)), fate)
    lost, won = (messages[np.searchsorted(both, rows)] for rows in (losers, winners))
    other = np.flatnonzero(lost != won)
    _, first = np.unique(lost[other], return_index=True)
    return _make_duplicates(KIND_OF_TABLE[table.name], named.take(pa.array(losers[np.sort(other[first])])))


def _make_duplicates(kind: Kind, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of a table, with MESSAGE and its key, as rows of DUPLICATE."""
    columns = {name: rows[name] for name in DUPLICATE.names if name in rows.schema.names}
    if not kind.is_report:
        columns["record_id"] = format_keys(kind, rows)
    columns["kind"] = pa.repeat(kind.schema, rows.num_rows)
    columns["revision"] = pa.array(np.ones(rows.num_rows, np.int64))
    return build_batch(columns, DUPLICATE, rows.num_rows)
