"""Changes of level in many time series at once, as soon as their points show them.

At each point the mean of the last points is compared with that of the window before them, for several numbers
of last points: the maximum of a window-limited CUSUM, computed for all series at once. The threshold follows
from how many false alarms a day all series together may raise. A series that exceeds it is looked at alone:
KernelCPD of ruptures says where its level changed, and the medians on both sides must confirm it.

docs/trends.md has the formulas and their sources.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from transforms.analysis.series import (
    Bools,
    Floats,
    Ints,
    Moments,
    Points,
    WindowStatistics,
    describe_windows,
)

WINDOW = 120
"""Minutes of a window: what is older than that does not count for a point."""
RECENT = (5, 8, 12, 18, 27, 40)
"""Numbers of last points that are compared with those before them."""
LEAST_BEFORE = 20
"""Points that a window needs before the last ones."""
QUIET = 45
"""Minutes in which an alarm is of the same change as the one before."""
LOOKS = (5, 8, 14)
"""The alarms of a change, by number, at which it is looked at alone. A large change raises its first alarm
at its first point, which does not say where it began; what few points do not show may be confirmed later."""
PAST = WINDOW + 2 * QUIET
"""Minutes before a point on which it depends whether a change is reported there."""
LEAST_SHARE = 0.5
"""The medians must have moved by at least this share of the means: a few far values move only the means."""
MARGIN = 4
"""The formula of false alarms is for series without autocorrelation, whose spread is known. With an
autocorrelation of 0.6 between minutes they were up to four times as many (docs/trends.md)."""
CONFIDENCE = 0.95
_MOST_CORRELATION = 0.8
_DAY = 1440
_STEPS = np.linspace(2.5, 12.0, 951)


class Alarms(NamedTuple):
    """Where the threshold was exceeded, k points in their order. `places`: int64[k], of the points. `number`:
    int64[k], of alarms of the series within QUIET minutes up to this one. `z`, `threshold`: float64[k]."""

    places: Ints
    number: Ints
    z: Floats
    threshold: Floats


class Change(NamedTuple):
    """A confirmed change. `place`: the point at which it was seen. `at`: the first point at the new level.
    `before`, `after`: medians of the two levels, in millionths; `width`: half the 95 % interval of their
    difference. `z`, `threshold`: of the alarm."""

    place: int
    at: int
    before: float
    after: float
    width: float
    z: float
    threshold: float


def find_thresholds(points: Points, budget: float, metrics: int) -> Floats:
    """float64[n]: for each point, the z above which all series raise `budget` false alarms a day.

    The number of tests a day is that of the points of all series in the window that ends with the point's
    minute, over the minutes that have points.
    """
    minutes, counts = np.unique(points.minute, return_counts=True)
    first = np.searchsorted(minutes, minutes - WINDOW, side="right")
    total = np.concatenate([[0], np.cumsum(counts)])
    last = np.arange(len(minutes)) + 1
    tests = metrics * _DAY * (total[last] - total[first]) / (last - first)
    rates = rate_false_alarms(_STEPS)
    found = np.interp(-np.log(budget / MARGIN / np.maximum(tests, 1)), -np.log(rates), _STEPS)
    return found[np.searchsorted(minutes, points.minute)]


def rate_false_alarms(z: Floats) -> Floats:
    """The false alarms of a point, of a series without autocorrelation, at thresholds z.

    2 z phi(z) times the integral of y nu(y)^2 dy over z / sqrt(w) for w between the shortest and the longest
    of RECENT, with nu(y) = exp(-0.583 y): Siegmund and Venkatraman, Using the generalized likelihood ratio
    statistic for sequential detection of a change-point, 1995.
    """
    low, high = (z / np.sqrt(each) for each in (RECENT[-1], RECENT[0]))
    a = 2 * 0.583
    integral = np.exp(-a * low) * (low / a + 1 / a**2) - np.exp(-a * high) * (high / a + 1 / a**2)
    return 2 * z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * integral


def screen(values: Ints, moments: Moments, starts: Ints, profile: Ints, doubt: Ints, floor: float) -> Floats:
    """float64[n]: the largest |z| at each point; 0 where the window has too few points.

    Args:
        values: int64[n], millionths, less the profile of the hour of day; `moments`: theirs.
        starts: int64[n], the first point of each point's window.
        profile: int64[n], what was subtracted, up to a constant for each window.
        doubt: int64[n], the variance of the profile's rise, cumulative within each series.
        floor: the standard deviation that a series has at least, in millionths.
    """
    largest = np.zeros(len(values))
    places = np.arange(len(values))
    for count in RECENT:
        chosen = np.flatnonzero(places - count - starts + 1 >= LEAST_BEFORE)
        if not len(chosen):
            break
        ends = chosen - count + 1
        shift = profile[chosen]
        base = describe_windows(moments, values, starts[chosen], ends, shift)
        recent = (moments.sums[chosen + 1] - moments.sums[ends] + count * shift) / count
        z = _standardise(recent - base.mean, base, count, doubt[chosen] - doubt[starts[chosen]], floor)
        np.maximum(largest[chosen], np.abs(z), out=z)
        largest[chosen] = z
    return largest


def _standardise(difference: Floats, base: WindowStatistics, count: int, doubt: Ints, floor: float) -> Floats:
    """z of a difference of means: a t-statistic whose variance allows for autocorrelation and for what is not
    known of the profile, as a normal quantile (Wallace, Bounds on normal approximations to Student's and the
    chi-square distributions, 1959)."""
    correlation = np.clip(base.correlation, 0.0, _MOST_CORRELATION)
    inflation = (1 + correlation) / (1 - correlation)
    variance = np.maximum(base.variance, floor * floor) * inflation * (1 / count + 1 / base.size)
    t = difference / np.sqrt(variance + doubt / 3)
    freedom = np.maximum(base.size / inflation - 1, 3.0)
    size = np.sqrt(freedom * np.log1p(t * t / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
    return np.copysign(size, difference)


def find_alarms(largest: Floats, thresholds: Floats, points: Points) -> Alarms:
    """The points whose z exceeds the threshold."""
    places = np.flatnonzero(largest > thresholds)
    own = Points(points.series[places], points.minute[places])
    number = np.arange(len(places)) - own.find_starts(QUIET) + 1
    return Alarms(places, number, largest[places], thresholds[places])


def confirm(
    alarms: Alarms,
    values: Ints,
    points: Points,
    starts: Ints,
    profile: Ints,
    doubt: Ints,
    own: Bools,
    floor: float,
) -> Iterator[Change]:
    """The changes that are reported at the points of `own` (bool[n]): each once, where it is confirmed first.

    `values`: as of `screen`, but far values as they are. `starts`, `profile`, `doubt`, `floor`: as there.
    """
    look = _Look(alarms, values, starts, profile, doubt, floor, {})
    looked = np.flatnonzero(np.isin(alarms.number, LOOKS))
    series, minute = points.series[alarms.places[looked]], points.minute[alarms.places[looked]]
    for n, alarm in enumerate(looked.tolist()):
        place = int(alarms.places[alarm])
        if not own[place]:
            continue
        change = look.find(alarm)
        if change is None:
            continue
        before = n - 1
        while before >= 0 and series[before] == series[n] and minute[before] > minute[n] - QUIET:
            if look.find(int(looked[before])):
                break
            before -= 1
        else:
            yield change


class _Look(NamedTuple):
    """Looks at alarms alone; the arrays are those of `confirm`. `seen`: what was found before."""

    alarms: Alarms
    values: Ints
    starts: Ints
    profile: Ints
    doubt: Ints
    floor: float
    seen: dict[int, Change | None]

    def find(self, alarm: int) -> Change | None:
        """The change behind an alarm; None if it is not confirmed."""
        if alarm not in self.seen:
            self.seen[alarm] = self._look(alarm, int(self.alarms.places[alarm]))
        return self.seen[alarm]

    def _look(self, alarm: int, place: int) -> Change | None:
        start = int(self.starts[place])
        window = (self.values[start : place + 1] + self.profile[place]).astype(np.float64)
        found = locate(window, self.floor)
        if found is None:
            return None
        width = measure_width(window, found[0], int(self.doubt[place] - self.doubt[start]), self.floor)
        if abs(found[2] - found[1]) <= width:
            return None
        z, threshold = float(self.alarms.z[alarm]), float(self.alarms.threshold[alarm])
        return Change(place, start + found[0], *found[1:], width, z, threshold)


def locate(window: Floats, floor: float) -> tuple[int, float, float] | None:
    """Where the level of float64[n] changed, and the medians before and after; None if they deny it.

    The place is that of KernelCPD with a Gaussian kernel, which a few far values hardly move (Arlot, Celisse
    and Harchaoui, A kernel multiple change-point algorithm via model selection, 2019). `floor`: the least
    difference of the medians.
    """
    from ruptures import KernelCPD  # type: ignore[import-untyped]

    spread = np.median(np.abs(window - np.median(window))) or floor
    scaled = ((window - np.median(window)) / max(float(spread), floor)).reshape(-1, 1)
    place = KernelCPD(kernel="rbf", min_size=RECENT[0]).fit(scaled).predict(n_bkps=1)[0]
    before, after = window[:place], window[place:]
    medians = float(np.median(before)), float(np.median(after))
    moved, mean = medians[1] - medians[0], float(after.mean() - before.mean())
    if abs(moved) < floor or moved * mean <= 0 or abs(moved) < LEAST_SHARE * abs(mean):
        return None
    return place, *medians


def measure_width(window: Floats, place: int, doubt: int, floor: float) -> float:
    """Half the 95 % interval of the difference of the medians of float64[n] before and since `place`.

    That of normal values whose neighbours depend on each other as the residuals do: the variance of a median
    is pi / 2 times that of a mean (Kendall and Stuart, The Advanced Theory of Statistics, 1977). The place
    counts as known. `doubt`, `floor`: as of `screen`.
    """
    from scipy import stats  # type: ignore[import-untyped]

    parts = window[:place], window[place:]
    residuals = np.concatenate([each - np.median(each) for each in parts])
    size = len(residuals)
    squares = float(residuals @ residuals)
    raw = float(residuals[1:] @ residuals[:-1]) / squares if squares else 0.0
    correlation = min(max(raw + (1 + 3 * raw) / size, 0.0), _MOST_CORRELATION)
    inflation = (1 + correlation) / (1 - correlation)
    variance = max(squares / (size - 2), floor * floor) * inflation * sum(1 / len(each) for each in parts)
    freedom = max(size / inflation - 2, 3.0)
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(np.pi / 2 * variance + doubt / 3))


def count_false_alarms(z: Floats, threshold: Floats, budget: float) -> Floats:
    """float64[k]: how many false alarms a day of all series together are so large, if those above the
    threshold are `budget`."""
    return budget * rate_false_alarms(z) / rate_false_alarms(threshold)
