"""Each column of features on a few rows, by values computed by hand or by a plain formula."""

import math
from typing import Any

import numpy as np
import pytest

from tests.transforms.derived.contexts import Row, agent, task
from tests.transforms.derived.feature_rows import HOUR, MINUTE, find, past, report, window


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-5, abs=1e-6)


def test_a_report_without_records_has_its_own_context_and_no_past() -> None:
    fields = {"priority": 75, "source_layer": "layer2", "target_agent_type": "gpu"}
    row = find([report(**fields)])["r"]
    assert {name: row[name] for name in fields} == fields
    assert (row["context_state"], row["agent_type"], row["priority_encoded"]) == ("missing", "gpu", 3)
    assert (row["experience_tasks"], row["experience_level"]) == (0, "new")
    assert [row[name] for name in row if name.endswith("_n")] == [0, 0, 0, 0]
    null = {"workload", "workload_level", "latency_trend", "throughput_trend", "task_complexity_score"}
    null |= {"resource_correlation", "agent_fitness_score", "agent_fitness_weight", "experiment", "variant"}
    assert {name for name in null if row[name] is not None} == set()


def test_the_context_is_that_of_the_task_and_of_the_agent() -> None:
    fields = {"priority": 100, "source_layer": "layer3", "target_agent_type": "x"}
    metadata = [("experiment", "routing"), ("variant", "b"), ("other", "c")]
    own = report(priority=1, source_layer="layer2", target_agent_type="y")
    row = find([own], [task(**fields, metadata=metadata)], [agent(agent_type="trainer")])["r"]
    assert {name: row[name] for name in fields} == fields
    assert (row["context_state"], row["agent_type"], row["priority_encoded"]) == ("complete", "trainer", 4)
    assert (row["experiment"], row["variant"]) == ("routing", "b")


VERSIONS: dict[str, list[Row]] = {
    "in time": [task(received=61, source_layer="in time")],
    "too late": [task(received=61.1)],
    "old": [task(created=-24 * HOUR, source_layer="old")],
    "too old": [task(created=-24 * HOUR - 1)],
    "of a fast clock": [task(created=9, received=None, source_layer="of a fast clock")],
    "newest": [task(), task(received=5, version="v0", source_layer="newest")],
    "largest": [task(), task(version="v2", source_layer="largest")],
    "without what is too old": [
        task(source_layer="without what is too old"),
        task(created=-25 * HOUR, received=1, version="v2"),
    ],
    "known": [task(source_layer="known"), task(received=62, version="v2")],
}


def test_the_task_is_the_newest_version_that_was_known() -> None:
    reports = [report(name, task_id=name) for name in VERSIONS]
    tasks = [row | {"task_id": name} for name, rows in VERSIONS.items() for row in rows]
    found = find(reports, tasks, [agent()])
    unknown = {"too late", "too old"}
    assert {name: row["source_layer"] for name, row in found.items()} == {
        name: None if name in unknown else name for name in VERSIONS
    }
    assert {name for name, row in found.items() if row["context_state"] == "missing"} == unknown


TYPES: dict[str, list[Row]] = {
    "newest": [agent(agent_type="x"), agent(received=61, version="v0", agent_type="newest")],
    "known": [agent(agent_type="known"), agent(received=62, version="v2", agent_type="x")],
    "largest": [agent(agent_type="x"), agent(version="v2", agent_type="largest")],
    "since ever": [agent(received=None, agent_type="since ever")],
    "timed": [agent(received=None, version="v2", agent_type="x"), agent(agent_type="timed")],
    "changed back": [
        agent(received=-90, agent_type="changed back"),
        agent(received=-60, version="v2", agent_type="x"),
        agent(received=-30, version="v3", agent_type="changed back"),
    ],
    "unknown": [],
}


