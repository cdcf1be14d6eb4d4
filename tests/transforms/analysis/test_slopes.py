"""Slopes beside statsmodels, and how often their intervals hold the truth."""

import numpy as np
import pytest

from tests.transforms.analysis.test_change_points import draw
from transforms.analysis.series import MICRO, Moments
from transforms.analysis.slopes import fit_slopes

sm = pytest.importorskip("statsmodels.api")


def test_a_slope_is_that_of_weighted_least_squares_over_means_of_blocks() -> None:
    points, values = draw(1, 300)
    kept = np.random.default_rng(2).random(300) < 0.6
    points, values = type(points)(*(each[kept] for each in points)), values[kept]
    places = np.flatnonzero(points.minute // 60 == 4)[:1]
    zero = np.zeros(len(values), np.int64)
    found = fit_slopes(Moments.of(values), points, places, zero)
    block = (points.minute - 120) // 10
    used = np.arange(12)[np.bincount(block[(block >= 0) & (block < 12)], minlength=12) > 0]
    means = [values[block == each].mean() / MICRO for each in used]
    weights = [(block == each).sum() for each in used]
    model = sm.WLS(means, sm.add_constant((used + 0.5) / 6), weights=weights).fit()
    assert found.slope[0] == pytest.approx(model.params[1])
    assert (found.low[0], found.high[0]) == pytest.approx(tuple(model.conf_int()[1]))
    assert found.points[0] == sum(weights)


@pytest.mark.parametrize(("correlation", "least"), [(0.0, 0.94), (0.6, 0.9)])
def test_intervals_hold_the_slope_of_steady_series_as_often_as_they_say(
    correlation: float, least: float
) -> None:
    points, values = draw(2000, 181, correlation)
    places = np.flatnonzero(points.minute == 120)
    found = fit_slopes(Moments.of(values), points, places, np.zeros(len(values), np.int64))
    assert np.mean((found.low <= 0) & (found.high >= 0)) >= least


def test_too_few_blocks_have_no_slope() -> None:
    points, values = draw(1, 200)
    kept = points.minute < 70
    kept[120] = True
    points, values = type(points)(*(each[kept] for each in points)), values[kept]
    places = np.flatnonzero(points.minute == 120)
    found = fit_slopes(Moments.of(values), points, places, np.zeros(len(values), np.int64))
    assert np.isnan(found.slope[0])
