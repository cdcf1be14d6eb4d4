"""Looks at one measure of one variant beside the control, as often as one likes.

Where tasks were assigned to variants, one value of a mean is the difference of a variant and the control
within a block of five minutes: what changes over the day, or in one agent, is in both and cancels
(`look_at_blocks`). All else is looked at ever more rarely, by Student's t (`look_rarely`): means of agents
that were assigned, and quantiles. The k-th of these looks has the level alpha / (k (k + 1)), so that all
looks together have at most alpha.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from pipelines.analysis.sequential_tests import compute_mean_interval, compute_mean_p_values
from pipelines.analysis.tasks import BLOCK_MINUTES, Floats, Ints, Tasks
from transforms.core.counts import format_count

LEAST_BLOCKS = 20
LEAST_AGENTS = 5
"""Agents of each variant: with fewer, their means say nothing of other agents."""
LEAST_QUANTILE_AGENTS = 10
"""Agents of each variant: the bootstrap of fewer is too sure of itself."""
FIRST_LOOK = 12
"""Blocks until the first of the looks that become rare; each later look has twice as many."""
RESAMPLES = 400
"""The error of a quantile is known to about 1 / sqrt(2 * 400) = 3.5 % of itself."""


class Seen(NamedTuple):
    """What was seen of one measure of one variant: the difference and its interval, and at each look the
    p-value over all looks so far and the look's block."""

    units: int
    difference: float
    interval: tuple[float, float] | None
    p_values: Floats
    blocks: Ints
    reason: str = ""


class Sample(NamedTuple):
    """Tasks of one variant: the agent of each, int64[n], and its value, float64[n]."""

    agents: Ints
    values: Floats


class Estimate(NamedTuple):
    """A difference of a variant and the control, its standard error, and the degrees of freedom of that."""

    difference: float
    error: float
    freedom: float


Estimator = Callable[[Sample, Sample], Estimate | None]
"""The difference of a variant (second) and the control (first); None if they have too few agents, or no
chance at all is in their values."""


def look_at_blocks(tasks: Tasks, control: int, variant: int, metric: str, alpha: float) -> Seen:
    """Look at the difference of the means after every block that has tasks of both."""
    values = tasks.values[metric]
    chosen = [~np.isnan(values) & (tasks.variant == each) for each in (control, variant)]
    means = [_average(tasks.block[each], values[each]) for each in chosen]
    blocks, *places = np.intersect1d(means[0][0], means[1][0], assume_unique=True, return_indices=True)
    if len(blocks) < LEAST_BLOCKS:
        shared = f"{format_count(len(blocks), 'block')} of {BLOCK_MINUTES} minutes with tasks of both"
        return refuse(len(blocks), f"{shared}; {LEAST_BLOCKS} are needed")
    differences = means[1][1][places[1]] - means[0][1][places[0]]
    if not np.ptp(differences):
        return refuse(len(blocks), "all differences are equal, so chance cannot be measured")
    p_values = compute_mean_p_values(differences, LEAST_BLOCKS, alpha)
    interval = compute_mean_interval(differences, alpha)
    return Seen(len(blocks), float(differences.mean()), interval, p_values, blocks)