def test_the_type_is_that_of_the_agents_newest_version_that_was_known() -> None:
    agents = [row | {"agent_id": name} for name, rows in TYPES.items() for row in rows]
    found = find([report(name, agent_id=name) for name in TYPES], [], agents)
    assert {name: row["agent_type"] for name, row in found.items()} == {
        name: None if name == "unknown" else name for name in TYPES
    }


def test_the_category_is_the_first_one_that_has_a_word_of_the_type() -> None:
    expected = {"GPU-Trainer": "training", "text prediction": "inference", "janitor": "other", None: None}
    reports = [report(str(kind), target_agent_type=kind) for kind in expected]
    rows = find(reports, agent_type_categories="training=train,Learn;inference=predict,train")
    assert {row["agent_type"]: row["agent_type_category"] for row in rows.values()} == expected


def test_experience_counts_the_windows_of_a_week_that_are_settled() -> None:
    windows = [window(-168, 1), window(-169, 10), window(-2, 100), window(-1, 1000), window(-3, 7, "b")]
    windows += [window(-3, 7, granularity="1m")]
    at_noon, later = report("r", 2 * MINUTE), report("l", 2 * MINUTE - 0.001)
    rows = find([at_noon, later, report("on", 0)], [], [], windows)
    assert {name: row["experience_tasks"] for name, row in rows.items()} == {"r": 100, "l": 0, "on": 1}
    assert rows["r"]["experience_level"] == "medium"


def test_levels_of_experience_are_powers_of_a_step() -> None:
    levels = {9: "new", 10: "low", 99: "low", 100: "medium", 999: "medium", 1000: "high"}
    reports = [report(str(count), agent_id=str(count)) for count in levels]
    rows = find(reports, [], [], [window(-20, count, str(count)) for count in levels])
    assert {row["experience_tasks"]: row["experience_level"] for row in rows.values()} == levels


def test_trends_are_lines_through_the_hour_before() -> None:
    latency, accuracy = [100.0, 130.0, 110.0, 180.0], [0.9, 0.8, 0.85, 0.7]
    minutes = [-62, -30, -30, -3]
    row = find([*past(*minutes, latency_ms=latency, accuracy=accuracy), report()])["r"]
    assert row["trend_n"] == 4
    for name, values in (("latency", latency), ("accuracy", accuracy)):
        (slope, _), residual = np.polyfit(minutes, values, 1, full=True)[:2]
        spread = np.var(minutes) * 4
        assert row[f"{name}_trend"] == near(slope)
        assert row[f"{name}_trend_se"] == near(math.sqrt(residual[0] / 2 / spread))


def test_only_what_feeds_the_minutes_before_is_in_the_trends() -> None:
    outside = [*past(-63, -2, 0), report("late", -10 * MINUTE, late=61)]
    other = report("other", -10 * MINUTE, agent_id="b")
    inside = [*past(-62, -3, name="i"), report("in time", -10 * MINUTE, late=60)]
    rows = find([*outside, other, *inside, report("n", -11 * MINUTE, late=None), report()])
    assert rows["r"]["trend_n"] == 4
    assert rows["late"]["trend_n"] == 2


@pytest.mark.parametrize("minutes", [(-5, -4), (-5, -5, -5)])
def test_two_reports_or_one_minute_make_no_line(minutes: tuple[float, ...]) -> None:
    row = find([*past(*minutes), report()])["r"]
    assert (row["trend_n"], row["latency_trend"], row["latency_trend_se"]) == (len(minutes), None, None)


def test_throughput_is_that_of_the_minutes_after_the_first_report() -> None:
    row = find([*past(-8, -8, -6, -5, -5, -4, -4, -4), report()])["r"]
    x, y = np.arange(-7, -2), np.array([0, 1, 2, 3, 0])
    slope, residual = np.polyfit(x, y, 1)[0], np.polyfit(x, y, 1, full=True)[1][0]
    assert row["throughput_trend_n"] == 5
    assert row["throughput_trend"] == near(slope)
    assert row["throughput_trend_se"] == near(math.sqrt(residual / 3 / 10))


