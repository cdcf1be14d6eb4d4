"""Compares the variants of an experiment, at any time and as often as one likes.

Where tasks were assigned to variants, one value is the difference of a variant and the control within a
block of five minutes: what changes over the day, or in one agent, is in both and cancels. Where agents were
assigned, the agents are what is compared: their means, by Welch's test, at looks that come ever more rarely.
The k-th look has the level alpha / (k (k + 1)), so that all looks together have at most alpha.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from pipelines.analysis.sequential_tests import (
    Floats,
    compute_mean_interval,
    compute_mean_p_values,
    compute_ratio_p_values,
)

BLOCK_MINUTES = 5
LEAST_BLOCKS = 20
LEAST_AGENTS = 5
"""Agents of each variant: with fewer, their means say nothing of other agents."""
FIRST_LOOK = 12
"""Blocks until the first look where agents are compared; each later look has twice as many."""
RATIO_LEVEL = 0.001
"""Below this p-value the variants' shares are not the planned ones."""
SHARED = 0.9
"""Share of the tasks that agents with several variants did, from which on tasks were assigned."""
Ints = NDArray[np.int64]


class Unit(StrEnum):
    """What was assigned to the variants."""

    TASK = "task"
    AGENT = "agent"


class Verdict(StrEnum):
    """What a comparison says of a metric."""

    HIGHER = "higher"
    LOWER = "lower"
    OPEN = "no difference seen yet"
    REFUSED = "no conclusion"


class Tasks(NamedTuple):
    """The tasks of an experiment, ascending in time.

    There is one at least. `variant`: a number of `names`, int64[n]; `agent`: the number of its agent among
    all agents, int64[n]; `block`: the number of the five minutes of its first report, int64[n]; `values`: by
    metric the mean of the task's reports, float64[n], NaN where it is unknown.
    """

    names: Sequence[str]
    variant: Ints
    agent: Ints
    block: Ints
    values: Mapping[str, Floats]


@dataclass(frozen=True)
class Effect:
    """A metric of a variant beside that of the control.

    Attributes:
        units: blocks, or agents of both, that were compared.
        control, mean: means of the tasks.
        low, high: interval of the difference; None if there is none.
        p: adjusted for all metrics and variants; 1 if nothing can be concluded.
        since: the block at which the verdict was reached first.
        reason: why there is no conclusion; else empty.
    """

    variant: str
    metric: str
    units: int
    control: float
    mean: float
    difference: float
    low: float | None
    high: float | None
    p: float
    verdict: Verdict
    since: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """A comparison of all variants with the control.

    `counts`: units by variant. `ratio_p`: of "the variants have the planned shares".
    """

    control: str
    unit: Unit | None
    counts: Mapping[str, int]
    ratio_p: float
    reason: str
    effects: Sequence[Effect]


class _Seen(NamedTuple):
    """What was seen of one metric of one variant: the difference and its interval, and at each look the
    p-value over all looks so far and the look's block."""

    units: int
    difference: float
    interval: tuple[float, float] | None
    p_values: Floats
    blocks: Ints
    reason: str = ""


def compare(
    tasks: Tasks,
    control: str,
    shares: Mapping[str, float] | None = None,
    alpha: float = 0.05,
    unit: Unit | None = None,
) -> Comparison:
    """Compare each variant with the control in each metric.

    Args:
        tasks: all tasks since the experiment began.
        control: one of their variants.
        shares: the planned shares of the variants; equal ones if None.
        alpha: the chance of any wrong verdict, over all metrics and variants, and all looks.
        unit: what was assigned; None: as the tasks show.
    """
    unit, reason = (unit, "") if unit else find_unit(tasks)
    planned = [1.0 if shares is None else shares[name] for name in tasks.names]
    counts, ratio_p = _check_shares(tasks, unit, planned)
    if not reason and ratio_p < RATIO_LEVEL:
        reason = (
            f"the variants do not have the planned shares (p = {ratio_p:.2g}): what assigns them is at fault"
        )
    place = list(tasks.names).index(control)
    pairs = [(v, metric) for v in range(len(tasks.names)) if v != place for metric in tasks.values]
    look = _look_at_agents if unit is Unit.AGENT else _look_at_blocks
    seen = [look(tasks, place, variant, metric, alpha) for variant, metric in pairs]
    adjusted = _adjust([1.0 if reason or each.reason else each.p_values[-1] for each in seen])
    effects = [
        _describe(tasks, place, *pair, each, p, alpha, reason or each.reason)
        for pair, each, p in zip(pairs, seen, adjusted)
    ]
    return Comparison(control, unit, counts, ratio_p, reason, effects)


def find_unit(tasks: Tasks) -> tuple[Unit | None, str]:
    """What was assigned to the variants, or why that cannot be seen."""
    seen = np.zeros((tasks.agent.max() + 1, len(tasks.names)), np.bool_)
    seen[tasks.agent, tasks.variant] = True
    share = (seen.sum(axis=1) > 1)[tasks.agent].mean()
    if share >= SHARED:
        return Unit.TASK, ""
    if share == 0:
        return Unit.AGENT, ""
    return None, (
        f"{share:.0%} of the tasks were done by agents with several variants, the others by agents with one: "
        "say with --unit what was assigned"
    )


