"""Merging rows of a table: of two sets of rows one, with one row for each key. A file is such a set.

`schemas.tables.KEPT_ROW` is the rule which of several rows with one key is kept.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import DUPLICATE, KEPT_ROW, MESSAGE, REPORTS, Preference, Table
from transforms.core.grouping import (
    Ints,
    encode_values,
    group_rows,
    number_groups,
    rank_values,
    sort_by_columns,
)
from transforms.core.record_batches import build_batch, concat, conform, join_columns, make_empty

_SMALLEST = np.iinfo(np.int64).min + 1  # its negative is a number too


@dataclass(frozen=True)
class MergedRows:
    """Stored and new rows as one set.

    `rows` has the table's columns (wide ones where they are that large), in `Table.file_order`, each key once. `taken` counts
    the new rows among them: 0 means that nothing changed. `displaced` (DUPLICATE) are the messages that no row of the set
    names any more, because another message with the same report is kept.
    """

    rows: pa.RecordBatch
    displaced: pa.RecordBatch
    taken: int


def merge_rows(
    table: Table, stored: pa.RecordBatch, new: pa.RecordBatch, sorted_new: bool = False
) -> MergedRows:
    """Merge rows of `table`. Columns may come in any order; missing ones are null, unknown ones are ignored.

    `sorted_new` says that the new rows are in `Table.file_order`: they need not be sorted if none are stored. Of rows that the
    rule cannot tell apart a stored one is kept: they are the same row, up to the rounding of a sum.
    """
    both = conform(new, table.schema)
    if stored.num_rows:
        both = concat([conform(stored, table.schema), both])
    groups = number_groups(both, table.key)
    is_kept = find_kept(both, groups)
    kept = np.flatnonzero(is_kept)
    taken = int((kept >= stored.num_rows).sum())
    displaced = make_empty(DUPLICATE)
    if table.name == REPORTS.name and len(kept) < both.num_rows:
        displaced = _find_displaced(both, groups, np.flatnonzero(~is_kept), kept)
    if stored.num_rows or not sorted_new:
        order = sort_by_columns(both.select(table.file_order).take(pa.array(kept)), table.file_order)
        kept = kept[order]
    # A file that gets only new keys in order is the common case: no copy of it.
    is_whole = len(kept) == both.num_rows and bool((np.diff(kept) == 1).all())
    rows = both if is_whole else both.take(pa.array(kept))
    return MergedRows(join_columns(rows.columns, table.schema), displaced, taken)


def find_kept(rows: pa.RecordBatch, groups: Ints) -> NDArray[np.bool_]:
    """bool[n]: the one row of each group that KEPT_ROW keeps; the first of rows that it cannot tell apart.

    `groups` (int64[n], >= 0) numbers the rows with one key.
    """
    sizes = np.bincount(groups)
    kept = sizes[groups] == 1
    left, wanted = np.flatnonzero(~kept), np.count_nonzero(sizes > 1)
    for preference in KEPT_ROW:
        if len(left) > wanted and preference.column in rows.schema.names:
            values = rows[preference.column].take(pa.array(left))
            left = left[_find_best(values, groups[left], preference)]
    if len(left):
        kept[left[group_rows(groups[left]).picks]] = True
    return kept


def _find_best(values: pa.Array, groups: Ints, preference: Preference) -> NDArray[np.bool_]:
    """bool[n]: which values are the best of their group, all of them if they are equal."""
    best = np.ones(len(values), dtype=bool)
    numbers, of = encode_values(values), group_rows(groups)
    is_mixed = of.extreme(np.minimum, numbers) != of.extreme(np.maximum, numbers)
    mixed = np.flatnonzero(is_mixed[of.ids])  # ranking is dear, and most groups agree on most columns
    if len(mixed):
        ranks = rank_values(values.take(pa.array(mixed)), null=_SMALLEST)
        ranks = -ranks if preference.largest else ranks
        of = group_rows(groups[mixed])
        best[mixed] = ranks == of.extreme(np.minimum, ranks)[of.ids]
    return best


def _find_displaced(rows: pa.RecordBatch, groups: Ints, losers: Ints, kept: Ints) -> pa.RecordBatch:
    """The messages of `losers` that are not the message of the row kept of their group, each once, as rows of DUPLICATE."""
    keeper = np.empty(int(groups.max()) + 1, dtype=np.int64)
    keeper[groups[kept]] = kept
    named = rows.select([*(name for name, _ in MESSAGE), "report_id"])
    winners = keeper[groups[losers]]
    both = np.union1d(losers, winners)
    messages = number_groups(named.take(pa.array(both)), ("source", "message_id", "report_id"))
    lost, won = (messages[np.searchsorted(both, rows)] for rows in (losers, winners))
    other = np.flatnonzero(lost != won)
    _, first = np.unique(lost[other], return_index=True)
    once = named.take(pa.array(losers[np.sort(other[first])]))
    columns = {name: once[name] for name in once.schema.names}
    columns["revision"] = pa.array(np.ones(once.num_rows, np.int64))
    return build_batch(columns, DUPLICATE, once.num_rows)