def test_workload_is_the_busy_time_of_five_minutes_over_the_usual() -> None:
    latency = [500.0, 100.0, 300.0, 200.0, 400.0]
    row = find([*past(-40, -20, -8, -7, -3, latency_ms=latency), report()])["r"]
    usual, mean = (100 + 300) / 32, 1500 / 5
    assert row["workload"] == near((600 + mean) / (5 * usual + mean))
    assert row["workload_level"] == "high"
    assert find([*past(-17), report()])["r"]["workload"] is None
    alone = find([*past(-18), report()], workload_low=0.4)["r"]
    assert (alone["workload"], alone["workload_level"]) == (1, "normal")


def test_a_workload_that_equals_the_bound_of_a_level_is_normal() -> None:
    """(0 + b) / (5 U / L + b) is 1/2 exactly where 5 U / L = b: here 5 * 2 / 10 tasks of one latency."""
    row = find([*past(-18, -17, -9, latency_ms=[700.1] * 3), report()])["r"]
    assert (row["workload"], row["workload_level"]) == (0.5, "normal")


def test_correlations_are_those_of_the_ranks_in_the_settled_hour() -> None:
    latency, cpu, memory = [1.0, 2, 2, 9], [0.1, 0.2, 0.3, 0.4], [4.0, 3, 2, 1]
    columns = {"latency_ms": latency, "cpu_usage": cpu, "memory_mb": memory}
    hour = past(-60, -59, -2, -1, **columns)
    outside = [*past(-61, 0, 1, name="o"), report("late", -20 * MINUTE, late=61)]
    rows = find([*hour, *outside, report("r", 2 * MINUTE), report("b", 1.9 * MINUTE)], correlation_reports=4)
    ranks = [1, 2.5, 2.5, 4]
    expected = np.corrcoef(ranks, [1, 2, 3, 4])[0, 1]
    row = rows["r"]
    assert row["resource_correlation_n"] == 4
    assert row["cpu_correlation"] == near(expected)
    assert row["memory_correlation"] == near(-expected)
    assert row["resource_correlation"] == row["cpu_correlation"]
    assert rows["b"]["resource_correlation_n"] == 1


def test_too_few_or_equal_values_have_no_correlation() -> None:
    columns = {"latency_ms": [1.0, 2, 3], "memory_mb": [1.0, 3, 2]}
    reports = [*past(-30, -20, -10, **columns), report("r", 2 * MINUTE)]
    row = find(reports, correlation_reports=3)["r"]
    assert (row["cpu_correlation"], row["resource_correlation"]) == (None, near(0.5))
    assert find(reports)["r"]["resource_correlation"] is None


def plain_fitness(own: list[float], cells: list[list[float]]) -> tuple[float, float]:
    """Score and weight, as docs/columns.md has them."""
    every = np.concatenate(cells)
    count, agents = len(every), len(cells)
    between = sum(len(cell) * np.mean(cell) ** 2 for cell in cells) - count * every.mean() ** 2
    within = sum(float(np.sum((cell - np.mean(cell)) ** 2)) for cell in cells)
    sigma2 = within / (count - agents)
    balance = count - sum(len(cell) ** 2 for cell in cells) / count
    tau2 = max(0.0, (between - (agents - 1) * sigma2) / balance)
    variance = (np.sum((own - np.mean(own)) ** 2) + sigma2) / len(own)
    weight = tau2 / (tau2 + variance / len(own))
    return weight * np.mean(own) + (1 - weight) * every.mean(), weight