def _check_shares(tasks: Tasks, unit: Unit | None, planned: Sequence[float]) -> tuple[dict[str, int], float]:
    """The units by variant, and the p-value of their shares."""
    chosen = tasks.variant
    if unit is Unit.AGENT:
        _, first = np.unique(tasks.agent, return_index=True)
        chosen = tasks.variant[np.sort(first)]
    counts = np.bincount(chosen, minlength=len(tasks.names)).tolist()
    return dict(zip(tasks.names, counts)), float(compute_ratio_p_values(chosen, planned)[-1])


def _look_at_blocks(tasks: Tasks, control: int, variant: int, metric: str, alpha: float) -> _Seen:
    values = tasks.values[metric]
    known = ~np.isnan(values)
    means = [_average(tasks.block, values, known & (tasks.variant == each)) for each in (control, variant)]
    blocks, *places = np.intersect1d(means[0][0], means[1][0], assume_unique=True, return_indices=True)
    if len(blocks) < LEAST_BLOCKS:
        why = f"{len(blocks)} blocks of {BLOCK_MINUTES} minutes have tasks of both; {LEAST_BLOCKS} are needed"
        return _refuse(len(blocks), why)
    differences = means[1][1][places[1]] - means[0][1][places[0]]
    if not np.ptp(differences):
        return _refuse(len(blocks), "all differences are equal, so chance cannot be measured")
    p_values = compute_mean_p_values(differences, LEAST_BLOCKS, alpha)
    interval = compute_mean_interval(differences, alpha)
    return _Seen(len(blocks), float(differences.mean()), interval, p_values, blocks)


def _look_at_agents(tasks: Tasks, control: int, variant: int, metric: str, alpha: float) -> _Seen:
    elapsed = tasks.block - tasks.block[0] + 1
    looks = [FIRST_LOOK << k for k in range(64) if FIRST_LOOK << k <= elapsed[-1]]
    if not looks:
        return _refuse(0, f"the first look is after {FIRST_LOOK * BLOCK_MINUTES} minutes")
    values = tasks.values[metric]
    p_values, least, difference, interval = [], 0, 0.0, None
    for k, look in enumerate(looks, 1):
        known = ~np.isnan(values) & (elapsed <= look)
        means = [
            _average(tasks.agent, values, known & (tasks.variant == each))[1] for each in (control, variant)
        ]
        least = min(map(len, means))
        if least < LEAST_AGENTS or not all(np.ptp(each) for each in means):
            p_values.append(1.0)
            continue
        test = stats.ttest_ind(means[1], means[0], equal_var=False)
        p_values.append(min(1.0, float(test.pvalue) * k * (k + 1)))
        bounds = test.confidence_interval(1 - alpha / (k * (k + 1)))
        difference, interval = (
            float(means[1].mean() - means[0].mean()),
            (float(bounds.low), float(bounds.high)),
        )
    if interval is None:
        return _refuse(least, f"a variant has {least} agents that differ; {LEAST_AGENTS} are needed")
    agents = len(np.unique(tasks.agent[np.isin(tasks.variant, (control, variant))]))
    ends = tasks.block[0] + np.array(looks, np.int64) - 1
    return _Seen(agents, difference, interval, np.minimum.accumulate(p_values), ends)


def _average(groups: Ints, values: Floats, chosen: NDArray[np.bool_]) -> tuple[Ints, Floats]:
    """The groups of the chosen values, ascending, and the mean of each."""
    numbers = groups[chosen] - groups.min()
    counts = np.bincount(numbers)
    found = np.flatnonzero(counts)
    return found + groups.min(), (np.bincount(numbers, values[chosen])[found] / counts[found])


def _refuse(units: int, reason: str) -> _Seen:
    return _Seen(units, float("nan"), None, np.ones(1), np.zeros(1, np.int64), reason)


def _adjust(p_values: Sequence[float]) -> Floats:
    """By Holm's method: the chance of any wrong rejection among them is at most the level."""
    if len(p_values) < 2:
        return np.array(p_values)
    return np.asarray(multipletests(p_values, method="holm")[1])


def _describe(
    tasks: Tasks, control: int, variant: int, metric: str, seen: _Seen, p: float, alpha: float, reason: str
) -> Effect:
    control_mean, mean = (_mean(tasks.values[metric][tasks.variant == each]) for each in (control, variant))
    verdict, since = Verdict.OPEN, None
    if reason:
        verdict = Verdict.REFUSED
    elif p <= alpha:
        verdict = Verdict.HIGHER if seen.difference > 0 else Verdict.LOWER
        since = int(seen.blocks[np.argmax(seen.p_values * (p / seen.p_values[-1] if p else 1.0) <= alpha)])
    low, high = seen.interval or (None, None)
    return Effect(
        tasks.names[variant], metric, seen.units, control_mean, mean, seen.difference, low, high, float(p),
        verdict, since, reason,
    )  # fmt: skip


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