def look_rarely(
    tasks: Tasks, control: int, variant: int, metric: str, alpha: float, estimate: Estimator, least: int
) -> Seen:
    """Look at a difference after FIRST_LOOK blocks, and then whenever the time has doubled.

    `least`: agents that each variant needs, for the reason where no look has as many.
    """
    elapsed = tasks.block - tasks.block[0] + 1
    looks = [FIRST_LOOK << k for k in range(64) if FIRST_LOOK << k <= elapsed[-1]]
    if not looks:
        return refuse(0, f"the first look is after {FIRST_LOOK * BLOCK_MINUTES} minutes")
    values, p_values, last = tasks.values[metric], [], None
    for k, look in enumerate(looks, 1):
        known = ~np.isnan(values) & (elapsed <= look)
        chosen = [known & (tasks.variant == each) for each in (control, variant)]
        found = estimate(*(Sample(tasks.agent[each], values[each]) for each in chosen))
        if found is None:
            p_values.append(1.0)
            continue
        t = stats.t(found.freedom, scale=found.error)
        p_values.append(min(1.0, float(2 * t.sf(abs(found.difference))) * k * (k + 1)))
        width = float(t.isf(alpha / (k * (k + 1)) / 2))
        last = found.difference, (found.difference - width, found.difference + width)
    counts = [len(np.unique(tasks.agent[tasks.variant == each])) for each in (control, variant)]
    if last is None:
        fewest = format_count(min(counts), "different agent")
        return refuse(min(counts), f"a variant has {fewest}; {least} are needed")
    agents = len(np.unique(tasks.agent[np.isin(tasks.variant, (control, variant))]))
    ends = tasks.block[0] + np.array(looks, np.int64) - 1
    return Seen(agents, *last, np.minimum.accumulate(p_values), ends)


def estimate_means(control: Sample, variant: Sample) -> Estimate | None:
    """The difference of the means of agents, by Welch: an agent is one value, however many tasks it has."""
    means = [_average(each.agents, each.values)[1] for each in (control, variant)]
    if min(map(len, means)) < LEAST_AGENTS or not all(np.ptp(each) for each in means):
        return None
    parts = [each.var(ddof=1) / len(each) for each in means]
    test = stats.ttest_ind(means[1], means[0], equal_var=False)
    return Estimate(float(means[1].mean() - means[0].mean()), float(np.sqrt(sum(parts))), float(test.df))


def estimate_quantiles(control: Sample, variant: Sample, quantile: float) -> Estimate | None:
    """The difference of a quantile of the tasks; its error by the bootstrap of whole agents, with all tasks
    that they have in either variant (Cameron, Gelbach and Miller, *Bootstrap-based improvements for inference
    with clustered errors*, 2008, the pairs cluster bootstrap for standard errors)."""
    samples = control, variant
    counts = [len(np.unique(each.agents)) for each in samples]
    if min(counts) < LEAST_QUANTILE_AGENTS:
        return None
    agents, numbers = np.unique(np.concatenate([each.agents for each in samples]), return_inverse=True)
    numbered = np.split(numbers, [len(control.agents)])
    sorts = [np.argsort(each.values) for each in samples]
    ranked = [(each.values[order], number[order]) for each, number, order in zip(samples, numbered, sorts)]
    weights = np.random.default_rng(0).multinomial(len(agents), [1 / len(agents)] * len(agents), RESAMPLES)

    def find(counted: Ints) -> float:
        """The difference if each agent counts so often; not finite if a variant has no tasks then."""
        found = [_find_quantile(values, counted[number], quantile) for values, number in ranked]
        return found[1] - found[0]

    error = float(np.nanstd([find(each) for each in weights], ddof=1))
    difference = find(np.ones(len(agents), np.int64))
    return Estimate(difference, error, min(counts) - 1) if error else None


def _average(groups: Ints, values: Floats) -> tuple[Ints, Floats]:
    """The groups of values, ascending, and the mean of each."""
    found, numbers = np.unique(groups, return_inverse=True)
    return found, np.bincount(numbers, values) / np.bincount(numbers)


def _find_quantile(values: Floats, weights: Ints, quantile: float) -> float:
    """Of values that ascend, the first at which the share of the weights reaches `quantile`; NaN of none."""
    reached = np.cumsum(weights)
    if not len(reached) or not reached[-1]:
        return float("nan")
    return float(values[np.searchsorted(reached, quantile * reached[-1])])


def refuse(units: int, reason: str) -> Seen:
    """No look, for a reason."""
    return Seen(units, float("nan"), None, np.ones(1), np.zeros(1, np.int64), reason)
