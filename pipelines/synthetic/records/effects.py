"""Effects of known size on the reports: what makes a task slow, and which agents differ from others.

The logarithm of latency is that of the agent's level and its noise, plus the effects of the task, of the
agent's experience and of its workload.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic.columns import REACH, SECOND, Columns, ReportTimes, clip_to_schema
from pipelines.synthetic.fleet import Fleet, Floats, make_random
from pipelines.synthetic.json_columns import format_times
from pipelines.synthetic.records.tasks import TREATED, Integers, TaskRows

MINUTE = 60 * SECOND

COMPLEXITY = {
    "max_cpu_cores": (0.12, 4),
    "max_memory_mb": (0.08, 8192),
    "max_execution_time_secs": (0.10, 60),
    "payload_bytes": (0.06, 256),
}
"""Of each property of a task: what each doubling adds to log latency, and the value that adds nothing."""
PRIORITY = (-0.002, 50)
"""What each unit of priority adds to log latency, and the priority that adds nothing."""
EXPERIENCE = -0.03
"""What each unit of ln(1 + earlier tasks of the agent) adds to log latency."""
WORKLOAD = 0.1
"""What each unit of workload adds to log latency: tasks of the agent in the 5 minutes before, over its
average for 5 minutes (but at least 1), limited to MOST_WORKLOAD."""
MOST_WORKLOAD = 4.0
TREATMENT = -0.1
"""What the variant `treatment` of the experiment `routing` adds to log latency."""
SLOPE = 0.01
"""The degrading agent's latency grows by this share of its level a minute, at the end of the span."""
CORRELATION = 0.8
"""Correlation of log latency with CPU, and with the logarithm of memory, of one agent."""
OUTLIER = 6.0
"""The outlier agent's latency, over what it would be otherwise."""
LIKENESS = 0.5
"""Power of the ratio of an agent's usual latency to that of its type, so that agents of a type are alike: the
outlier agent is far from all of them.
"""
SPREAD = 0.25
"""At least the standard deviation of the effects of a task on log latency, for the usual range of values."""

_WINDOW = 5 * MINUTE
_LONGEST_DEGRADATION = 180 * MINUTE
_SLOT = 20 * MINUTE
_BUSY_SHARE, _BUSY = 0.2, 3.0
_SLOWEST, _FASTEST = 0.5, 1.5


@dataclass(frozen=True)
class Roles:
    """The agents that differ, as rows of the fleet; None where there are too few agents.

    `late` registers only after it has reported; `changing` gets another type. `degrades_from`,
    `degrades_to`: microseconds since 1970.
    """

    degrading: int
    correlated: int | None
    outlier: int | None
    late: int | None
    changing: int | None
    degrades_from: int
    degrades_to: int


def cast_roles(agents: int, start: int, span: int, seed: int) -> Roles:
    """Choose the agents that differ from the first `agents` of the fleet."""
    order = make_random(seed, "roles").permutation(agents)[:5].tolist()
    degrading, correlated, outlier, late, changing = [*order, None, None, None, None][:5]
    end = start + span
    since = end - min(_LONGEST_DEGRADATION, span // 2)
    return Roles(degrading, correlated, outlier, late, changing, since, end)


def set_latency_levels(fleet: Fleet, roles: Roles) -> Fleet:
    """The fleet with latency levels that are alike within a type, but for the outlier agent's."""
    latency = fleet.levels["latency"].copy()
    for kind in range(len(fleet.task_types)):
        own = fleet.types == kind
        typical = np.exp(np.log(latency[own]).mean()) if own.any() else 1.0
        latency[own] = typical * (latency[own] / typical) ** LIKENESS
    if roles.outlier is not None:
        latency[roles.outlier] *= OUTLIER
    return replace(fleet, levels=fleet.levels | {"latency": latency})


def draw_busy_phases(moments: ReportTimes, agents: int, seed: int) -> ReportTimes:
    """The moments with other agents: some report more than others, and each has busy periods of 20 minutes,
    with three times as many reports.
    """
    random = make_random(seed, "busy")
    rate = random.uniform(_SLOWEST, _FASTEST, agents)
    slot = (moments.recorded - moments.start) // _SLOT
    agent = moments.agent.copy()
    left = np.arange(len(agent))
    # By rejection: a table of each agent's weight in each slot could be larger than the archive.
    while len(left):
        agent[left] = random.integers(0, agents, len(left))
        is_busy = _hash_to_unit(agent[left], slot[left], seed) < _BUSY_SHARE
        weight = rate[agent[left]] * np.where(is_busy, _BUSY, 1.0)
        left = left[random.random(len(left)) * _BUSY * _FASTEST > weight]
    return replace(moments, agent=agent)


def _hash_to_unit(first: Integers, second: Integers, seed: int) -> Floats:
    """A number in [0, 1) for each pair, float64[n]: the finaliser of MurmurHash3."""
    mixed = first.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + second.astype(np.uint64)
    mixed ^= np.uint64(seed % (1 << 32)) << np.uint64(20)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(33))).astype(np.float64) / 2.0**64