def test_fitness_is_shrunk_towards_the_type_by_its_variance() -> None:
    cells = {"a": [0.5, 0.6], "b": [0.7, 0.72, 0.71], "c": [0.4, 0.42], "d": [0.1, 0.9]}
    reports = [
        report(f"{name}{place}", -20 * MINUTE + place, agent_id=name, performance_score=score)
        for name, scores in cells.items()
        for place, score in enumerate(scores)
    ]
    agents = [agent(name, -2 * HOUR, agent_type="y" if name == "d" else "x") for name in cells]
    now = [
        report("r", 2 * MINUTE),
        report("d", 2 * MINUTE, agent_id="d"),
        report("n", 2 * MINUTE, agent_id="b"),
    ]
    rows = find([*reports, *now], [], agents)
    score, weight = plain_fitness(cells["a"], [cells[name] for name in "abc"])
    assert 0.1 < weight < 0.999
    assert (rows["r"]["agent_fitness_score"], rows["r"]["agent_fitness_weight"]) == (
        near(score),
        near(weight),
    )
    assert (rows["d"]["agent_fitness_score"], rows["d"]["agent_fitness_weight"]) == (near(0.5), 1)
    new = find([*reports, report("r", 2 * MINUTE, agent_id="e")], [], [*agents, agent("e", agent_type="x")])[
        "r"
    ]
    mean = np.mean([score for name in "abc" for score in cells[name]])
    assert (new["agent_fitness_score"], new["agent_fitness_weight"]) == (near(mean), 0)


def plain_complexity(tasks: list[Row], latency: np.ndarray, asked: Row) -> float:
    """The score of a task as docs/columns.md has it, from a day of tasks and their latencies."""

    def log1p(value: int | None) -> float:
        return 0 if value is None else math.log1p(value)

    def regress(row: Row) -> list[float]:
        cores, network = row["max_cpu_cores"], row["max_network_mbps"]
        return [
            log1p(row["payload_bytes"]),
            cores is not None,
            0 if cores is None else math.log(cores),
            log1p(row["max_memory_mb"]),
            log1p(row["max_execution_time_secs"]),
            network is not None,
            log1p(network),
            *(float(row["priority"] == priority) for priority in (25, 50, 75, 100)),
        ]

    x, y = np.array([regress(row) for row in tasks], float), np.log(latency)
    kinds = np.array([row["target_agent_type"] for row in tasks])
    means = {kind: (x[kinds == kind].mean(0), y[kinds == kind].mean()) for kind in np.unique(kinds)}
    dx = x - np.array([means[kind][0] for kind in kinds])
    dy = y - np.array([means[kind][1] for kind in kinds])
    s, sy = np.sqrt((dx**2).sum(0)), math.sqrt((dy**2).sum())
    used = s > 1e-9
    z = dx[:, used] / s[used]
    b = np.linalg.solve(z.T @ z + 0.001 * np.eye(used.sum()), z.T @ dy / sy) * sy / s[used]
    mean_x, mean_y = means.get(asked["target_agent_type"], (x.mean(0), y.mean()))
    z = mean_y + b @ (np.array(regress(asked), float) - mean_x)[used]
    return math.exp(min(y.max(), max(y.min(), z)))


def draw_tasks(count: int, quotas: bool = True) -> tuple[list[Row], np.ndarray]:
    random = np.random.default_rng(3)
    rows = []
    for number in range(count):
        has = quotas and random.random() < 0.8
        row = {
            "max_cpu_cores": float(2 ** random.integers(0, 4)) if has else None,
            "max_memory_mb": int(2 ** random.integers(9, 14)) if has else None,
            "max_execution_time_secs": int(random.integers(10, 300)) if has else None,
            "max_network_mbps": int(random.integers(0, 100)) if has and random.random() < 0.5 else None,
            "payload_bytes": int(random.integers(2, 9000)) if random.random() < 0.9 else None,
            "priority": int(random.choice([1, 25, 50, 75, 100])),
            "target_agent_type": str(random.choice(["x", "y", "z"])),
        }
        rows.append(task(f"t{number}", -3 * HOUR, None, **row))
    return rows, np.exp(random.normal(6, 0.5, count))


