"""Order statistics of any range of a sequence of small integers: a wavelet matrix over numpy arrays.

The matrix keeps the sequence once per bit, the highest bit first, each time stably parted into the numbers
whose bit is 0 and those whose bit is 1, as the count of zeros before every position. A range of the sequence
stays one range on every level. So a query costs two look-ups a bit however long its range is, and many
queries are answered at once.

Source: Claude, Navarro and Ordóñez, "The wavelet matrix" (Information Systems 47, 2015).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]

BLOCK = 1 << 15
"""Queries answered at a time: their intermediate arrays fit a core's cache."""


class NthValues(NamedTuple):
    """Results of `find_nth`, int32[m].

    The value, its place (from 0) among its equals in the range, and their number.
    """

    value: Ints
    place: Ints
    equals: Ints


class RankCounts(NamedTuple):
    """Results of `rank`, int32[m]: how many values of the range are smaller, and how many are equal."""

    smaller: Ints
    equals: Ints


class WaveletMatrix:
    """The sequence `values`, integers[n] from 0 to size - 1, ready for queries about its ranges [first, end).

    Takes 4 bytes for each value and bit of `size`; n must be below 2**31.
    """

    def __init__(self, values: NDArray[np.integer], size: int) -> None:
        self.bits = max(size - 1, 1).bit_length()
        self.zeros: list[Ints] = []
        rest = values.astype(np.uint32)
        for shift in reversed(range(self.bits)):
            high = ((rest >> shift) & 1).astype(np.bool_)
            zeros = np.zeros(len(rest) + 1, np.int32)
            np.cumsum(~high, dtype=np.int32, out=zeros[1:])
            self.zeros.append(zeros)
            # Stable: within zeros and within ones the order of the level above stays.
            rest = np.concatenate([rest[np.flatnonzero(~high)], rest[np.flatnonzero(high)]])

    def find_nth(self, first: Ints, end: Ints, nth: Ints) -> NthValues:
        """The `nth` smallest (from 0) value of each range; 0 <= nth < end - first. All are int32[m]."""
        answers = [self._find_nth(*block) for block in _cut_blocks(first, end, nth)]
        return NthValues(*(np.concatenate(column) for column in zip(*answers)))

    def rank(self, first: Ints, end: Ints, value: Ints) -> RankCounts:
        """How many values of each range are below `value` and how many equal it; 0 <= value < size.

        All are int32[m].
        """
        answers = [self._rank(*block) for block in _cut_blocks(first, end, value)]
        return RankCounts(*(np.concatenate(column) for column in zip(*answers)))

    def _find_nth(self, first: Ints, end: Ints, nth: Ints) -> NthValues:
        value = np.zeros_like(nth)
        for zeros in self.zeros:
            low_first, low_end = zeros[first], zeros[end]
            lower = low_end - low_first
            high = (nth >= lower).astype(np.int32)
            nth = nth - high * lower
            value = 2 * value + high
            # Where the bit is 0, the new place is the number of zeros before; where it is 1, that of all
            # zeros and of the ones before. Written as arithmetic, so that no query branches.
            first = low_first + high * (first - 2 * low_first + zeros[-1])
            end = low_end + high * (end - 2 * low_end + zeros[-1])
        return NthValues(value, nth, end - first)

    def _rank(self, first: Ints, end: Ints, value: Ints) -> RankCounts:
        smaller = np.zeros_like(value)
        for shift, zeros in zip(reversed(range(self.bits)), self.zeros):
            low_first, low_end = zeros[first], zeros[end]
            high = (value >> shift) & 1
            smaller += high * (low_end - low_first)
            first = low_first + high * (first - 2 * low_first + zeros[-1])
            end = low_end + high * (end - 2 * low_end + zeros[-1])
        return RankCounts(smaller, end - first)


def _cut_blocks(*columns: Ints) -> Iterator[tuple[Ints, ...]]:
    """The columns in blocks of rows; one empty block if there are none."""
    for start in range(0, max(len(columns[0]), 1), BLOCK):
        yield tuple(column[start : start + BLOCK] for column in columns)
