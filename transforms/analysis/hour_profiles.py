"""What the hour of day adds to time series, taken from the same hours of the seven days before.

From the middle of one hour to that of the next, a series rises by the median of its rises between these hours
on the seven days before; in between the profile is a straight line. A level that changed within the week is
in one of the seven rises alone, so it leaves the median as it is.
"""

from typing import NamedTuple

import numpy as np

from transforms.analysis.series import HOUR, Bools, Ints, Points


class Rises(NamedTuple):
    """The rises of k series and hours of one metric, int64[k] each.

    `series`: the number of the series. `hour`: since 1970; the rise is from the middle of the hour before to
    that of this hour. `size`: in millionths. `variance`: of the size, in squares of millionths.
    """

    series: Ints
    hour: Ints
    size: Ints
    variance: Ints


class Profile(NamedTuple):
    """The profile at each point, int64[n] each, but for a constant of each `run`.

    `level`: in millionths; 0 where it is unknown. `variance`: of the rise since some earlier point. `run`: a
    number that differs from that of the point before where the profile is unknown in between.
    """

    level: Ints
    variance: Ints
    run: Ints

    @property
    def is_known(self) -> Bools:
        """bool[n]: whether there is a profile."""
        return self.run > 0


def build_profile(rises: Rises, points: Points) -> Profile:
    """The profile at each point."""
    zero = np.zeros(len(points.minute), np.int64)
    if not len(rises.series) or not len(points.minute):
        return Profile(zero, zero, zero)
    # The rise to the middle of hour q counts from the middle of the hour before it.
    passed = points.minute - HOUR // 2
    hours, within = passed // HOUR + 1, passed % HOUR
    first = min(int(hours.min()), int(rises.hour.min()))
    shape = (int(points.series.max()) + 1, max(int(hours.max()), int(rises.hour.max())) - first + 1)
    size, variance, known = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    chosen = rises.series < shape[0]
    at = rises.series[chosen], rises.hour[chosen] - first
    size[at], variance[at], known[at] = rises.size[chosen], rises.variance[chosen], True
    place = points.series, hours - first
    holds = known[place]
    gaps = np.cumsum(~known, axis=1)[place] + 1
    level, doubt = (np.where(holds, _interpolate(each, place, within), 0) for each in (size, variance))
    return Profile(level, doubt, np.where(holds, gaps, 0))


def find_run_starts(run: Ints, points: Points) -> Ints:
    """int64[n]: the first point of the same series and run, before which the profile has another constant."""
    return np.maximum.accumulate(np.where(points.find_firsts(run), np.arange(len(run)), 0))


def _interpolate(rise: Ints, place: tuple[Ints, Ints], within: Ints) -> Ints:
    """The sum of rises up to each point; of the last one the part that has passed."""
    whole = np.cumsum(rise, axis=1)
    return whole[place] - rise[place] + rise[place] * within // HOUR