@pytest.mark.parametrize("quotas", [True, False])
def test_complexity_is_the_latency_that_the_day_before_makes_likely(quotas: bool) -> None:
    tasks, latency = draw_tasks(150, quotas)
    reports = [
        report(
            f"p{number}", -HOUR - number, task_id=f"t{number}", latency_ms=value, agent_id=f"a{number % 7}"
        )
        for number, value in enumerate(latency.tolist())
    ]
    big = {
        "max_cpu_cores": 8.0,
        "max_memory_mb": 9000,
        "max_execution_time_secs": 900,
        "payload_bytes": 20000,
    }
    asked = [
        task("known", **big, priority=100, target_agent_type="x"),
        task("new", **big, priority=1, target_agent_type="new"),
        task("bare", max_cpu_cores=None, max_network_mbps=None, payload_bytes=None, priority=50),
        task("far", **big | {"payload_bytes": 10**15}, priority=100, target_agent_type="x"),
    ]
    now = [report(row["task_id"], 2 * MINUTE, task_id=row["task_id"]) for row in asked]
    rows = find([*reports, *now, report("unknown", 2 * MINUTE, task_id="no")], [*tasks, *asked])
    for row in asked:
        found = rows[row["task_id"]]
        assert found["task_complexity_score"] == near(plain_complexity(tasks, latency, row))
        assert found["task_complexity_n"] == 150
    assert (rows["unknown"]["task_complexity_score"], rows["unknown"]["task_complexity_n"]) == (None, 150)


def test_a_fit_takes_24_hours_before_the_settled_hour_and_enough_reports() -> None:
    at = [-24 * HOUR - 1, -24 * HOUR, -HOUR, -1, 0, HOUR]
    reports = [report(f"p{place}", seconds, task_id="t") for place, seconds in enumerate(at)]
    reports += [report("late", -HOUR, late=61, task_id="t"), report("no task", -HOUR, task_id="no")]
    tasks = [task(created=-30 * HOUR, received=None)]
    settings = {"fit_reports": 20, "context_hours": 168}
    rows = find([*reports, report("r", 2 * MINUTE, task_id="t")], tasks, **settings)
    assert (rows["r"]["task_complexity_n"], rows["r"]["task_complexity_score"]) == (3, None)
    earlier = find([*reports, report("r", 119, task_id="t")], tasks, **settings)["r"]
    assert earlier["task_complexity_n"] == 2


def test_equal_latencies_are_what_is_expected() -> None:
    reports = [report(f"p{number}", -HOUR - number, latency_ms=250.0) for number in range(20)]
    rows = find([*reports, report("r", 2 * MINUTE)], [task(created=-3 * HOUR, received=None)], fit_reports=20)
    assert rows["r"]["task_complexity_score"] == near(250)


def test_a_report_that_was_recorded_long_after_it_was_received_has_no_past() -> None:
    reports = past(*range(-60, -2), latency_ms=range(1, 59))
    in_time, early = report("in time", late=-60), report("early", late=-60.001)
    rows = find([*reports, in_time, early], [task()], [agent()], [window(-20, 50)])
    assert rows["in time"]["trend_n"] == 58
    row = rows["early"]
    assert row["context_state"] == "complete"
    assert [row[name] for name in row if name.endswith("_n")] == [0, 0, 0, 0]
    names = ["experience_tasks", "experience_level", "workload", "workload_level", "latency_trend"]
    names += ["throughput_trend", "task_complexity_score", "agent_fitness_score", "agent_fitness_weight"]
    assert [row[name] for name in names] == [None] * 9


def test_hour_and_day_are_places_on_a_circle() -> None:
    rows = find([report("a", hour_of_day=18, day_of_week=1), report("b", hour_of_day=0, day_of_week=7)])
    circles = {
        name: [round(row[name], 9) for row in rows.values()] for name in rows["a"] if "execution" in name
    }
    assert circles == {
        "execution_hour_sin": [-1, 0],
        "execution_hour_cos": [0, 1],
        "execution_day_sin": [0, round(math.sin(12 * math.pi / 7), 9)],
        "execution_day_cos": [1, round(math.cos(12 * math.pi / 7), 9)],
    }
