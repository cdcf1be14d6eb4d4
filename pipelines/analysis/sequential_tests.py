"""Tests that may be looked at after every new value: the chance that one ever rejects a true hypothesis, at
any look, is at most its level.

`compute_mean_p_values` is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas (Time-uniform central limit theory and asymptotic confidence sequences, 2024), written as p-values.
`compute_ratio_p_values` is the test of Lindon and Malek (Anytime-valid inference for multinomial count data,
2022).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import lambertw  # type: ignore[import-untyped]

Floats = NDArray[np.float64]

TUNED_FOR = 100
"""At about so many values the interval of a mean is as narrow as it can be."""
CONCENTRATION = 100.0
"""Weight of the expected shares in the prior of `compute_ratio_p_values`, in observations."""


def compute_mean_p_values(values: Floats, first: int, alpha: float) -> Floats:
    """float64[n]: after each value, the p-value of "the mean is 0" over all looks so far; never rising.

    There is no look at fewer than `first` values: p is 1 there, and where all values are equal. `alpha`: the
    level that will be used; it decides only how the test is tuned.
    """
    count, mean, variance = _accumulate(values)
    ratio = _tune(alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = 1 + count * ratio
        logs = ratio * (count * mean) ** 2 / (2 * variance * spread) - np.log(spread) / 2
    logs[(count < first) | ~(variance > 0)] = -np.inf
    return np.minimum(1.0, np.exp(-np.maximum.accumulate(logs)))


def compute_mean_interval(values: Floats, alpha: float) -> tuple[float, float]:
    """The interval of the mean after the last value. All intervals, after every value, hold the mean together
    with a probability of about 1 - alpha."""
    count, mean, variance = (each[-1] for each in _accumulate(values))
    ratio = _tune(alpha)
    spread = 1 + count * ratio
    width = np.sqrt(variance * 2 * spread * np.log(np.sqrt(spread) / alpha) / (ratio * count**2))
    return float(mean - width), float(mean + width)


def compute_ratio_p_values(choices: NDArray[np.int64], shares: Sequence[float]) -> Floats:
    """float64[n]: after each choice (a number of `shares`), the p-value of "they are drawn with these shares"
    over all looks so far; never rising.

    The likelihood under the Dirichlet prior is a product over the choices (Polya's urn), so that no array has
    a value for each choice and share.
    """
    expected = (np.asarray(shares, np.float64) / np.sum(shares))[choices]
    before = CONCENTRATION * expected + _count_equal_before(choices)
    logs = np.cumsum(np.log(before / (CONCENTRATION + np.arange(len(choices))) / expected))
    return np.exp(-np.maximum.accumulate(np.maximum(logs, 0.0)))


def _count_equal_before(choices: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[n]: how many of the choices before each are the same."""
    order = np.argsort(choices, kind="stable")
    places = np.arange(len(choices))
    firsts = np.diff(choices[order], prepend=-1) != 0
    counts = np.empty_like(places)
    counts[order] = places - np.maximum.accumulate(np.where(firsts, places, 0))
    return counts


def _accumulate(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Of the values so far: their number, mean and variance."""
    count = np.arange(1, len(values) + 1, dtype=np.float64)
    offset = values[0] if len(values) else 0.0  # sums of squares lose no digits to a large common part
    mean = np.cumsum(values - offset) / count
    variance = np.maximum(np.cumsum((values - offset) ** 2) / count - mean**2, 0.0)
    return count, mean + offset, variance


def _tune(alpha: float) -> float:
    """rho squared of the normal mixture, for which the interval is narrowest after TUNED_FOR values."""
    return float(-lambertw(-(alpha**2) / np.e, -1).real - 1) / TUNED_FOR
