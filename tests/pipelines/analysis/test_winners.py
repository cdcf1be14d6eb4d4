"""The winner of an experiment: when there is one, when there is none and why, and how often it is wrong."""

import numpy as np
import pytest

from pipelines.analysis.tasks import Tasks, Unit
from pipelines.analysis.winners import BETTER, LEVEL, Winner, find_winner, select_tasks
from tests.pipelines.analysis.worlds import World, draw_metrics

HALF_DAY = World(blocks=144)


def draw(seed: int, unit: Unit = Unit.TASK, world: World = HALF_DAY, **effects: float) -> Tasks:
    return draw_metrics(seed, unit, world, **effects)


def win(tasks: Tasks) -> Winner:
    found = find_winner(tasks)
    assert isinstance(found, Winner), found
    return found


@pytest.mark.parametrize("metric", BETTER)
def test_a_variant_that_is_better_in_a_metric_and_worse_in_none_wins(metric: str) -> None:
    better = 0.1 if BETTER[metric] == "higher" else -0.1
    found = win(draw(1, **{metric: better}))
    assert (found.variant, found.gain.metric, found.others) == ("treatment", metric, ())
    assert found.gain.p <= LEVEL
    assert np.sign(found.gain.low) == np.sign(found.gain.high) == np.sign(better)
    assert "no variant is seen to be better" in str(find_winner(draw(1, **{metric: -better})))


def test_a_variant_that_is_worse_in_another_metric_does_not_win() -> None:
    reason = find_winner(draw(2, latency_ms=-0.1, memory_mb=0.1))
    assert reason == "treatment is better in one metric and worse in another"


def test_what_is_seen_after_the_verdict_is_of_later_tasks_only() -> None:
    tasks = draw(3, latency_ms=-0.1)
    found = win(tasks)
    assert found.gain.since is not None
    later = select_tasks(tasks, np.flatnonzero(tasks.block > found.gain.since))
    assert found.after.units == len(np.unique(later.block))
    assert found.after.high is not None
    assert found.after.high < 0
    soon = win(select_tasks(tasks, np.flatnonzero(tasks.block <= found.gain.since)))
    assert soon.after.reason == "no tasks of both came after it"
    turned = np.where((tasks.block > found.gain.since) & (tasks.variant == 1), 1.08, 1.0)
    turned = win(tasks._replace(values=tasks.values | {"latency_ms": tasks.values["latency_ms"] * turned}))
    assert turned.after.difference > found.after.difference


def test_a_winner_is_found_where_agents_were_assigned_and_differ_little() -> None:
    found = win(draw(4, Unit.AGENT, accuracy=0.3))
    assert (found.gain.metric, found.after.metric) == ("accuracy", "accuracy")


def test_where_compare_refuses_there_is_no_winner_and_the_reason_is_named() -> None:
    tasks = draw(5, latency_ms=-1.0)
    assert "no task has the variant control" in str(find_winner(tasks._replace(names=("a", "b"))))
    alone = select_tasks(tasks, np.flatnonzero(tasks.variant == 0))
    assert "all tasks have the variant control" in str(find_winner(alone))
    kept = np.flatnonzero((tasks.variant == 0) | (np.arange(len(tasks.block)) % 2 == 0))
    assert "do not have the planned shares" in str(find_winner(select_tasks(tasks, kept)))
    few = draw(5, world=World(blocks=19), latency_ms=-1.0)
    assert "19 blocks of 5 minutes with tasks of both; 20 are needed" in str(find_winner(few))
    mixed = tasks._replace(variant=np.where(tasks.agent % 2, tasks.agent % 4 // 2, tasks.variant))
    assert "say with --unit what was assigned" in str(find_winner(mixed))


def test_of_two_variants_that_are_better_none_is_chosen() -> None:
    tasks = draw(6, latency_ms=-0.1)
    halves = np.where(tasks.variant == 1, 1 + tasks.agent % 2, 0)
    three = tasks._replace(names=("control", "one", "two"), variant=halves)
    thirds = np.flatnonzero((halves > 0) | (np.arange(len(halves)) % 2 == 0))
    found = find_winner(select_tasks(three, thirds))
    assert found == "2 variants are better than the control: compare them with each other"


def test_without_an_effect_hardly_any_experiment_ever_has_a_winner() -> None:
    world = World(blocks=60, tasks_per_block=40)
    found = [find_winner(draw(seed, world=world)) for seed in range(100)]
    assert sum(isinstance(each, Winner) for each in found) <= 4
