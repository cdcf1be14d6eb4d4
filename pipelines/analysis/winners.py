"""Which variant of an experiment should take the place of its control, if one should.

A winner is better than the control in at least one metric, and worse in none, by the verdicts of `compare`
over all metrics at LEVEL, and its interval still excludes 0. So the chance that an experiment without any
effect ever has a winner, over all looks, is at most LEVEL.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pipelines.analysis.comparison import Comparison, Effect, Verdict, compare
from pipelines.analysis.tasks import Ints, Measure, Tasks
from pipelines.queries.table_queries import EXPERIMENT_METRICS
from transforms.core.counts import format_count

LEVEL = 0.01
CONTROL = "control"
BETTER: Mapping[str, Verdict] = {
    "latency_ms": Verdict.LOWER,
    "accuracy": Verdict.HIGHER,
    "cpu_usage": Verdict.LOWER,
    "memory_mb": Verdict.LOWER,
    "performance_score": Verdict.HIGHER,
}
"""By metric, which verdict about a variant is good."""
MEASURES = [Measure(name) for name in EXPERIMENT_METRICS]


class Winner(NamedTuple):
    """A variant that is better than the control.

    `gain`: the metric in which it was better first; `since` of it is the block at which it was. `others`:
    the further metrics in which it is better. `after`: the same metric in the tasks since then, which had no
    part in the verdict.
    """

    variant: str
    gain: Effect
    others: tuple[str, ...]
    after: Effect


def find_winner(tasks: Tasks) -> Winner | str:
    """The winner of an experiment, or why there is none."""
    if CONTROL not in tasks.names:
        return f"no task has the variant {CONTROL}"
    if len(tasks.names) < 2:
        return f"all tasks have the variant {CONTROL}"
    found = compare(tasks, CONTROL, MEASURES, LEVEL)
    if found.reason:
        return found.reason
    gains: dict[str, list[Effect]] = {}
    for each in found.effects:
        if _is_better(each):
            gains.setdefault(each.variant, []).append(each)
    worse = {each.variant for each in found.effects if _is_worse(each)}
    winners = [name for name in gains if name not in worse]
    if len(winners) != 1:
        return _explain(found, gains, winners)
    (variant,) = winners
    gain, *others = sorted(gains[variant], key=_find_since)
    return Winner(variant, gain, tuple(each.metric for each in others), _look_after(tasks, found, gain))


def _explain(found: Comparison, gains: Mapping[str, list[Effect]], winners: list[str]) -> str:
    """Why there is not one winner."""
    if len(winners) > 1:
        better = format_count(len(winners), "variant")
        return f"{better} are better than the control: compare them with each other"
    if gains:
        return f"{next(iter(gains))} is better in one metric and worse in another"
    reasons = {each.reason for each in found.effects}
    if all(reasons):
        return min(reasons)
    return "no variant is seen to be better than the control"


def _look_after(tasks: Tasks, found: Comparison, gain: Effect) -> Effect:
    """The metric of a gain in the tasks after its verdict."""
    chosen = tasks.block > _find_since(gain)
    chosen &= np.isin(tasks.variant, [tasks.names.index(name) for name in (found.control, gain.variant)])
    left = select_tasks(tasks, np.flatnonzero(chosen))
    if len(np.unique(left.variant)) < 2:
        nan = float("nan")
        return Effect(gain.variant, gain.metric, 0, nan, nan, nan, None, None, 1.0, Verdict.REFUSED, None,
                      "no tasks of both came after it")  # fmt: skip
    (effect,) = compare(left, found.control, [Measure(gain.metric)], LEVEL, unit=found.unit).effects
    return effect


def select_tasks(tasks: Tasks, places: Ints) -> Tasks:
    """The tasks at some places, with the names of the variants that they have."""
    used, variant = np.unique(tasks.variant[places], return_inverse=True)
    values = {name: each[places] for name, each in tasks.values.items()}
    names = [tasks.names[number] for number in used.tolist()]
    return Tasks(names, variant.astype(np.int64), tasks.agent[places], tasks.block[places], values)


def _find_since(effect: Effect) -> int:
    if effect.since is None:
        raise ValueError(f"{effect.metric} has no verdict")
    return effect.since


def _is_better(effect: Effect) -> bool:
    """Whether the verdict is the good one, and the interval of the newest look still says so."""
    if effect.verdict is not BETTER[effect.metric] or effect.low is None or effect.high is None:
        return False
    return effect.low > 0 if effect.verdict is Verdict.HIGHER else effect.high < 0


def _is_worse(effect: Effect) -> bool:
    return effect.verdict in (Verdict.HIGHER, Verdict.LOWER) and effect.verdict is not BETTER[effect.metric]
