"""Compares the variants of an experiment, at any time and as often as one likes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from pipelines.analysis.looks import (
    LEAST_AGENTS,
    LEAST_QUANTILE_AGENTS,
    Seen,
    estimate_means,
    estimate_quantiles,
    look_at_blocks,
    look_rarely,
    refuse,
)
from pipelines.analysis.sequential_tests import compute_ratio_p_values
from pipelines.analysis.tasks import Floats, Ints, Measure, Tasks, Unit
from transforms.core.counts import format_count

RATIO_LEVEL = 0.001
"""Below this p-value the variants' shares are not the planned ones."""
LARGEST = 1e100
"""The largest size of a value: squares and sums of larger ones overflow."""
SHARED = 0.9
"""Share of the tasks that agents with several variants did, from which on tasks were assigned."""


class Verdict(StrEnum):
    """What a comparison says of a metric."""

    HIGHER = "higher"
    LOWER = "lower"
    OPEN = "no difference seen yet"
    REFUSED = "no conclusion"


@dataclass(frozen=True)
class Effect:
    """A measure of a variant beside that of the control.

    Attributes:
        metric: the measure's name.
        units: blocks, or agents of both, that were compared.
        control, value: of all tasks of the control and of the variant.
        low, high: interval of the difference; None if there is none.
        p: adjusted for all measures and variants; 1 if nothing can be concluded.
        since: the block at which the verdict was reached first.
        reason: why there is no conclusion; else empty.
    """

    variant: str
    metric: str
    units: int
    control: float
    value: float
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

    `is_assigned`: whether tasks or agents were assigned to variants; otherwise sets of agents were compared
    that were chosen by something else. `counts`: units by variant. `ratio_p`: of "the variants have the
    planned shares"; None where nothing was assigned.
    """

    control: str
    unit: Unit | None
    is_assigned: bool
    counts: Mapping[str, int]
    ratio_p: float | None
    reason: str
    effects: Sequence[Effect]


def compare(
    tasks: Tasks,
    control: str,
    measures: Sequence[Measure],
    alpha: float = 0.05,
    shares: Mapping[str, float] | None = None,
    unit: Unit | None = None,
) -> Comparison:
    """Compare each variant with the control in each measure.

    Args:
        tasks: all tasks since the experiment began.
        control: one of their variants.
        measures: what is compared, of metrics of the tasks.
        alpha: the chance of any wrong verdict, over all measures and variants, and all looks.
        shares: the planned shares of the variants; equal ones if None.
        unit: what was assigned; None: as the tasks show.
    """
    unit, reason = (unit, "") if unit else find_unit(tasks)
    planned = [1.0 if shares is None else shares[name] for name in tasks.names]
    ratio_p = float(compute_ratio_p_values(_list_variants(tasks, unit), planned)[-1])
    if not reason and ratio_p < RATIO_LEVEL:
        reason = (
            f"the variants do not have the planned shares (p = {ratio_p:.2g}): what assigns them is at fault"
        )
    effects = _compare(tasks, control, measures, alpha, unit, reason)
    return Comparison(control, unit, True, _count_units(tasks, unit), ratio_p, reason, effects)


def compare_agents(
    tasks: Tasks, control: str, measures: Sequence[Measure], alpha: float = 0.05
) -> Comparison:
    """Compare sets of agents, the variants, that nobody assigned: as `compare`, but what causes a difference
    is not known, and there are no planned shares."""
    effects = _compare(tasks, control, measures, alpha, Unit.AGENT, "")
    return Comparison(control, Unit.AGENT, False, _count_units(tasks, Unit.AGENT), None, "", effects)


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


def _compare(
    tasks: Tasks, control: str, measures: Sequence[Measure], alpha: float, unit: Unit | None, reason: str
) -> list[Effect]:
    """`reason`: why nothing can be concluded; else empty."""
    place = list(tasks.names).index(control)
    pairs = [(v, measure) for v in range(len(tasks.names)) if v != place for measure in measures]
    seen = [_look(tasks, place, variant, measure, alpha, unit) for variant, measure in pairs]
    adjusted = _adjust([1.0 if reason or each.reason else each.p_values[-1] for each in seen])
    return [
        _describe(tasks, place, *pair, each, p, alpha, reason or each.reason)
        for pair, each, p in zip(pairs, seen, adjusted)
    ]


def _look(
    tasks: Tasks, control: int, variant: int, measure: Measure, alpha: float, unit: Unit | None
) -> Seen:
    where = tasks, control, variant, measure.metric, alpha
    if count := _count_extreme(tasks.values[measure.metric]):
        return refuse(
            0, f"{measure.metric} is infinite or above {LARGEST:g} in {format_count(count, 'task')}"
        )
    if measure.percentile is not None:
        estimate = partial(estimate_quantiles, quantile=measure.percentile / 100)
        return look_rarely(*where, estimate, LEAST_QUANTILE_AGENTS)
    if unit is Unit.AGENT:
        return look_rarely(*where, estimate_means, LEAST_AGENTS)
    return look_at_blocks(*where)


def _list_variants(tasks: Tasks, unit: Unit | None) -> Ints:
    """int64[n]: the variant of each unit, in the order in which they came."""
    if unit is not Unit.AGENT:
        return tasks.variant
    _, first = np.unique(tasks.agent, return_index=True)
    return tasks.variant[np.sort(first)]


def _count_units(tasks: Tasks, unit: Unit | None) -> dict[str, int]:
    counts = np.bincount(_list_variants(tasks, unit), minlength=len(tasks.names))
    return dict(zip(tasks.names, counts.tolist()))


def _adjust(p_values: Sequence[float]) -> Floats:
    """By Holm's method: the chance of any wrong rejection among them is at most the level."""
    if len(p_values) < 2:
        return np.array(p_values)
    return np.asarray(multipletests(p_values, method="holm")[1])


def _describe(
    tasks: Tasks,
    control: int,
    variant: int,
    measure: Measure,
    seen: Seen,
    p: float,
    alpha: float,
    reason: str,
) -> Effect:
    values = tasks.values[measure.metric]
    of_control, value = (_summarise(values[tasks.variant == each], measure) for each in (control, variant))
    verdict, since = Verdict.OPEN, None
    if reason:
        verdict = Verdict.REFUSED
    elif p <= alpha:
        verdict = Verdict.HIGHER if seen.difference > 0 else Verdict.LOWER
        since = int(seen.blocks[np.argmax(seen.p_values * (p / seen.p_values[-1] if p else 1.0) <= alpha)])
    low, high = seen.interval or (None, None)
    return Effect(
        tasks.names[variant], str(measure), seen.units, of_control, value, seen.difference, low, high,
        float(p), verdict, since, reason,
    )  # fmt: skip


def _count_extreme(values: Floats) -> int:
    return int((np.abs(values) > LARGEST).sum())


def _summarise(values: Floats, measure: Measure) -> float:
    known = values[~np.isnan(values)]
    if not len(known) or _count_extreme(known):
        return float("nan")
    if measure.percentile is None:
        return float(known.mean())
    return float(np.quantile(known, measure.percentile / 100, method="inverted_cdf"))
