"""The table inconsistencies, rule by rule, as docs/columns.md defines it."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.transforms.derived.oracle.context import (
    Context,
    find_effective_at,
    find_last,
)
from tests.transforms.derived.oracle.distributions import DISTRIBUTIONS, Distributions
from tests.transforms.derived.oracle.rows import HOUR, SECOND, Row, Settings, Tables, write_time

Evidence = dict[str, Any]


def derive_inconsistencies(tables: Tables, settings: Settings) -> list[Row]:
    """One row for each report and rule that it breaks."""
    rows = []
    for case in make_cases(tables, settings):
        for rule, severity, find_evidence in RULES:
            evidence = find_evidence(case)
            if evidence is not None:
                rows.append(make_row(case, rule, severity, evidence))
    return rows


def make_row(case: "Case", rule: str, severity: str, evidence: Evidence) -> Row:
    copied = ("report_id", "recorded_at", "task_id", "agent_id")
    row = {name: case.report[name] for name in copied}
    return row | {
        "rule": rule,
        "severity": severity,
        "effective_at": case.effective_at,
        "evidence": json.dumps(evidence),
    }


@dataclass(frozen=True)
class Case:
    """A report, and everything that the rules compare it with."""

    report: Row
    effective_at: int
    cutoff: int
    tasks: list[Row]
    results: list[Row]
    agents: list[Row]
    agents_then: list[Row]
    first_task: int | None
    first_agent: int | None
    earlier: list[Row]
    distributions: Distributions
    settings: Settings

    @property
    def task(self) -> Row | None:
        return find_last(self.tasks)

    @property
    def result(self) -> Row | None:
        return find_last(self.results)

    @property
    def agent(self) -> Row | None:
        return find_last(self.agents)

    @property
    def tolerance(self) -> int:
        """T."""
        return self.settings["clock_tolerance_seconds"] * SECOND


def make_cases(tables: Tables, settings: Settings) -> list[Case]:
    context = Context(tables, settings)
    distributions = Distributions(tables["kpi_reports"], settings)
    first_task, first_agent = find_first(tables["tasks"]), find_first(tables["agents"])
    of_task = defaultdict(list)
    for report in tables["kpi_reports"]:
        of_task[report["task_id"]].append(report)
    return [
        Case(
            report,
            find_effective_at(report),
            context.find_cutoff(report),
            context.see_tasks(report),
            context.see_results(report),
            context.see_agents(report, context.find_cutoff(report)),
            context.see_agents(report, find_effective_at(report)),
            first_task,
            first_agent,
            find_earlier_claims(report, of_task[report["task_id"]], context, settings),
            distributions,
            settings,
        )
        for report in tables["kpi_reports"]
    ]


def find_first(records: list[Row]) -> int | None:
    """The smallest effective_at that is not null."""
    times = [record["effective_at"] for record in records]
    return min((time for time in times if time is not None), default=None)


def find_earlier_claims(report: Row, others: list[Row], context: Context, settings: Settings) -> list[Row]:
    """The earlier claims of a report, the first one first."""

    def order(claim: Row) -> tuple[int, str]:
        return find_effective_at(claim), claim["report_id"]

    reach = settings["context_hours"] * HOUR
    claims = [
        other
        for other in others
        if other["report_id"] != report["report_id"]
        and order(other) < order(report)
        and abs(other["recorded_at"] - report["recorded_at"]) <= reach
        and other["recorded_at"] <= context.find_cutoff(report)
    ]
    return sorted(claims, key=order)


def check_unknown(case: Case, kind: str) -> Evidence | None:
    first, own = (case.first_task, case.task) if kind == "task" else (case.first_agent, case.agent)
    if first is None or first > case.effective_at or own is not None:
        return None
    return {f"{kind}s_since": write_time(first)}


def check_before_creation(case: Case) -> Evidence | None:
    task = case.task
    if task is None or case.report["recorded_at"] >= task["created_at"] - case.tolerance:
        return None
    return {"created_at": write_time(task["created_at"]), "task_version": task["version"]}


def check_after_completion(case: Case) -> Evidence | None:
    result = case.result
    if result is None or case.report["recorded_at"] <= result["completed_at"] + case.tolerance:
        return None
    return {"completed_at": write_time(result["completed_at"]), "result_version": result["version"]}


QUOTAS = {
    "cpu_over_quota": "max_cpu_cores",
    "memory_over_quota": "max_memory_mb",
    "time_over_quota": "max_execution_time_secs",
    "network_over_quota": "max_network_mbps",
}
"""The column of tasks that each rule of a quota is about."""


def find_used(rule: str, report: Row) -> float | None:
    """What a report used of a quota."""
    if rule == "cpu_over_quota":
        return report["cpu_usage"] * report["execution_context"]["available_cores"]
    if rule == "memory_over_quota":
        return report["memory_mb"]
    if rule == "time_over_quota":
        return report["latency_ms"] / 1000
    if report["network_bytes"] is None:
        return None
    return report["network_bytes"] * 0.008 / report["latency_ms"]


def is_over(used: float | None, quota: float | None, settings: Settings) -> bool:
    """Whether a use is above a quota and its tolerance; not if one of them is null."""
    return used is not None and quota is not None and used > quota * (1 + settings["quota_tolerance"])


def check_quota(case: Case, rule: str) -> Evidence | None:
    if case.task is None:
        return None
    used, quota = find_used(rule, case.report), case.task[QUOTAS[rule]]
    if not is_over(used, quota, case.settings):
        return None
    return {"used": used, "quota": quota, "task_version": case.task["version"]}


def fits(target: str, agent_type: str, capabilities: list[str] | None) -> bool:
    """Whether a target fits what an agent is or can do."""
    return target == agent_type or target in (capabilities or [])


def check_agent_type(case: Case) -> Evidence | None:
    task, agent, then = case.task, case.agent, find_last(case.agents_then)
    if task is None or agent is None:
        return None
    for record in filter(None, (agent, then)):
        if fits(task["target_agent_type"], record["agent_type"], record["capabilities"]):
            return None
    return {
        "agent_type": agent["agent_type"],
        "capabilities": agent["capabilities"],
        "target_agent_type": task["target_agent_type"],
        "task_version": task["version"],
    }


def check_outcome(case: Case) -> Evidence | None:
    result, has_details = case.result, case.report["error_details"] is not None
    if result is None or result["success"] != has_details:
        return None
    return {
        "success": result["success"],
        "has_error_details": has_details,
        "result_version": result["version"],
    }


def check_claimed_twice(case: Case) -> Evidence | None:
    claims = [each for each in case.earlier if each["agent_id"] != case.report["agent_id"]]
    if not claims:
        return None
    return {
        "report_id": claims[0]["report_id"],
        "agent_id": claims[0]["agent_id"],
        "recorded_at": write_time(claims[0]["recorded_at"]),
        "claims": len(claims),
    }


def check_reported_twice(case: Case) -> Evidence | None:
    claims = [each for each in case.earlier if each["agent_id"] == case.report["agent_id"]]
    if not claims:
        return None
    first = claims[0]
    return {
        "report_id": first["report_id"],
        "recorded_at": write_time(first["recorded_at"]),
        "claims": len(claims),
    }


def check_changed(case: Case, kind: str) -> Evidence | None:
    records = case.tasks if kind == "task" else case.results
    if len(records) < 2:
        return None
    return {"versions": len(records), f"{kind}_version": records[-1]["version"]}


def check_distribution(case: Case, rule: str) -> Evidence | None:
    return case.distributions.find_evidence(rule, case.report, case.cutoff)


RULES: list[tuple[str, str, Callable[[Case], Evidence | None]]] = [
    ("task_unknown", "error", partial(check_unknown, kind="task")),
    ("agent_unknown", "error", partial(check_unknown, kind="agent")),
    ("recorded_before_creation", "error", check_before_creation),
    ("recorded_after_completion", "error", check_after_completion),
    *((rule, "error", partial(check_quota, rule=rule)) for rule in QUOTAS),
    ("agent_type_mismatch", "error", check_agent_type),
    ("outcome_disagrees", "error", check_outcome),
    ("task_claimed_twice", "error", check_claimed_twice),
    ("task_reported_twice", "warning", check_reported_twice),
    ("task_changed", "warning", partial(check_changed, kind="task")),
    ("result_changed", "warning", partial(check_changed, kind="result")),
    *((rule, "warning", partial(check_distribution, rule=rule)) for rule in DISTRIBUTIONS),
]