def plant_effects(
    columns: Columns, tasks: TaskRows, moments: ReportTimes, fleet: Fleet, roles: Roles, seed: int
) -> Columns:
    """The reports with all effects on latency, CPU and memory."""
    latency = columns.metrics["latency"] * np.exp(
        compute_task_effect(tasks)[tasks.owner]
        + EXPERIENCE * np.log1p(count_earlier(columns.agent))
        + WORKLOAD * compute_workload(moments)
    )
    since = np.clip(columns.recorded - roles.degrades_from, 0, None) / MINUTE
    latency *= 1 + SLOPE * since * (columns.agent == roles.degrading)
    metrics = columns.metrics | {"latency": clip_to_schema("latency", latency)}
    if roles.correlated is not None:
        rows = np.flatnonzero(columns.agent == roles.correlated)
        levels = moments.levels(fleet, rows)
        for metric, values in _correlate(latency[rows], levels, fleet, seed).items():
            metrics[metric] = metrics[metric].copy()
            metrics[metric][rows] = values
    return replace(columns, metrics=metrics)


def compute_task_effect(tasks: TaskRows) -> Floats:
    """What each task adds to the logarithm of its latency, float64[n]."""
    values = {
        "max_cpu_cores": tasks.cores,
        "max_memory_mb": tasks.memory,
        "max_execution_time_secs": tasks.seconds,
        "payload_bytes": tasks.payload_bytes,
    }
    effect = PRIORITY[0] * (tasks.priority - PRIORITY[1]) + TREATMENT * (tasks.metadata == TREATED)
    for name, (size, reference) in COMPLEXITY.items():
        effect = effect + size * np.log2(values[name] / reference)
    return effect


def count_earlier(agent: Integers) -> Integers:
    """The number of earlier rows of the same agent, int64[n]."""
    order = np.argsort(agent, kind="stable")
    _, first, inverse = np.unique(agent[order], return_index=True, return_inverse=True)
    earlier = np.empty(len(agent), np.int64)
    earlier[order] = np.arange(len(agent)) - first[inverse]
    return earlier


def compute_workload(moments: ReportTimes) -> Floats:
    """The rows of the same agent in the 5 minutes before each row, over the agent's average for 5 minutes,
    float64[n].
    """
    # One sorted key of agent and millisecond: a count of a range of times is the distance of two places.
    millis = (moments.recorded - moments.start) // 1000
    key = moments.agent * (int(millis.max(initial=0)) + _WINDOW // 1000 + 1) + millis
    order = np.sort(key)
    recent = np.searchsorted(order, key) - np.searchsorted(order, key - _WINDOW // 1000)
    usual = np.bincount(moments.agent) * min(1.0, _WINDOW / max(moments.span, 1))
    return np.minimum(recent / np.maximum(usual, 1)[moments.agent], MOST_WORKLOAD)


def _correlate(latency: Floats, levels: dict[str, Floats], fleet: Fleet, seed: int) -> dict[str, Floats]:
    """CPU and memory that follow latency, float64[n] each."""
    random = make_random(seed, "correlated")
    deviation = np.log(latency) - np.log(latency).mean() if len(latency) else latency
    shared = deviation / max(float(deviation.std()) if len(latency) else 0.0, 1e-9)

    def draw(metric: str) -> Floats:
        own = random.standard_normal(len(latency))
        return (fleet.spreads[metric] * (CORRELATION * shared + np.sqrt(1 - CORRELATION**2) * own)).clip(
            -REACH * fleet.spreads[metric], REACH * fleet.spreads[metric]
        )

    return {
        "cpu": clip_to_schema("cpu", levels["cpu"] + draw("cpu")),
        "memory": clip_to_schema("memory", levels["memory"] * np.exp(draw("memory"))),
    }


def find_degraded(columns: Columns, roles: Roles) -> NDArray[np.bool_]:
    """bool[n]: the reports of the degrading agent while it degrades."""
    return (columns.agent == roles.degrading) & (columns.recorded >= roles.degrades_from)


def describe_effects(fleet: Fleet, roles: Roles, most_agents: int) -> dict[str, Any]:
    """What `truth.json` says about the effects, with the levels of the first `most_agents` agents."""

    def name(agent: int | None) -> str | None:
        return None if agent is None else fleet.ids[agent].as_py()

    times = format_times(np.array([roles.degrades_from, roles.degrades_to])).to_pylist()
    return {
        "complexity": {
            name: {"log_latency_per_doubling": size, "reference": reference}
            for name, (size, reference) in COMPLEXITY.items()
        }
        | {"priority": {"log_latency_per_unit": PRIORITY[0], "reference": PRIORITY[1]}},
        "experience": {"log_latency_per_ln_tasks": EXPERIENCE},
        "workload": {"log_latency_per_unit": WORKLOAD, "most": MOST_WORKLOAD, "minutes": 5},
        "experiments": {"routing": {"control": 0.0, "treatment": TREATMENT}, "cache": {}},
        "degrading": {
            "agent_id": name(roles.degrading),
            "from": times[0] + "Z",
            "to": times[1] + "Z",
            "share_per_minute": SLOPE,
            "ms_per_minute": SLOPE * float(fleet.levels["latency"][roles.degrading]),
        },
        "correlated": {"agent_id": name(roles.correlated), "correlation": CORRELATION},
        "outlier": {"agent_id": name(roles.outlier), "factor": OUTLIER, "rule": "latency_distribution"},
        "agents": [
            {
                "agent_id": fleet.ids[row].as_py(),
                "agent_type": fleet.task_types[fleet.types[row]],
                "latency_ms": round(float(fleet.levels["latency"][row]), 3),
                "accuracy": round(float(fleet.levels["accuracy"][row]), 4),
            }
            for row in range(min(len(fleet.types), most_agents))
        ],
    }
