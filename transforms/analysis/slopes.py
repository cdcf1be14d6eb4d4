"""The slope of many time series over the last two hours, with an interval that allows for autocorrelation.

The minutes of a window are averaged in blocks of BLOCK minutes, and the line is fitted to the means of the
blocks, weighted by their points. What neighbouring minutes have in common stays within a block, so the
residuals of blocks are nearly independent: the method of batch means (Schmeiser, Batch size effects in the
analysis of simulation output, 1982, who advises 10 to 30 batches).
"""

from typing import NamedTuple

import numpy as np

from transforms.analysis.series import HOUR, MICRO, Floats, Ints, Moments, Points

BLOCK = 10
BLOCKS = 12
"""Blocks of a window; they end with the hour."""
LEAST_BLOCKS = 8
CONFIDENCE = 0.95


class Slopes(NamedTuple):
    """Lines, k of each: `slope`, `low` and `high`, float64[k], in units an hour; NaN where fewer than
    LEAST_BLOCKS blocks have points. `points`: int64[k], of the window."""

    slope: Floats
    low: Floats
    high: Floats
    points: Ints


def fit_slopes(moments: Moments, points: Points, places: Ints, profile: Ints) -> Slopes:
    """The weighted least-squares lines of the windows that end with the hour in which points begin.

    Args:
        moments: of the values, in millionths, less the profile of the hour of day.
        places: int64[k], the points.
        profile: int64[n], what was subtracted, up to a constant for each window.
    """
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy.stats takes a second to load

    bounds = _find_bounds(points, places)
    counts = np.diff(bounds, axis=1)
    sums = np.diff(moments.sums[bounds], axis=1) + counts * profile[places][:, None]
    means = sums / np.maximum(counts, 1) / MICRO
    hours = (np.arange(BLOCKS) + 0.5) * BLOCK / HOUR
    total = counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = hours - ((counts * hours).sum(axis=1) / total)[:, None]
        y = means - ((counts * means).sum(axis=1) / total)[:, None]
        spread = (counts * x * x).sum(axis=1)
        slope = (counts * x * y).sum(axis=1) / spread
        used = (counts > 0).sum(axis=1)
        freedom = np.maximum(used - 2, 1)
        residuals = (counts * (y - slope[:, None] * x) ** 2).sum(axis=1)
        width = stdtrit(freedom, (1 + CONFIDENCE) / 2) * np.sqrt(residuals / freedom / spread)
    slope[used < LEAST_BLOCKS] = np.nan
    return Slopes(slope, slope - width, slope + width, total)


def _find_bounds(points: Points, places: Ints) -> Ints:
    """int64[k, BLOCKS + 1]: the first points at or after the bounds of the blocks of each window."""
    first = int(points.minute.min(initial=0)) - HOUR - BLOCK * BLOCKS
    width = int(points.minute.max(initial=0)) - first + 1
    ends = points.minute[places] // HOUR * HOUR
    edges = ends[:, None] + (np.arange(BLOCKS + 1) - BLOCKS) * BLOCK
    keys = points.series * width + (points.minute - first)
    wanted = points.series[places][:, None] * width + (edges - first)
    return np.searchsorted(keys, wanted).astype(np.int64)
