"""128-bit fingerprints of rows, and counts of them: how millions of identities are compared in little memory.

Only ever compared within one run of one command; what is stored is `transforms.validation.report_id.report_ids`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.validation.report_id import mix

Prints = NDArray[np.uint64]
_SEEDS = (np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344))
_ODD = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0xFFFFFFFFFFFFFFFF)
_TAILS = np.array([(1 << (8 * length)) - 1 for length in range(9)], dtype=np.uint64)
_SHIFT = np.uint64(60)


class Census(NamedTuple):
    """Distinct fingerprints, uint64[n, 2], and how often each is in every set that was counted, int64[n, sets]."""

    prints: Prints
    counts: NDArray[np.int64]


def fingerprints(columns: Sequence[pa.Array]) -> Prints:
    """uint64[n, 2]: the fingerprint of each row of string, binary or integer columns; null is a value of its own."""
    lanes = [np.full(len(columns[0]), seed) for seed in _SEEDS]
    for column in columns:
        text = column.cast(pa.string()) if pa.types.is_integer(column.type) else column
        _absorb(lanes, text.cast(pa.large_binary()))
    return np.stack(lanes, axis=1)


def census(sets: Sequence[Prints]) -> Iterator[Census]:
    """Count fingerprints over several sets, in sixteen parts, so that only a sixteenth is sorted at a time."""
    parts = [(prints[:, 0] >> _SHIFT).astype(np.uint8) for prints in sets]
    for part in range(16):
        chosen = [prints[where == part] for prints, where in zip(sets, parts)]
        prints = np.concatenate(chosen)
        of = np.repeat(np.arange(len(sets)), [len(each) for each in chosen])
        order = _grouping(prints)
        prints, of = prints[order], of[order]
        starts = np.ones(len(prints), dtype=bool)
        starts[1:] = (prints[1:] != prints[:-1]).any(axis=1)
        groups = np.cumsum(starts) - 1
        distinct = prints[starts]
        counts = [np.bincount(groups[of == each], minlength=len(distinct)) for each in range(len(sets))]
        yield Census(distinct, np.stack(counts, axis=1))


def _grouping(prints: Prints) -> NDArray[np.int64]:
    """int64[n]: an order in which equal fingerprints are neighbours; the second word is sorted only if a first one collides."""
    order = np.argsort(prints[:, 0])
    first, second = prints[order].T
    if ((first[1:] == first[:-1]) & (second[1:] != second[:-1])).any():
        return np.lexsort((prints[:, 1], prints[:, 0]))
    return order


def among(prints: Prints, wanted: Prints) -> NDArray[np.bool_]:
    """bool[n]: which fingerprints are among a few wanted ones."""
    return np.isin(prints[:, 0], wanted[:, 0]) & np.isin(prints[:, 1], wanted[:, 1])


def _absorb(lanes: list[Prints], column: pa.Array) -> None:
    """Mix the bytes of each value, eight at a time, and then its length into its row's two words."""
    _, offsets, values = column.buffers()
    ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    starts, lengths = ends[:-1], np.diff(ends)
    valid = np.asarray(column.is_valid())
    lengths = np.where(valid, lengths, 0)
    words = _unaligned_words(values)
    rows = np.arange(len(column))
    for place in range(0, int(lengths.max(initial=0)), 8):
        rows = rows[lengths[rows] > place]
        read = words[starts[rows] + place] & _TAILS[np.minimum(lengths[rows] - place, 8)]
        _mix_in(lanes, rows, read)
    _mix_in(lanes, np.arange(len(column)), np.where(valid, lengths.astype(np.uint64), _NULL))


def _mix_in(lanes: list[Prints], rows: NDArray[np.int64], words: Prints) -> None:
    first, second = lanes
    first[rows] = mix(first[rows] ^ words)
    second[rows] = mix(second[rows] * _ODD + words)


def _unaligned_words(values: pa.Buffer | None) -> Prints:
    """The little-endian word that starts at each byte of a buffer; past its end are zeros."""
    padded = np.zeros((values.size if values else 0) + 8, dtype=np.uint8)
    if values:
        padded[:-8] = np.frombuffer(values, np.uint8)
    return np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded, strides=(1,))
