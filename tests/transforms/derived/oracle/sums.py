"""Sums of whole numbers, lines and ranks, in exact arithmetic."""

import math
from collections.abc import Sequence
from fractions import Fraction

SCALE = 2**20


def quantize(x: float) -> int:
    """q(x)."""
    return math.floor(x * SCALE + 0.5)


def fit_line(x: Sequence[int], y: Sequence[int]) -> tuple[float | None, float | None]:
    """Least squares slope of y over x and its standard error; null for fewer than 3 points or one x."""
    n = len(x)
    d = n * sum(each * each for each in x) - sum(x) ** 2
    if n < 3 or d == 0:
        return None, None
    b = n * sum(map(int.__mul__, x, y)) - sum(x) * sum(y)
    a = n * sum(each * each for each in y) - sum(y) ** 2
    return float(Fraction(b, d)), math.sqrt(max(Fraction(0), a - Fraction(b * b, d)) / ((n - 2) * d))


def rank(values: Sequence[float]) -> list[Fraction]:
    """The rank of each value, from 1; equal values have the mean of their ranks."""
    ordered = sorted(values)
    return [
        Fraction(ordered.index(value) + 1 + len(ordered) - ordered[::-1].index(value), 2) for value in values
    ]


def correlate(x: Sequence[Fraction], y: Sequence[Fraction]) -> float | None:
    """Pearson's correlation; null if one is constant."""
    n = len(x)
    xx = n * sum(each * each for each in x) - sum(x) ** 2
    yy = n * sum(each * each for each in y) - sum(y) ** 2
    xy = n * sum(first * second for first, second in zip(x, y)) - sum(x) * sum(y)
    if xx == 0 or yy == 0:
        return None
    return math.copysign(math.sqrt(Fraction(xy * xy) / (xx * yy)), xy)
