"""Comparing variants: what is concluded, when it is not, and how often it is wrong."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.analysis.comparison import Comparison, Effect, Verdict, compare, compare_agents
from pipelines.analysis.question import parse_agents, parse_measures, parse_shares
from pipelines.analysis.tasks import Measure, Tasks, Unit
from pipelines.failures import WrongUse
from tests.pipelines.analysis.worlds import METRIC, NAMES, World, draw_tasks

HALF_DAY = World(blocks=144)
MEAN, P95 = Measure(METRIC), Measure(METRIC, 95.0)


def compare_one(tasks: Tasks, measure: Measure = MEAN) -> Effect:
    """The only effect of a comparison."""
    (effect,) = compare(tasks, NAMES[0], [measure]).effects
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
    found = compare(draw_tasks(2, Unit.AGENT, 1.0, World(agents=100)), NAMES[0], [MEAN])
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
    measures = [MEAN, *map(Measure, sized)]
    effects = compare(tasks._replace(values={**tasks.values, **sized}), NAMES[0], measures).effects
    first = next(each for each in effects if each.metric == METRIC)
    assert first.p == pytest.approx(10 * alone.p)
    assert first.since is not None
    assert alone.since is not None
    assert first.since >= alone.since


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        (draw_tasks(4, Unit.TASK, 1.0, World(blocks=19)), "19 blocks of 5 minutes with tasks of both"),
        (draw_tasks(4, Unit.AGENT, 1.0, World(blocks=11)), "the first look is after 60 minutes"),
        (draw_tasks(4, Unit.AGENT, 1.0, World(agents=8)), "a variant has 4 different agents"),
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
    found = compare(take(tasks, ~lost), NAMES[0], [MEAN])
    assert found.ratio_p < 1e-6
    assert [each.verdict for each in found.effects] == [Verdict.REFUSED]
    planned = compare(take(tasks, ~lost), NAMES[0], [MEAN], shares={"control": 1.0, "treatment": 0.9})
    assert [each.verdict for each in planned.effects] == [Verdict.HIGHER]


@pytest.mark.parametrize(
    "words",
    [
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
        parse_shares(words)
    assert parse_shares(["a=1e-6", "b=0.5"]) == {"a": 1e-6, "b": 0.5}


def test_tasks_of_which_nobody_can_say_what_was_assigned_need_the_unit() -> None:
    tasks = draw_tasks(6, Unit.TASK, 0.5)
    mixed = take(tasks, (tasks.agent >= 10) | (tasks.variant == tasks.agent % 2))
    found = compare(mixed, NAMES[0], [MEAN])
    assert found.unit is None
    assert "--unit" in found.reason
    named = compare(mixed, NAMES[0], [MEAN], unit=Unit.TASK)
    assert [each.verdict for each in named.effects] == [Verdict.HIGHER]


def test_unknown_values_are_left_out() -> None:
    tasks = draw_tasks(7, Unit.TASK, 0.2, HALF_DAY)
    gone = np.arange(len(tasks.block)) % 3 == 0
    blank = tasks._replace(values={METRIC: np.where(gone, np.nan, tasks.values[METRIC])})
    assert compare_one(blank).value == pytest.approx(compare_one(take(tasks, ~gone)).value)


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize("measure", [MEAN, P95], ids=str)
def test_without_an_effect_a_look_every_five_minutes_is_rarely_wrong(unit: Unit, measure: Measure) -> None:
    def is_wrong(found: Comparison) -> bool:
        return found.effects[0].verdict is not Verdict.OPEN

    world = World(tasks_per_block=20, agents=20)
    runs = 100 if measure is MEAN else 20
    drawn = (draw_tasks(seed, unit, 0.0, world) for seed in range(runs))
    wrong = sum(is_wrong(compare(tasks, NAMES[0], [measure])) for tasks in drawn)
    assert wrong <= 0.1 * runs


def test_an_effect_on_the_slowest_tasks_only_is_found_in_their_quantile() -> None:
    tasks = draw_tasks(8, Unit.TASK)
    values = tasks.values[METRIC]
    is_slow = (tasks.variant == 1) & (values > np.quantile(values, 0.9))
    slower = tasks._replace(values={METRIC: np.where(is_slow, values * 1.5, values)})
    effect = compare_one(slower, P95)
    assert effect.metric == "latency_ms:p95"
    assert effect.verdict is Verdict.HIGHER
    assert effect.low is not None
    assert 0 < effect.low < effect.value - effect.control < (effect.high or 0)
    assert compare_one(slower, Measure(METRIC, 50.0)).verdict is Verdict.OPEN


def test_the_error_of_a_quantile_is_that_of_agents_not_of_their_tasks() -> None:
    tasks = draw_tasks(9, Unit.TASK)
    more = Tasks(*(np.repeat(each, 4) if isinstance(each, np.ndarray) else each for each in tasks))
    more = more._replace(values={METRIC: np.repeat(tasks.values[METRIC], 4)})
    one, four = compare_one(tasks, P95), compare_one(more, P95)
    assert (one.low, one.high) == (four.low, four.high)


def test_a_quantile_of_few_agents_is_no_conclusion() -> None:
    effect = compare_one(draw_tasks(10, Unit.TASK, 1.0, World(agents=9)), P95)
    assert effect.reason == "a variant has 9 different agents; 10 are needed"


def test_sets_of_agents_are_compared_as_agents_whatever_their_sizes() -> None:
    tasks = draw_tasks(11, Unit.AGENT, 1.0, World(agents=100))
    few = take(tasks, (tasks.variant == 0) | (tasks.agent < 40))
    found = compare_agents(few, NAMES[0], [MEAN])
    assert (found.unit, found.is_assigned, found.ratio_p) == (Unit.AGENT, False, None)
    assert found.counts["treatment"] < found.counts["control"] == 50
    assert [each.verdict for each in found.effects] == [Verdict.HIGHER]


def test_measures_are_names_of_metrics_with_or_without_a_percentile() -> None:
    assert parse_measures(["latency_ms:p99.9", "latency_ms"]) == [Measure("latency_ms", 99.9), MEAN]
    for word in ("latency_ms:", "latency_ms:95", "latency_ms:p0", "latency_ms:p100", "latency", ":p95"):
        with pytest.raises(WrongUse):
            parse_measures([word])


def test_sets_of_agents_are_listed_or_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "fast").write_text("c\n d \n\n")
    assert parse_agents(["a=1,2", f"b=@{tmp_path / 'fast'}"]) == {"a": ["1", "2"], "b": ["c", "d"]}
    for words in (["a"], ["=x"], ["a="], ["a=1", "a=2"], ["a=1,2", "b=2"], [f"a=@{tmp_path / 'none'}"]):
        with pytest.raises(WrongUse):
            parse_agents(words)


@pytest.mark.parametrize("unit", [Unit.TASK, Unit.AGENT])
@pytest.mark.parametrize("measure", [MEAN, P95])
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1.7e308])
def test_values_that_overflow_are_no_conclusion(unit: Unit, measure: Measure, value: float) -> None:
    tasks = draw_tasks(5, Unit.TASK, 0.0, HALF_DAY)
    values = np.where(np.arange(len(tasks.block)) == 7, value, tasks.values[METRIC])
    (effect,) = compare(tasks._replace(values={METRIC: values}), NAMES[0], [measure], unit=unit).effects
    assert effect.verdict is Verdict.REFUSED
    assert effect.reason == "latency_ms is infinite or above 1e+100 in 1 task"
    assert np.isnan(effect.value) or np.isnan(effect.control)


@pytest.mark.parametrize("unit", [Unit.TASK, Unit.AGENT])
def test_one_agent_equal_values_and_clocks_that_jump_are_no_fault(unit: Unit) -> None:
    tasks = draw_tasks(5, Unit.TASK, 0.0, HALF_DAY)
    alone = tasks._replace(agent=np.zeros_like(tasks.agent))
    (effect,) = compare(alone, NAMES[0], [MEAN], unit=unit).effects
    assert effect.verdict is (Verdict.OPEN if unit is Unit.TASK else Verdict.REFUSED)
    constant = tasks._replace(values={METRIC: np.ones(len(tasks.block))})
    assert compare(constant, NAMES[0], [MEAN], unit=unit).effects[0].reason
    first = np.concatenate([[-(2**50)], tasks.block[1:-1], [2**50]])
    (effect,) = compare(tasks._replace(block=first), NAMES[0], [MEAN], unit=unit).effects
    assert effect.verdict in (Verdict.OPEN, Verdict.REFUSED)


def test_each_of_two_hundred_variants_has_an_answer() -> None:
    tasks = draw_tasks(6, Unit.TASK, 0.0, HALF_DAY)
    chance = np.random.default_rng(1)
    many = tasks._replace(
        names=("control", *(f"v{n}" for n in range(1, 200))),
        variant=chance.integers(0, 200, len(tasks.block)),
    )
    effects = compare(many, "control", [MEAN], unit=Unit.TASK).effects
    assert len(effects) == 199
    assert not {Verdict.HIGHER, Verdict.LOWER} & {each.verdict for each in effects}
