"""Each feature recovers the effect that the generator plants, and not only the number of reports.

What the generator does not plant, a change of accuracy and of the rate of reports, is planted here.
"""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipelines.synthetic.messages import Mix
from pipelines.synthetic.records.effects import (
    EXPERIENCE,
    TREATMENT,
    WORKLOAD,
    compute_task_effect,
    compute_workload,
    count_earlier,
)
from pipelines.synthetic.records.tasks import METADATA, TREATED
from pipelines.synthetic.records.world import World, build_world
from pipelines.synthetic.reports import KpiTestGenerator
from schemas.tables import TIME
from tests.transforms.derived.feature_rows import derive

AGENTS, HOURS = 12, 12
MINUTE_US, HOUR_US = 60_000_000, 3_600_000_000
CLEAN = Mix(24_000, dirty=0, duplicates=0, late=0, outliers=0)
DECLINE = 0.0005
"""What the accuracy of one agent loses each minute of the last hour."""


@dataclass(frozen=True)
class Found:
    """The features of all reports beside what is true of them, and the agents with a role."""

    rows: pd.DataFrame
    world: World
    declining: str
    quiet: str

    def last_hour(self, agent: str) -> pd.DataFrame:
        """The rows of an agent of the last 10 minutes: their windows are in the last 72."""
        end = self.rows["recorded_at"].max()
        return self.rows[
            (self.rows["agent_id"] == agent) & (self.rows["recorded_at"] > end - timedelta(minutes=10))
        ]

    def name(self, agent: int | None) -> str:
        assert agent is not None
        return self.world.fleet.ids[agent].as_py()


@pytest.fixture(scope="module")
def found() -> Found:
    generator = KpiTestGenerator(agents=AGENTS, seed=3, span=timedelta(hours=HOURS))
    world = build_world(generator, "normal", CLEAN, inconsistent=0)
    roles = world.roles
    spare = [
        n
        for n in range(AGENTS)
        if n not in (roles.degrading, roles.correlated, roles.outlier, roles.changing)
    ]
    truth, stored = build_tables(world, *spare[:2])
    rows = derive(stored, threads=2).to_pandas().merge(truth, on="report_id")
    names = world.fleet.ids.to_pylist()
    return Found(rows, world, names[spare[0]], names[spare[1]])


