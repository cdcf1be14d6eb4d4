"""A file as a set of rows: the union of two sets, in which one row of each key stands.

Of rows with one key the largest `revision` stands; of those the smallest (received_at, source, message_id), nulls first and a
shorter text before a longer one (`5-9` before `5-10`); of those the first, stored rows before new ones (they are the same row, up
to the rounding of a sum).
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.tables import DUPLICATE, MESSAGE, REPORTS, Table
from transforms.core.record_batches import build_batch, concat, conform, join_columns, make_empty

Ints = NDArray[np.int64]
PREFERENCE = ("revision", "received_at", "source", "message_id")
"""What decides between two rows of one key, one column after the other: the largest revision, then the smallest of each."""

_LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class MergedRows:
    """The union of stored and new rows.

    `rows` has the table's columns (wide ones where they are that large), sorted by its order, each key once. `taken` counts the new
    rows among them: 0 means that nothing changed. `displaced` (schema DUPLICATE) are the messages whose report another message
    already is.
    """

    rows: pa.RecordBatch
    displaced: pa.RecordBatch
    taken: int


def merge_rows(
    table: Table, stored: pa.RecordBatch, new: pa.RecordBatch, sorted_new: bool = False
) -> MergedRows:
    """Both sets of rows of `table` as one; columns may come in any order, missing ones are null, further ones are ignored.

    With `sorted_new` the new rows are in the order of `sorted_by`, and need not be sorted where none are stored.
    """
    both = conform(new, table.schema)
    if stored.num_rows:
        both = concat([conform(stored, table.schema), both])
    groups = key_groups(both, table.key)
    stands = _standing(both, groups)
    standing = np.flatnonzero(stands)
    displaced = make_empty(DUPLICATE)
    if table.name == REPORTS.name and len(standing) < both.num_rows:
        displaced = _displaced(both, groups, np.flatnonzero(~stands), standing)
    wanted = standing
    if stored.num_rows or not sorted_new:
        names = sorted_by(table)
        wanted = standing[sort_order(both.select(names).take(pa.array(standing)), names)]
    sorted_already = len(wanted) == both.num_rows and bool((np.diff(wanted) == 1).all())
    rows = both if sorted_already else both.take(pa.array(wanted))
    return MergedRows(
        join_columns(rows.columns, table.schema), displaced, int((standing >= stored.num_rows).sum())
    )


def sorted_by(table: Table) -> tuple[str, ...]:
    """The columns by which the rows of a file are sorted."""
    return (*table.order, *(name for name in table.key if name not in table.order))


def key_groups(rows: pa.RecordBatch, names: tuple[str, ...]) -> Ints:
    """int64[n]: a number, from 0 to at most n - 1, for each distinct combination of the named columns (null is a value)."""
    codes, count = _codes(rows[names[0]])
    for name in names[1:]:
        column, size = _codes(rows[name])
        codes, count = codes * size + column, count * size
        if count > rows.num_rows:
            codes, count = _codes(pa.array(codes))
    return codes


def sort_order(rows: pa.RecordBatch, names: tuple[str, ...]) -> Ints:
    """int64[n]: the rows in ascending order of the named columns, nulls last, stable; a column is looked at only to break ties."""
    order = np.arange(rows.num_rows)
    runs = np.zeros(rows.num_rows, dtype=np.int64)
    for name in names:
        tied = np.flatnonzero(np.bincount(runs)[runs] > 1) if len(runs) else runs
        if not len(tied):
            break
        ranks = _ranks(rows[name].take(pa.array(order[tied])))
        sub = np.lexsort((ranks, runs[tied]))
        order[tied] = order[tied][sub]
        sorted_ranks = np.zeros_like(runs)
        sorted_ranks[tied] = ranks[sub]
        steps = (np.diff(runs) != 0) | (np.diff(sorted_ranks) != 0)
        runs = np.concatenate([[0], np.cumsum(steps)])
    return order


def _standing(rows: pa.RecordBatch, groups: Ints) -> NDArray[np.bool_]:
    """bool[n]: the one row of each group that stands."""
    sizes = np.bincount(groups)
    stands = sizes[groups] == 1
    left, wanted = np.flatnonzero(~stands), np.count_nonzero(sizes > 1)
    for name in PREFERENCE:
        if len(left) > wanted and name in rows.schema.names:
            left = left[_best(rows[name].take(pa.array(left)), groups[left], largest=name == "revision")]
    first = np.full(len(sizes), -1)
    first[groups[left[::-1]]] = left[::-1]
    stands[first[first >= 0]] = True
    return stands


def _best(values: pa.Array, groups: Ints, largest: bool) -> NDArray[np.bool_]:
    """bool[n]: which values are the best of their group."""
    best = np.ones(len(values), dtype=bool)
    codes = _numbers(values) if pa.types.is_primitive(values.type) else _codes(values)[0]
    differ = np.flatnonzero(_extreme(np.minimum, codes, groups) != _extreme(np.maximum, codes, groups))
    if len(differ):
        ranks = _ranks(values.take(pa.array(differ)), nulls=-_LARGEST)
        ranks = -ranks if largest else ranks
        best[differ] = ranks == _extreme(np.minimum, ranks, groups[differ])
    return best


def _extreme(ufunc: np.ufunc, values: Ints, groups: Ints) -> Ints:
    """int64[n]: the smallest, or largest, value of each row's group."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    spread = np.empty_like(values)
    spread[order] = np.repeat(ufunc.reduceat(values[order], starts), np.diff([*starts, len(values)]))
    return spread


