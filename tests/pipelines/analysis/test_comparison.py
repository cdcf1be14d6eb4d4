"""Comparing variants: what is concluded, when it is not, and how often it is wrong."""

import numpy as np
import pytest

from pipelines.analysis.comparison import Comparison, Effect, Tasks, Unit, Verdict, compare
from pipelines.commands.compare import parse_shares
from pipelines.failures import WrongUse
from tests.pipelines.analysis.worlds import METRIC, NAMES, World, draw_tasks

HALF_DAY = World(blocks=144)


def compare_one(tasks: Tasks, **options: object) -> Effect:
    """The only effect of a comparison."""
    (effect,) = compare(tasks, NAMES[0], **options).effects  # type: ignore[arg-type]
    return effect


def take(tasks: Tasks, chosen: np.ndarray) -> Tasks:
    """Some of the tasks."""
    values = {name: each[chosen] for name, each in tasks.values.items()}
    return Tasks(tasks.names, tasks.variant[chosen], tasks.agent[chosen], tasks.block[chosen], values)


def test_an_effect_on_tasks_is_found_with_its_size() -> None:
    effect = compare_one(draw_tasks(1, Unit.TASK, -0.2))
    assert effect.verdict is Verdict.LOWER
    assert effect.low is not None
    assert effect.high is not None
    assert effect.low < (np.exp(-0.2) - 1) * effect.control < effect.high < 0


def test_an_effect_on_agents_is_found_where_agents_were_assigned() -> None:
    found = compare(draw_tasks(2, Unit.AGENT, 1.0, World(agents=100)), NAMES[0])
    assert found.unit is Unit.AGENT
    assert found.counts == {"control": 50, "treatment": 50}
    assert [each.verdict for each in found.effects] == [Verdict.HIGHER]


def test_a_verdict_names_the_block_at_which_it_was_reached_first() -> None:
    tasks = draw_tasks(3, Unit.TASK, 0.1, HALF_DAY)
    since = compare_one(tasks).since
    assert since is not None
    assert compare_one(take(tasks, tasks.block <= since)).verdict is Verdict.HIGHER
    assert compare_one(take(tasks, tasks.block < since)).verdict is Verdict.OPEN


def test_a_verdict_of_several_metrics_is_reached_by_all_of_them_together() -> None:
    tasks = draw_tasks(3, Unit.TASK, 0.1, HALF_DAY)
    noise = {f"noise {n}": draw_tasks(100 + n, Unit.TASK, 0.0, HALF_DAY).values[METRIC] for n in range(9)}
    sized = {name: np.resize(values, len(tasks.block)) for name, values in noise.items()}
    alone = compare_one(tasks)
    effects = compare(tasks._replace(values={**tasks.values, **sized}), NAMES[0]).effects
    first = next(each for each in effects if each.metric == METRIC)
    assert first.p == pytest.approx(10 * alone.p)
    assert first.since is not None
    assert alone.since is not None
    assert first.since >= alone.since


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        (draw_tasks(4, Unit.TASK, 1.0, World(blocks=19)), "19 blocks of 5 minutes have tasks of both"),
        (draw_tasks(4, Unit.AGENT, 1.0, World(blocks=11)), "the first look is after 60 minutes"),
        (draw_tasks(4, Unit.AGENT, 1.0, World(agents=8)), "a variant has 4 agents that differ"),
    ],
)
def test_too_little_data_is_no_conclusion(tasks: Tasks, reason: str) -> None:
    effect = compare_one(tasks)
    assert effect.verdict is Verdict.REFUSED
    assert reason in effect.reason
    assert effect.p == 1


def test_equal_values_are_no_conclusion() -> None:
    tasks = draw_tasks(4, Unit.TASK, 0.0, World(blocks=30))
    effect = compare_one(tasks._replace(values={METRIC: np.ones(len(tasks.block))}))
    assert "chance cannot be measured" in effect.reason


def test_shares_that_are_not_the_planned_ones_are_no_conclusion() -> None:
    tasks = draw_tasks(5, Unit.TASK, 1.0)
    lost = (tasks.variant == 1) & (np.arange(len(tasks.variant)) % 10 == 0)
    found = compare(take(tasks, ~lost), NAMES[0])
    assert found.ratio_p < 1e-6
    assert [each.verdict for each in found.effects] == [Verdict.REFUSED]
    planned = compare(take(tasks, ~lost), NAMES[0], {"control": 1.0, "treatment": 0.9})
    assert [each.verdict for each in planned.effects] == [Verdict.HIGHER]


@pytest.mark.parametrize(
    "words",
    [
        ["a=0.5"],
        ["a=nan", "b=1"],
        ["a=-1", "b=1"],
        ["a", "b=1"],
        ["a=1", "a=2", "b=1"],
        ["a=1e308", "b=1.7e308"],
        ["a=5e-324", "b=1"],
    ],
)
def test_shares_that_cannot_be_checked_are_refused(words: list[str]) -> None:
    """A share that vanishes, or a sum that is infinite, would let every count pass."""
    with pytest.raises(WrongUse, match="share"):
        parse_shares(words, ["a", "b"])
    assert parse_shares(["a=1e-6", "b=0.5"], ["a", "b"]) == {"a": 1e-6, "b": 0.5}


def test_tasks_of_which_nobody_can_say_what_was_assigned_need_the_unit() -> None:
    tasks = draw_tasks(6, Unit.TASK, 0.5)
    mixed = take(tasks, (tasks.agent >= 10) | (tasks.variant == tasks.agent % 2))
    found = compare(mixed, NAMES[0])
    assert found.unit is None
    assert "--unit" in found.reason
    assert [each.verdict for each in compare(mixed, NAMES[0], unit=Unit.TASK).effects] == [Verdict.HIGHER]


def test_unknown_values_are_left_out() -> None:
    tasks = draw_tasks(7, Unit.TASK, 0.2, HALF_DAY)
    gone = np.arange(len(tasks.block)) % 3 == 0
    blank = tasks._replace(values={METRIC: np.where(gone, np.nan, tasks.values[METRIC])})
    assert compare_one(blank).mean == pytest.approx(compare_one(take(tasks, ~gone)).mean)


@pytest.mark.parametrize("unit", list(Unit))
def test_without_an_effect_a_look_every_five_minutes_is_rarely_wrong(unit: Unit) -> None:
    def is_wrong(found: Comparison) -> bool:
        return found.effects[0].verdict is not Verdict.OPEN

    world = World(tasks_per_block=40, agents=20)
    runs = 100
    wrong = sum(is_wrong(compare(draw_tasks(seed, unit, 0.0, world), NAMES[0])) for seed in range(runs))
    assert wrong <= 0.1 * runs