def build_tables(world: World, declining: int, quiet: int) -> tuple[pd.DataFrame, dict[str, pa.Table]]:
    """What is true of each report, and the stored tables, as if all had come in time."""
    columns, tasks, fleet = world.columns, world.tasks, world.fleet
    count, recorded = len(columns.recorded), columns.recorded
    since_last_hour = np.clip(recorded - recorded.max() + HOUR_US, 0, None) / MINUTE_US
    accuracy = columns.metrics["accuracy"] - DECLINE * since_last_hour * (columns.agent == declining)
    names = np.array([f"{number:05d}" for number in range(count)])
    types = np.array(fleet.task_types)[tasks.target]
    latency = columns.metrics["latency"]
    ids = fleet.ids.take(pa.array(columns.agent))
    effect = compute_task_effect(tasks)
    level = np.log(fleet.levels["latency"][columns.agent])
    typical = pd.Series(level).groupby(types).transform("mean").to_numpy()
    truth = pd.DataFrame({
        "report_id": names, "agent": columns.agent, "log_latency": np.log(latency), "effect": effect,
        "level": level, "expected": typical + effect, "payload": tasks.payload_bytes,
        "earlier": count_earlier(columns.agent), "busy": compute_workload(world.moments),
        "treated": tasks.metadata == TREATED, "score": accuracy * 1000 / (1000 + latency),
    })  # fmt: skip
    reports = pa.table({
        "report_id": names, "task_id": names, "agent_id": ids, "recorded_at": pa.array(recorded, TIME),
        "received_at": pa.array(recorded + 1_000_000, TIME), "latency_ms": latency, "accuracy": accuracy,
        "cpu_usage": columns.metrics["cpu"], "memory_mb": columns.metrics["memory"],
        "performance_score": truth["score"].to_numpy(), "hour_of_day": pa.nulls(count, pa.int32()),
        "day_of_week": pa.nulls(count, pa.int32()),
    })  # fmt: skip
    # One agent reports less and less in the last hour: each stays with the share that is left.
    share = np.random.default_rng(0).random(count)
    kept = (columns.agent != quiet) | (share > since_last_hour / 60)
    metadata = pa.array([list((each or {}).items()) for each in METADATA], pa.map_(pa.string(), pa.string()))
    records = pa.table({
        "task_id": names, "version": names, "created_at": pa.array(tasks.created, TIME),
        "effective_at": pa.array(tasks.created + 100_000, TIME), "priority": tasks.priority,
        "target_agent_type": types, "max_cpu_cores": tasks.cores, "max_memory_mb": tasks.memory,
        "max_execution_time_secs": tasks.seconds, "payload_bytes": tasks.payload_bytes,
        "max_network_mbps": pa.array(tasks.network, mask=tasks.network == 0),
        "metadata": metadata.take(pa.array(tasks.metadata)),
    })  # fmt: skip
    own = np.array(fleet.task_types)[fleet.types]
    agents = pa.table({"agent_id": fleet.ids, "version": fleet.ids, "agent_type": own,
                       "effective_at": pa.nulls(len(own), TIME)})  # fmt: skip
    hours = pd.DataFrame({"agent": ids.to_pylist(), "hour": recorded // HOUR_US}).value_counts().reset_index()
    starts = hours["hour"].to_numpy() * HOUR_US
    windows = pa.table({
        "granularity": ["1h"] * len(hours), "agent_id": pa.array(hours["agent"].to_list()),
        "time_window_start": pa.array(starts, TIME), "time_window_end": pa.array(starts + HOUR_US, TIME),
        "task_count": hours["count"].to_numpy(),
    })  # fmt: skip
    stored = {"tasks": records, "agents": agents, "kpi_aggregations": windows}
    return truth, stored | {"kpi_reports": reports.filter(pa.array(kept))}


def slope_and_error(x: pd.Series, y: pd.Series) -> tuple[float, float]:
    """Of y on x by least squares."""
    dx, dy = x - x.mean(), y - y.mean()
    slope = float((dx * dy).sum() / (dx**2).sum())
    return slope, float(np.sqrt(((dy - slope * dx) ** 2).sum() / (len(x) - 2) / (dx**2).sum()))


def unexplained(found: Found) -> pd.Series:
    """Of log latency, what neither the task nor the agent's level explains."""
    rows = found.rows
    rest = rows["log_latency"] - rows["effect"] - rows["level"]
    return rest[rows["agent"] != found.world.roles.degrading]


def test_complexity_is_the_expected_latency_of_the_task_and_not_the_size_of_its_payload(found: Found) -> None:
    rows = found.rows[found.rows["task_complexity_score"].notna()]
    assert len(rows) > 20_000
    ranks = rows[["task_complexity_score", "expected", "payload", "log_latency"]].corr("spearman")
    assert ranks["task_complexity_score"]["expected"] > 0.9
    assert ranks["payload"]["expected"] < 0.5
    late = rows[rows["recorded_at"] > rows["recorded_at"].max() - timedelta(hours=6)]
    assert slope_and_error(np.log(late["task_complexity_score"]), late["expected"])[0] == pytest.approx(
        1, abs=0.1
    )


def test_the_latency_of_the_degrading_agent_rises_and_that_of_others_does_not(found: Found) -> None:
    rows = found.rows
    degrading = found.last_hour(found.name(found.world.roles.degrading))
    assert (degrading["latency_trend"] / degrading["latency_trend_se"]).median() > 3
    # Busy phases of 20 minutes make others slower for a time, so their lines rise and fall too, in turns.
    others = rows[rows["agent"] != found.world.roles.degrading]
    z = (others["latency_trend"] / others["latency_trend_se"]).dropna()
    assert z.groupby(others["agent"]).mean().abs().max() < 1


def test_standard_errors_are_as_large_as_the_errors_of_trends_where_nothing_changes() -> None:
    agents, random = 400, np.random.default_rng(8)
    counts = random.poisson(40, agents)
    agent = np.repeat(np.arange(agents), counts + 1)
    recorded = random.integers(8 * MINUTE_US, 68 * MINUTE_US, len(agent))
    recorded[np.cumsum(counts + 1) - 1] = 70 * MINUTE_US
    reports = pa.table({
        "report_id": [str(number) for number in range(len(agent))], "agent_id": agent.astype(str),
        "recorded_at": pa.array(recorded, TIME), "latency_ms": np.exp(random.normal(5, 0.3, len(agent))),
        "accuracy": random.normal(0.5, 0.1, len(agent)), "performance_score": random.random(len(agent)),
        "cpu_usage": random.random(len(agent)), "memory_mb": random.random(len(agent)),
    })  # fmt: skip
    rows = derive({"kpi_reports": reports}).to_pandas()
    last = rows[rows["recorded_at"] == rows["recorded_at"].max()]
    assert len(last) == agents
    for name in ("latency", "accuracy", "throughput"):
        z = last[f"{name}_trend"] / last[f"{name}_trend_se"]
        assert abs(z.mean()) < 0.2, name
        assert z.std() == pytest.approx(1, abs=0.12), name


def test_accuracy_and_throughput_fall_where_they_do(found: Found) -> None:
    declining, quiet = found.last_hour(found.declining), found.last_hour(found.quiet)
    assert (declining["accuracy_trend"] / declining["accuracy_trend_se"]).median() < -3
    assert (quiet["throughput_trend"] / quiet["throughput_trend_se"]).median() < -3
    assert declining["accuracy_trend"].median() == pytest.approx(-DECLINE, rel=0.3)


def test_experience_explains_latency(found: Found) -> None:
    rows = found.rows.loc[unexplained(found).index]
    rows = rows.assign(rest=unexplained(found) - WORKLOAD * rows["busy"])[rows["experience_tasks"] >= 50]
    assert rows[["experience_tasks", "earlier"]].corr("spearman").iloc[0, 1] > 0.9
    slope, error = slope_and_error(np.log1p(rows["experience_tasks"]), rows["rest"])
    assert slope < -3 * error
    assert slope == pytest.approx(EXPERIENCE, abs=0.015)


def test_workload_explains_latency(found: Found) -> None:
    rows = found.rows.loc[unexplained(found).index].assign(rest=unexplained(found))
    rows = rows[rows["workload"].notna() & (rows["agent"] != found.world.roles.outlier)]
    rest = rows["rest"] - EXPERIENCE * np.log1p(rows["earlier"])
    assert rows[["workload", "busy"]].corr("spearman").iloc[0, 1] > 0.4
    slope, error = slope_and_error(rows["workload"], rest)
    assert slope > 3 * error


def test_the_correlated_agent_is_the_one_whose_resources_follow_its_latency(found: Found) -> None:
    means = found.rows.groupby("agent_id")[["cpu_correlation", "memory_correlation"]].mean()
    correlated = means.loc[found.name(found.world.roles.correlated)]
    assert correlated.min() > 0.5
    assert means.drop(correlated.name).abs().max().max() < 0.2


def test_fitness_ranks_agents_as_they_are(found: Found) -> None:
    rows = found.rows[found.rows["recorded_at"] > found.rows["recorded_at"].min() + timedelta(hours=2)]
    means = rows.groupby("agent_id")[["agent_fitness_score", "score", "trend_n"]].mean().corr("spearman")
    assert means.loc["agent_fitness_score", "score"] > 0.9
    assert abs(means.loc["agent_fitness_score", "trend_n"]) < 0.7


def test_the_variant_of_the_experiment_has_its_effect(found: Found) -> None:
    rows = found.rows.assign(rest=found.rows["log_latency"] - found.rows["level"])
    routing = rows[rows["experiment"] == "routing"]
    means = routing.groupby("variant")["rest"].mean()
    assert means["treatment"] - means["control"] == pytest.approx(TREATMENT, abs=0.03)
