"""Group and rank rows: by number, and by the values of columns.

Rows of one key are found by sorting once. They are then sliced, or reduced with one array operation for all
groups: no loop over groups, and no mask of all rows for each.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_LARGEST = np.iinfo(np.int64).max


class Groups(NamedTuple):
    """Rows in groups.

    `ids` (int64[n]) is the group of each row, `picks` (int64[g]) the first row of each group.
    """

    ids: Ints
    picks: Ints

    def total(self, values: NDArray) -> NDArray:
        """The sum over each group; `values` has a value for each row."""
        # ufunc.at needs no sorted copy of the values: three times as fast as reduceat.
        totals = np.zeros(len(self.picks), dtype=values.dtype)
        np.add.at(totals, self.ids, values)
        return totals

    def reduce(self, least: np.ufunc, values: NDArray) -> NDArray:
        """The `np.minimum` or `np.maximum` over each group; `values` has a value for each row."""
        found = values[self.picks]
        least.at(found, self.ids, values)
        return found


def group_rows(keys: Ints) -> Groups:
    """The rows of each distinct key (int64[n]), groups ascending by key."""
    order, starts = _sort_into_runs(keys)
    ids = np.empty(len(keys), dtype=np.int64)
    ids[order] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(keys)]))
    return Groups(ids, order[starts])


def iterate_groups(keys: Ints) -> Iterator[tuple[int, Ints | slice]]:
    """Each distinct key (int64[n]), ascending, with its rows in their order.

    A slice of all rows if there is one key.
    """
    if len(keys) and keys[0] == keys[-1] and (keys == keys[0]).all():
        yield int(keys[0]), slice(None)
        return
    order, starts = _sort_into_runs(keys)
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(keys)]):
        yield int(keys[order[start]]), order[start:end]


def split_rows(batch: pa.RecordBatch, keys: Ints) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Each distinct key (int64[n]), ascending, with its rows of the batch in their order."""
    order, starts = _sort_into_runs(keys)
    if len(starts) == 1:
        yield int(keys[0]), batch
        return
    # One copy in the order of keys, then slices of it: less than a copy for each key.
    ordered = batch.take(pa.array(order))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(keys)]):
        yield int(keys[order[start]]), ordered.slice(start, end - start)


def sort_rows(keys: Ints) -> Ints:
    """int64[n]: the rows ascending by key (int64[n]), stable."""
    if (keys[1:] >= keys[:-1]).all():
        return np.arange(len(keys))
    bits = len(keys).bit_length()
    widest = max(int(keys.max()), -int(keys.min())).bit_length()
    if widest + bits > np.iinfo(np.int64).bits - 1:
        return np.argsort(keys, kind="stable")
    # Sorting values is four times as fast as argsort: the row's number is in the low bits.
    return np.sort(keys << bits | np.arange(len(keys))) & ((1 << bits) - 1)


def number_repeats(keys: Ints) -> Ints:
    """int64[n]: 0 for the first row of each key (int64[n]), 1 for the second, and so on."""
    order, starts = _sort_into_runs(keys)
    numbers = np.empty(len(keys), dtype=np.int64)
    numbers[order] = np.arange(len(keys)) - np.repeat(starts, np.diff([*starts, len(keys)]))
    return numbers


def _sort_into_runs(keys: Ints) -> tuple[Ints, Ints]:
    """The rows ascending by key, and where in that order each distinct key starts."""
    order = sort_rows(keys)
    ordered = keys[order]
    first = np.ones(len(keys), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order, np.flatnonzero(first)


def number_groups(rows: pa.RecordBatch, names: tuple[str, ...]) -> Ints:
    """int64[n]: a number from 0 to at most n - 1 for each distinct combination of the named columns.

    Null is a value.
    """
    numbers, count = _encode(rows[names[0]])
    for name in names[1:]:
        column, size = _encode(rows[name])
        numbers, count = numbers * size + column, count * size
        if count > rows.num_rows:  # close the gaps, or the product of many columns overflows
            numbers, count = _encode(pa.array(numbers))
    return numbers


def sort_by_columns(rows: pa.RecordBatch, names: tuple[str, ...]) -> Ints:
    """int64[n]: the rows ascending by the named columns, nulls last, stable; texts by length first.

    A column is ranked only where the columns before it are equal: ids are rarely compared, and ranking them
    is most of the cost.
    """
    order = np.arange(rows.num_rows)
    # Rows that are equal so far have one number, ascending in `order`.
    runs = np.zeros(rows.num_rows, dtype=np.int64)
    for name in names:
        tied = np.flatnonzero(np.bincount(runs)[runs] > 1) if len(runs) else runs
        if not len(tied):
            break
        ranks = rank_values(rows[name].take(pa.array(order[tied])))
        sub = np.lexsort((ranks, runs[tied]))
        order[tied] = order[tied][sub]
        sorted_ranks = np.zeros_like(runs)
        sorted_ranks[tied] = ranks[sub]
        steps = (np.diff(runs) != 0) | (np.diff(sorted_ranks) != 0)
        runs = np.concatenate([[0], np.cumsum(steps)])
    return order


def rank_texts(texts: pa.Array) -> tuple[Ints, pa.Array]:
    """int64[n]: the place of each text among the distinct ones, ascending by code point, null last.

    And those.
    """
    encoded = texts.dictionary_encode(null_encoding="encode")
    order = pc.sort_indices(encoded.dictionary)
    places = np.empty(len(order), dtype=np.int64)
    places[order.to_numpy()] = np.arange(len(order))
    return places[encoded.indices.to_numpy()], encoded.dictionary.take(order)


def rank_values(values: pa.Array, null: int = _LARGEST) -> Ints:
    """int64[n]: numbers that compare as the values do, texts by length in bytes first; null is `null`."""
    if pa.types.is_primitive(values.type):
        return _as_numbers(values, null)
    encoded = values.dictionary_encode()
    texts = pa.table([pc.binary_length(encoded.dictionary), encoded.dictionary], names=["length", "text"])
    order = pc.sort_indices(texts, [("length", "ascending"), ("text", "ascending")]).to_numpy()
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return _as_numbers(pa.array(ranks).take(encoded.indices), null)


def encode_values(values: pa.Array) -> Ints:
    """int64[n]: numbers that are equal where the values are, null too; their order means nothing."""
    return _as_numbers(values, _LARGEST) if pa.types.is_primitive(values.type) else _encode(values)[0]


def _encode(values: pa.Array) -> tuple[Ints, int]:
    """int64[n]: a number from 0 for each distinct value, null included; and how many there are."""
    encoded = values.dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), len(encoded.dictionary)


def _as_numbers(values: pa.Array, null: int) -> Ints:
    """An integer or time column as int64[n]."""
    return pc.fill_null(values.cast(pa.int64()), null).to_numpy(zero_copy_only=False)


def compute_group_medians(codes: NDArray[np.integer], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of each group, float64[groups].

    `values` float64[n]; `codes` int[n] are the groups 0..groups-1, each of which occurs.
    """
    ordered = values[np.lexsort((values, codes))]
    counts = np.bincount(codes)
    starts = np.cumsum(counts) - counts
    low, high = ordered[starts + (counts - 1) // 2], ordered[starts + counts // 2]
    with np.errstate(over="ignore"):
        middle = (low + high) / 2
    return np.where(np.isfinite(middle), middle, low / 2 + high / 2)  # halves of tiny values are not exact
