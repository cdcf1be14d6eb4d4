"""The rules about distributions: the rate of false alarms, and an agent that does not belong to its type."""

import numpy as np
import pyarrow as pa

from schemas.tables import TABLES
from tests.builders import NOON
from tests.transforms.derived.contexts import at, derive
from transforms.core.time_units import SECOND_US
from transforms.derived.feature_sql import context
from transforms.derived.inconsistencies import TABLE
from transforms.history.time_rules import GAP_MINUTES, LATE_SECONDS

AGENTS, TYPES, REPORTS = 12, 250, 12


def draw_reports(random: np.random.Generator, far: float = 0.0) -> pa.Table:
    """An hour of reports of types of 12 agents, and a report of each agent after it.

    Levels of agents are normal; the first agent of each type is `far` standard deviations from their mean.
    The agents have 10 to 22 reports.
    """
    agents = AGENTS * TYPES
    level = random.normal(0, 0.3, agents) * (1 - (far > 0) * (np.arange(agents) % AGENTS == 0))
    level += 0.3 * far * (np.arange(agents) % AGENTS == 0)
    each = random.integers(10, 23, agents)
    row = np.concatenate([np.repeat(np.arange(agents), each), np.arange(agents)])
    seconds = np.where(np.arange(len(row)) < each.sum(), random.uniform(0, 3599, len(row)), 3800)
    noise = random.normal(0, 0.2, len(row))
    start = int(NOON.timestamp() * 1e6)
    times = pa.array((start + seconds * 1e6).astype(np.int64)).cast(pa.timestamp("us", tz="UTC"))
    columns = {
        "report_id": pa.array([f"{place:032x}" for place in range(len(row))]),
        "task_id": pa.array([f"t{place}" for place in range(len(row))]),
        "agent_id": pa.array([f"a{agent}" for agent in row]),
        "target_agent_type": pa.array([f"x{agent // AGENTS}" for agent in row]),
        "recorded_at": times,
        "received_at": times,
        "latency_ms": pa.array(np.exp(5 + level[row] + noise)),
        "accuracy": pa.array(np.full(len(row), 0.9)),
        "cpu_usage": pa.array(np.full(len(row), 0.5)),
        "memory_mb": pa.array(np.full(len(row), 500.0)),
    }
    schema = TABLES["kpi_reports"].schema
    return pa.table({name: columns[name] for name in schema.names if name in columns})


def find_unusual(reports: pa.Table, rate: float) -> list[str]:
    rows = derive(TABLE, {"kpi_reports": reports}, false_alarm_rate=rate)
    assert {row["rule"] for row in rows} <= {"latency_distribution"}
    return [row["agent_id"] for row in rows if row["recorded_at"] == at(3800)]


def test_the_reports_that_feed_are_those_that_feed_baselines() -> None:
    assert (context.GAP_MINUTES, context.LATE_US) == (GAP_MINUTES, LATE_SECONDS * SECOND_US)


def test_agents_that_belong_to_their_type_raise_false_alarms_at_the_stated_rate() -> None:
    random = np.random.default_rng(7)
    alarms = sum(len(find_unusual(draw_reports(random), 0.01)) for _ in range(2))
    expected = 2 * AGENTS * TYPES * 0.01
    assert abs(alarms - expected) < 4 * np.sqrt(expected)


def test_an_agent_far_from_the_others_of_its_type_is_found() -> None:
    found = find_unusual(draw_reports(np.random.default_rng(7), far=8), 1e-4)
    assert {agent for agent in found if int(agent[1:]) % AGENTS} == set()
    assert len(found) > 0.8 * TYPES
