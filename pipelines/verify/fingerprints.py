"""Counts of 128-bit fingerprints of rows, which compare millions of identities in little memory.

`transforms.core.hashing.fingerprint_rows` makes the fingerprints. They are compared within one run and never
stored.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core.hashing import fingerprint_rows

Prints = NDArray[np.uint64]
_SHIFT = np.uint64(60)


class Census(NamedTuple):
    """Distinct fingerprints, uint64[n, 2], and how often each occurs in each set, int64[n, sets]."""

    prints: Prints
    counts: NDArray[np.int64]


def count_fingerprints(sets: Sequence[Prints]) -> Iterator[Census]:
    """Count fingerprints over several sets, in sixteen parts: only a sixteenth is sorted at a time."""
    parts = [(prints[:, 0] >> _SHIFT).astype(np.uint8) for prints in sets]
    for part in range(16):
        chosen = [prints[where == part] for prints, where in zip(sets, parts)]
        prints = np.concatenate(chosen)
        of = np.repeat(np.arange(len(sets)), [len(each) for each in chosen])
        order = _order_equal(prints)
        prints, of = prints[order], of[order]
        starts = np.ones(len(prints), dtype=bool)
        starts[1:] = (prints[1:] != prints[:-1]).any(axis=1)
        groups = np.cumsum(starts) - 1
        distinct = prints[starts]
        counts = [np.bincount(groups[of == each], minlength=len(distinct)) for each in range(len(sets))]
        yield Census(distinct, np.stack(counts, axis=1))


def _order_equal(prints: Prints) -> NDArray[np.int64]:
    """An order in which equal fingerprints are neighbours, int64[n].

    The second word is only sorted if two different fingerprints share the first, which is rare.
    """
    order = np.argsort(prints[:, 0])
    first, second = prints[order].T
    if ((first[1:] == first[:-1]) & (second[1:] != second[:-1])).any():
        return np.lexsort((prints[:, 1], prints[:, 0]))
    return order


def find_among(prints: Prints, wanted: Prints) -> NDArray[np.bool_]:
    """Which fingerprints may be among a few wanted ones, bool[n]. Each word is compared on its own."""
    return np.isin(prints[:, 0], wanted[:, 0]) & np.isin(prints[:, 1], wanted[:, 1])


def fingerprint_values(rows: pa.RecordBatch, empty_is_null: bool) -> Prints:
    """uint64[n, 2]: rows with equal values have equal fingerprints; the order of a map does not count."""
    return fingerprint_rows([_as_texts(column, empty_is_null) for column in rows.columns])


def _as_texts(column: pa.Array, empty_is_null: bool) -> pa.Array:
    """The column as one that can be fingerprinted."""
    if pa.types.is_nested(column.type):
        is_map = pa.types.is_map(column.type)
        values = [sorted(value) if is_map and value else value for value in column.to_pylist()]
        values = [drop_empty_lists(value) for value in values] if empty_is_null else values
        return pa.array([None if value is None else repr(value) for value in values], pa.string())
    if pa.types.is_temporal(column.type):
        return column.cast(pa.int64())
    return column.cast(pa.string()) if pa.types.is_floating(column.type) else column


def drop_empty_lists(value: Any) -> Any:
    """A nested value with null in place of every empty list."""
    if isinstance(value, dict):
        return {name: drop_empty_lists(each) for name, each in value.items()}
    return value or None if isinstance(value, list) else value
