"""Tests that may be looked at after every value."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln  # type: ignore[import-untyped]

from pipelines.analysis.sequential_tests import (
    CONCENTRATION,
    compute_mean_interval,
    compute_mean_p_values,
    compute_ratio_p_values,
)

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60).map(np.array)


@given(VALUES, st.integers(1, 30))
def test_a_p_value_never_rises_and_there_is_no_look_before_the_first(values: np.ndarray, first: int) -> None:
    found = compute_mean_p_values(values, first, 0.05)
    assert (np.diff(found) <= 0).all()
    assert (found[: first - 1] == 1).all()
    assert ((found >= 0) & (found <= 1)).all()


@given(st.integers(2, 200), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_interval_leaves_out_0_exactly_where_the_p_value_of_that_look_is_below_alpha(
    count: int, alpha: float
) -> None:
    values = np.random.default_rng(count).normal(0.3, 1, count)
    low, high = compute_mean_interval(values, alpha)
    assert (low > 0 or high < 0) == (compute_mean_p_values(values, count, alpha)[-1] < alpha)


@given(st.floats(0.1, 1e6), st.floats(-1e6, 1e6))
def test_the_interval_follows_units_and_origin(scale: float, shift: float) -> None:
    values = np.random.default_rng(1).normal(0, 1, 50)
    plain = np.array(compute_mean_interval(values, 0.05))
    moved = np.array(compute_mean_interval(scale * values + shift, 0.05))
    assert moved == pytest.approx(scale * plain + shift, rel=1e-6, abs=1e-6 * scale)


def test_the_mean_is_in_all_intervals_together_as_often_as_they_say() -> None:
    chance = np.random.default_rng(0)
    missed = [(compute_mean_p_values(chance.normal(0, 1, 500), 20, 0.05) <= 0.05).any() for _ in range(2000)]
    assert np.mean(missed) <= 0.06


@pytest.mark.parametrize(("share", "most"), [(0.5, 0.02), (0.45, 1.0)])
def test_shares_are_rarely_refused_as_planned_and_soon_otherwise(share: float, most: float) -> None:
    chance = np.random.default_rng(0)
    drawn = (chance.random((300, 5000)) < share).astype(np.int64)
    refused = np.mean([compute_ratio_p_values(each, [1, 1])[-1] <= 0.01 for each in drawn])
    assert refused <= most
    assert share == 0.5 or refused >= 0.99


@given(st.lists(st.integers(0, 2), min_size=1, max_size=50).map(np.array))
def test_the_ratio_test_is_the_bayes_factor_that_its_formula_says(choices: np.ndarray) -> None:
    shares = np.array([0.5, 0.3, 0.2])
    factor, best, counts = 1.0, 1.0, np.zeros(3)
    for choice in choices:  # the predictive chance of each choice, over the planned one
        factor *= (100 * shares[choice] + counts[choice]) / (100 + counts.sum()) / shares[choice]
        counts[choice] += 1
        best = max(best, factor)
    assert compute_ratio_p_values(choices, shares)[-1] == pytest.approx(1 / best)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.permutations([1.0, 2.0, 3.0, 0.5]))
def test_the_p_value_of_shares_is_that_of_the_dirichlet_and_multinomial_distributions(
    choices: list[int], shares: list[float]
) -> None:
    expected = np.array(shares) / sum(shares)
    counts = np.cumsum(np.array(choices)[:, None] == np.arange(4), axis=0)
    prior, total = CONCENTRATION * expected, np.arange(len(choices)) + 1
    logs = (gammaln(prior + counts) - gammaln(prior)).sum(axis=1) - counts @ np.log(expected)
    logs += gammaln(CONCENTRATION) - gammaln(CONCENTRATION + total)
    found = compute_ratio_p_values(np.array(choices), shares)
    assert found == pytest.approx(np.exp(-np.maximum.accumulate(np.maximum(logs, 0))), rel=1e-9)
