"""Many time series as flat arrays, and their sums over windows that end at each point.

All sums are of int64 and wrap: a difference of two cumulative sums is exact whatever came before, as long as
the sum over the window fits. So what is computed from a window does not depend on where the arrays begin.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
HOUR = 60
"""Minutes."""
MICRO = 1_000_000
"""Values are whole millionths, at most 2**25 of them; a window has at most a few hundred."""


class Points(NamedTuple):
    """The points of all series, ascending by series and minute; int64[n] each.

    `series`: the number of the series. `minute`: of the point, since 1970; one point a series and minute.
    """

    series: Ints
    minute: Ints

    def find_starts(self, minutes: int) -> Ints:
        """int64[n]: the first point of the same series less than `minutes` before each point."""
        first = int(self.minute.min(initial=0))
        width = int(self.minute.max(initial=0)) - first + 1 + minutes
        keys = self.series * width + (self.minute - first) + minutes
        return np.searchsorted(keys, keys - minutes, side="right").astype(np.int64)

    def find_firsts(self, part: Ints) -> Bools:
        """bool[n]: the points whose series or `part` (int64[n]) is not that of the point before."""
        is_first = np.ones(len(part), np.bool_)
        is_first[1:] = (part[1:] != part[:-1]) | (self.series[1:] != self.series[:-1])
        return is_first


class Moments(NamedTuple):
    """Cumulative sums of one metric, int64[n + 1] each: of values, squares, and products of neighbours."""

    sums: Ints
    squares: Ints
    products: Ints

    @classmethod
    def of(cls, values: Ints) -> "Moments":
        """Those of int64[n]."""
        before = np.concatenate([values[:1], values[:-1]])
        return cls(*(_accumulate(each) for each in (values, values * values, values * before)))


class WindowStatistics(NamedTuple):
    """Mean, variance (unbiased) and autocorrelation of neighbours, of the points of some windows; float64[k].

    `size`: int64[k], their points.
    """

    size: Ints
    mean: Floats
    variance: Floats
    correlation: Floats


def describe_windows(
    moments: Moments, values: Ints, starts: Ints, ends: Ints, shift: Ints
) -> WindowStatistics:
    """The windows from the points `starts` up to but not including `ends`, int64[k]; at least 3 points each.

    `shift`: what is added to all values of a window, int64[k]. The autocorrelation is corrected for the bias
    of few points: r + (1 + 3 r) / n (Kendall, Note on bias in the estimation of autocorrelation, 1954).
    """
    count = ends - starts
    total = moments.sums[ends] - moments.sums[starts]
    squares = moments.squares[ends] - moments.squares[starts] + 2 * shift * total + count * shift * shift
    total = total + count * shift
    first, last = values[starts] + shift, values[ends - 1] + shift
    # Products of neighbours, the first of which has none within the window.
    products = moments.products[ends] - moments.products[starts + 1]
    products = products + shift * (2 * total - first - last) - (count - 1) * shift * shift
    mean = total / count
    spread = np.maximum(squares - mean * total, 0.0)
    lagged = products - mean * (2 * total - first - last) + (count - 1) * mean * mean
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = np.where(spread > 0, lagged / spread, 0.0)
    return WindowStatistics(count, mean, spread / (count - 1), raw + (1 + 3 * raw) / count)


def _accumulate(values: Ints) -> Ints:
    total = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=total[1:])
    return total