def _displaced(rows: pa.RecordBatch, groups: Ints, losers: Ints, standing: Ints) -> pa.RecordBatch:
    """The messages of `losers` that are not the message of their group's standing row, each once, as rows of DUPLICATE."""
    place = np.empty(int(groups.max()) + 1, dtype=np.int64)
    place[groups[standing]] = standing
    identified = rows.select([*(name for name, _ in MESSAGE), "report_id"])
    winners = place[groups[losers]]
    both = np.union1d(losers, winners)
    messages = key_groups(identified.take(pa.array(both)), ("source", "message_id", "report_id"))
    lost, won = (messages[np.searchsorted(both, rows)] for rows in (losers, winners))
    other = np.flatnonzero(lost != won)
    _, first = np.unique(lost[other], return_index=True)
    once = identified.take(pa.array(losers[np.sort(other[first])]))
    columns = {name: once[name] for name in once.schema.names} | {
        "revision": pa.array(np.ones(once.num_rows, np.int64))
    }
    return build_batch(columns, DUPLICATE, once.num_rows)


def _codes(values: pa.Array) -> tuple[Ints, int]:
    """int64[n]: a number from 0 for each distinct value, null included; and how many there are."""
    encoded = values.dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), len(encoded.dictionary)


def _ranks(values: pa.Array, nulls: int = _LARGEST) -> Ints:
    """int64[n]: numbers that order as the values do, texts by length first, with null as `nulls`."""
    if pa.types.is_primitive(values.type):
        return _numbers(values, nulls)
    encoded = values.dictionary_encode()
    ranks = np.empty(len(encoded.dictionary), dtype=np.int64)
    texts = pa.table([pc.binary_length(encoded.dictionary), encoded.dictionary], names=["length", "text"])
    ranks[pc.sort_indices(texts, [("length", "ascending"), ("text", "ascending")]).to_numpy()] = np.arange(
        len(ranks)
    )
    return _numbers(pa.array(ranks).take(encoded.indices), nulls)


def _numbers(values: pa.Array, nulls: int = _LARGEST) -> Ints:
    """An integer or time column as int64[n], with null as `nulls`."""
    return pc.fill_null(values.cast(pa.int64()), nulls).to_numpy(zero_copy_only=False)
