"""Changes of level: the statistics beside plain numpy, the false alarms beside the budget."""

import numpy as np
import pytest

from transforms.analysis.change_points import (
    RECENT,
    WINDOW,
    find_thresholds,
    locate,
    rate_false_alarms,
    screen,
)
from transforms.analysis.series import Ints, Moments, Points, describe_windows

pytest.importorskip("ruptures")


def draw(series: int, minutes: int, correlation: float = 0.0, seed: int = 1) -> tuple[Points, Ints]:
    """The points of some series with one a minute, and normal values around 5 with a deviation of 0.2."""
    from scipy.signal import lfilter  # type: ignore[import-untyped]

    noise = np.random.default_rng(seed).standard_normal((series, minutes + 100))
    values = lfilter([1], [1, -correlation], noise, axis=1)[:, 100:] * np.sqrt(1 - correlation**2)
    number, minute = np.indices((series, minutes))
    points = Points(number.ravel().astype(np.int64), minute.ravel().astype(np.int64))
    return points, np.round(5e6 + 2e5 * values.ravel()).astype(np.int64)


def count_alarms(correlation: float, budget: float) -> float:
    """Runs of alarms a day of 100 steady series, over the budget."""
    points, values = draw(100, 1440, correlation)
    zero = np.zeros(len(values), np.int64)
    largest = screen(values, Moments.of(values), points.find_starts(WINDOW), zero, zero, 1e4)
    above = largest > find_thresholds(points, budget, metrics=1)
    runs = above.reshape(100, -1)
    return sum(int((np.diff(np.flatnonzero(each), prepend=-99) > 30).sum()) for each in runs) / budget


def test_a_window_is_described_as_numpy_does() -> None:
    _, values = draw(1, 200)
    starts, ends, shift = (np.array(each) for each in ([0, 30, 150], [90, 33, 200], [0, 7_000_000, -(10**7)]))
    found = describe_windows(Moments.of(values), values, starts, ends, shift)
    for n, (start, end) in enumerate(zip(starts, ends)):
        part = values[start:end].astype(float) + shift[n]
        assert found.mean[n] == pytest.approx(part.mean())
        assert found.variance[n] == pytest.approx(part.var(ddof=1))
        centred = part - part.mean()
        r = (centred[1:] @ centred[:-1]) / (centred @ centred)
        assert found.correlation[n] == pytest.approx(r + (1 + 3 * r) / len(part), abs=1e-6)


def test_values_before_the_window_do_not_matter_to_the_last_bit() -> None:
    points, values = draw(3, 400)
    zero = np.zeros(len(values), np.int64)
    whole = screen(values, Moments.of(values), points.find_starts(WINDOW), zero, zero, 1e4)
    late = Points(*(each[250:] for each in points))
    part = screen(values[250:], Moments.of(values[250:]), late.find_starts(WINDOW), zero, zero, 1e4)
    assert np.array_equal(whole[250 + WINDOW :], part[WINDOW:])


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_false_alarms_are_about_the_budget_or_fewer(correlation: float) -> None:
    assert count_alarms(correlation, budget=40) <= 1.5


def test_the_rate_of_false_alarms_falls_with_the_threshold() -> None:
    rates = rate_false_alarms(np.linspace(2.5, 12, 50))
    assert np.all(np.diff(rates) < 0)
    assert rates[-1] > 0


@pytest.mark.parametrize("size", [RECENT[0], 30])
def test_a_change_is_located_to_the_point(size: int) -> None:
    _, values = draw(1, 80)
    window = values.astype(float)
    window[-size:] += 1_200_000
    found = locate(window, 1e4)
    assert found is not None
    place, before, after = found
    assert place == 80 - size
    assert after - before == pytest.approx(1_200_000, abs=300_000)
