"""Reports that break a rule of consistency, and records that come late or never.

Each chosen report has one fault. A fault changes the task, the result, or which task or agent a report names;
it leaves the four metrics of the report alone.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic.columns import SECOND, Columns, ReportTimes
from pipelines.synthetic.fleet import Fleet, make_random
from pipelines.synthetic.records.tasks import Integers, TaskRows

FAULTS = {
    "task_never": "task_unknown",
    "task_late": "task_unknown",
    "result_never": None,
    "result_late": None,
    "agent_never": "agent_unknown",
    "created_after_report": "recorded_before_creation",
    "completed_before_report": "recorded_after_completion",
    "cpu_over_quota": "cpu_over_quota",
    "quota_raised_late": "cpu_over_quota",
    "memory_over_quota": "memory_over_quota",
    "time_over_quota": "time_over_quota",
    "network_over_quota": "network_over_quota",
    "wrong_agent_type": "agent_type_mismatch",
    "task_of_two_agents": "task_claimed_twice",
    "two_reports": "task_reported_twice",
    "success_differs": "outcome_disagrees",
    "two_task_versions": "task_changed",
    "two_result_versions": "result_changed",
}
"""Each fault, in the order in which they are dealt, and the rule that its report breaks.

A task whose quota is raised late has a second version, with a quota that is kept.
"""
RESOLVED = ("task_late", "quota_raised_late")
"""Faults after which a later record resolves the inconsistency."""
GHOSTS = 2
"""Agents that report and never register."""

_NAMES = tuple(FAULTS)
_SHARED = ("task_of_two_agents", "two_reports")
_BY_VALUE = ("time_over_quota", "network_over_quota")
_MISTIMED = (120 * SECOND, 600 * SECOND)
_SHORTEST_GAP = 180 * SECOND
_LONGEST_GAP = 20 * 3600 * SECOND


@dataclass(frozen=True)
class RecordFaults:
    """`kind` int64[n]: 0 where a report has no fault, else 1 + the place in FAULTS."""

    kind: Integers

    def find(self, *names: str) -> NDArray[np.bool_]:
        """bool[n]: the rows with one of these faults."""
        return np.isin(self.kind, [self.number(name) for name in names])

    @staticmethod
    def number(name: str) -> int:
        """The number of a fault; 0 is none."""
        return 1 + _NAMES.index(name) if name else 0

    def rows(self, name: str) -> Integers:
        """The rows with this fault, ascending."""
        return np.flatnonzero(self.find(name))


def deal_faults(candidates: NDArray[np.bool_], count: int, seed: int) -> RecordFaults:
    """Deal all faults alike to `count` of the candidates, bool[n], but those that depend on values."""
    random = make_random(seed, "faults")
    chosen = random.permutation(np.flatnonzero(candidates))[:count]
    kind = np.zeros(len(candidates), np.int64)
    places = 1 + np.arange(len(chosen)) % len(_NAMES)
    kind[chosen] = np.where(np.isin(places, [RecordFaults.number(name) for name in _BY_VALUE]), 0, places)
    return RecordFaults(kind)


def name_ghosts(moments: ReportTimes, faults: RecordFaults, agents: int) -> ReportTimes:
    """The moments in which the reports of unknown agents come from the ghosts, rows `agents` and up."""
    rows = faults.rows("agent_never")
    agent = moments.agent.copy()
    agent[rows] = agents + np.arange(len(rows)) % GHOSTS
    return replace(moments, agent=agent)


def share_tasks(
    faults: RecordFaults,
    tasks: TaskRows,
    moments: ReportTimes,
    candidates: NDArray[np.bool_],
    types: int,
    agents: int,
) -> tuple[RecordFaults, TaskRows]:
    """Give the reports of shared tasks the task of an earlier report, of the same agent or of another one of
    its type. Reports for which there is none are without a fault.

    A candidate, bool[n], can be the earlier report if it has no fault.
    """
    kind, owner = faults.kind.copy(), tasks.owner.copy()
    taken = ~candidates | (kind > 0)
    for name in _SHARED:
        rows = faults.rows(name)
        agent = moments.agent[rows]
        if name == "task_of_two_agents":
            agent = agent + types
            agent = np.where(agent < agents, agent, agent % types)
        free = np.flatnonzero(~taken)
        partner = _find_earlier(moments, free, agent, moments.recorded[rows])
        found = (partner >= 0) & (agent != moments.agent[rows] if name == _SHARED[0] else True)
        first = np.zeros(len(rows), bool)
        first[np.unique(np.where(found, partner, -1), return_index=True)[1]] = True
        found &= first
        owner[rows[found]] = partner[found]
        taken[partner[found]] = True
        kind[rows[~found]] = 0
    return RecordFaults(kind), replace(tasks, owner=owner)


def _find_earlier(moments: ReportTimes, free: Integers, agent: Integers, recorded: Integers) -> Integers:
    """The latest of the rows `free` of each agent that is 3 minutes to 20 h earlier, or -1; int64[k]."""
    if not len(free):
        return np.full(len(agent), -1)
    scale = moments.span + _LONGEST_GAP + SECOND
    key = moments.agent[free].astype(float) * scale + (moments.recorded[free] - moments.start)
    order = np.argsort(key, kind="stable")
    wanted = agent.astype(float) * scale + (recorded - moments.start - _SHORTEST_GAP)
    place = np.searchsorted(key[order], wanted) - 1
    row = free[order[np.maximum(place, 0)]]
    fits = (place >= 0) & (moments.agent[row] == agent) & (recorded - moments.recorded[row] < _LONGEST_GAP)
    return np.where(fits, row, -1)


def spoil_reports(columns: Columns, tasks: TaskRows, faults: RecordFaults) -> Columns:
    """The reports as of their faults: shared tasks (which succeeded), and no target type of a task for other
    agents.
    """
    options = dict(columns.options)
    shared = faults.find(*_SHARED)
    error, target = options["error"].copy(), options["target"].copy()
    error[shared] = error[tasks.owner[shared]] = 0
    target[faults.find("wrong_agent_type")] = 0
    return replace(
        columns, task=columns.task[tasks.owner], options=options | {"error": error, "target": target}
    )


def spoil_tasks(
    faults: RecordFaults,
    tasks: TaskRows,
    columns: Columns,
    fleet: Fleet,
    candidates: NDArray[np.bool_],
    count: int,
    seed: int,
) -> tuple[RecordFaults, TaskRows]:
    """Apply the faults to the tasks; first choose those reports, of the candidates without a fault, whose
    latency or network traffic can be over a quota: up to `count` of each.
    """
    random = make_random(seed, "spoiled tasks")
    metrics = columns.metrics
    mbps = columns.network * 8 / 1e3 / metrics["latency"]
    kind = faults.kind.copy()
    free = candidates & (kind == 0)
    free[tasks.owner[tasks.owner != np.arange(len(kind))]] = False
    limits = {
        "time_over_quota": metrics["latency"] / 1250,
        "network_over_quota": np.where(columns.options["network"] > 0, mbps / 1.25, 0),
    }
    for name, limit in limits.items():
        chosen = random.permutation(np.flatnonzero(free & (limit >= 1)))[:count]
        kind[chosen], free[chosen] = RecordFaults.number(name), False
    faults = RecordFaults(kind)

    def put(values: NDArray, name: str, instead: NDArray, *more: str) -> NDArray:
        return np.where(faults.find(name, *more), instead, values).astype(values.dtype)

    used = metrics["cpu"] * fleet.cores[columns.agent]
    types = len(fleet.task_types)
    shift = random.integers(*_MISTIMED, len(kind))
    return faults, replace(
        tasks,
        created=put(tasks.created, "created_after_report", columns.recorded + shift),
        completed=put(tasks.completed, "completed_before_report", columns.recorded - shift),
        cores=put(
            tasks.cores, "cpu_over_quota", np.round(np.maximum(used * 0.6, 0.001), 4), "quota_raised_late"
        ),
        memory=put(tasks.memory, "memory_over_quota", np.maximum(metrics["memory"] * 0.7, 0)),
        seconds=put(tasks.seconds, "time_over_quota", limits["time_over_quota"]),
        network=put(tasks.network, "network_over_quota", limits["network_over_quota"]),
        target=put(
            tasks.target, "wrong_agent_type", (tasks.target + 1) % types if types > 1 else tasks.target + 1
        ),
        success=tasks.success ^ faults.find("success_differs"),
    )
