"""The rules of consistency between a report and what is known of its task, its agent and their past.

A rule is data: a condition and its evidence, in SQL over one of the relations that
`transforms.derived.inconsistencies` makes. docs/columns.md defines every rule. One more: a Rule in RULES, a
line there, a case in tests/transforms/derived/test_rules.py.

`contexts` has a row for each report, with these columns. All times are in microseconds since 1970.

| columns | of |
|---|---|
| report_id, task_id, agent_id, recorded, effective, cutoff, memory_mb, has_error_details | the report |
| cores_used, seconds_used, mbps_used | the report: what it used |
| task.version, .created, .target, .cpu, .memory, .seconds, .mbps, .versions | its task; null if none |
| result.version, .completed, .success, .versions | its result |
| agent.type, .capabilities; agent_before | its agent, at the cutoff and at effective |
| first_task, first_agent | the first records of these kinds |
| clock, quota | settings: microseconds, and 1 + quota_tolerance |

`earlier_claims` has a row for each report and whether the earlier claims of its task are `by_another` agent:
first (struct), claims. `levels` has a row for each report and metric of an
agent that is unusual among its type: metric, and the evidence.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

ERROR, WARNING = "error", "warning"
BEGINNING = -(1 << 62)
"""The effective_at of a record without one: before every time."""


@dataclass(frozen=True)
class Resolution:
    """How a later record resolves an inconsistency.

    `kind`: the schema of the record. `condition`: SQL over the report's columns of `contexts`, the evidence,
    and `later`: a later version of its task or result as in `contexts`, or of its agent.
    """

    kind: str
    condition: str = "true"


@dataclass(frozen=True)
class InconsistencyRule:
    """A rule, broken by each row of `relation` for which `condition` is true.

    `evidence`: SQL of each value of the column of that name. `meaning`: what is wrong, as text.
    """

    name: str
    severity: str
    meaning: str
    condition: str
    evidence: dict[str, str] = field(hash=False)
    relation: str = "contexts"
    resolution: Resolution | None = None

    def select(self) -> str:
        """SQL: the rows of inconsistencies of this rule."""
        pairs = ", ".join(f"'{name}', {value}" for name, value in self.evidence.items())
        return (
            f"SELECT report_id, '{self.name}' AS rule, '{self.severity}' AS severity, recorded, effective, "
            f"task_id, agent_id, json_object({pairs})::VARCHAR AS evidence\n"
            f"FROM {self.relation} WHERE {self.condition}"
        )


def format_time(microseconds: str) -> str:
    """SQL: a time as text, such as 2025-10-20T08:00:00.000000Z."""
    return f"strftime(make_timestamp({microseconds}), '%Y-%m-%dT%H:%M:%S.%fZ')"


def _limit(name: str, used: str, quota: str, meaning: str) -> InconsistencyRule:
    """The rule that a report uses at most a quota of its task."""
    # Traffic over next to no time is infinite, which JSON does not have.
    shown = f"least({used}, {sys.float_info.max!r})"
    return InconsistencyRule(
        name,
        ERROR,
        meaning,
        f"{used} > task.{quota} * quota",
        {"used": shown, "quota": f"task.{quota}", "task_version": "task.version"},
        resolution=Resolution("task", f"coalesce({used} <= later.{quota} * quota, true)"),
    )


def _compare(metric: str) -> InconsistencyRule:
    """The rule that an agent's level of a metric belongs among those of its type."""
    return InconsistencyRule(
        f"{metric}_distribution",
        WARNING,
        f"the agent's {metric} is far from that of the other agents of its type",
        f"metric = '{metric}'",
        {
            "window_start": format_time("window_start"),
            "agent_type": "agent_type",
            "agents": "agents",
            "reports": "reports",
            "level": "level",
            "others": "others",
            "z": "z",
        },
        relation="levels",
    )


def fits(target: str, type_: str, capabilities: str) -> str:
    """SQL: whether an agent is, or can do, what a task asks for."""
    return f"({target} = {type_} OR coalesce(list_contains({capabilities}, {target}), false))"


RULES = (
    InconsistencyRule(
        "task_unknown",
        ERROR,
        "no task with this id is known",
        "first_task <= effective AND task IS NULL",
        {"tasks_since": format_time("first_task")},
        resolution=Resolution("task"),
    ),
    InconsistencyRule(
        "agent_unknown",
        ERROR,
        "no agent with this id is known",
        "first_agent <= effective AND agent IS NULL",
        {"agents_since": format_time("first_agent")},
        resolution=Resolution("agent"),
    ),
    InconsistencyRule(
        "recorded_before_creation",
        ERROR,
        "recorded before the task was created",
        "recorded < task.created - clock",
        {"created_at": format_time("task.created"), "task_version": "task.version"},
        resolution=Resolution("task", "recorded >= later.created - clock"),
    ),
    InconsistencyRule(
        "recorded_after_completion",
        ERROR,
        "recorded after the task was completed",
        "recorded > result.completed + clock",
        {"completed_at": format_time("result.completed"), "result_version": "result.version"},
        resolution=Resolution("execution_result", "recorded <= later.completed + clock"),
    ),
    _limit("cpu_over_quota", "cores_used", "cpu", "more cores in use than the task's quota"),
    _limit("memory_over_quota", "memory_mb", "memory", "more memory in use than the task's quota"),
    _limit("time_over_quota", "seconds_used", "seconds", "longer at work than the task's quota"),
    _limit("network_over_quota", "mbps_used", "mbps", "more network traffic than the task's quota"),
    InconsistencyRule(
        "agent_type_mismatch",
        ERROR,
        "the agent is not of the type that the task asks for, and has no such capability",
        f"NOT {fits('task.target', 'agent.type', 'agent.capabilities')} AND (agent_before IS NULL OR "
        f"NOT {fits('task.target', 'agent_before.type', 'agent_before.capabilities')})",
        {
            "agent_type": "agent.type",
            "capabilities": "agent.capabilities",
            "target_agent_type": "task.target",
            "task_version": "task.version",
        },
        resolution=Resolution(
            "task",
            fits(
                "later.target",
                "(evidence->>'$.agent_type')",
                "from_json(evidence->'$.capabilities', '[\"VARCHAR\"]')",
            ),
        ),
    ),
    InconsistencyRule(
        "outcome_disagrees",
        ERROR,
        "the report and the result disagree on whether the task succeeded",
        "result.success = has_error_details",
        {
            "success": "result.success",
            "has_error_details": "has_error_details",
            "result_version": "result.version",
        },
        resolution=Resolution("execution_result", "later.success <> has_error_details"),
    ),
    InconsistencyRule(
        "task_claimed_twice",
        ERROR,
        "another agent has reported the same task",
        "by_another",
        {
            "report_id": "first.report_id",
            "agent_id": "first.agent_id",
            "recorded_at": format_time("first.recorded"),
            "claims": "claims",
        },
        relation="earlier_claims",
    ),
    InconsistencyRule(
        "task_reported_twice",
        WARNING,
        "the same agent has reported the task before",
        "NOT by_another",
        {
            "report_id": "first.report_id",
            "recorded_at": format_time("first.recorded"),
            "claims": "claims",
        },
        relation="earlier_claims",
    ),
    InconsistencyRule(
        "task_changed",
        WARNING,
        "there are two versions of the task",
        "task.versions > 1",
        {"versions": "task.versions", "task_version": "task.version"},
    ),
    InconsistencyRule(
        "result_changed",
        WARNING,
        "there are two versions of the result",
        "result.versions > 1",
        {"versions": "result.versions", "result_version": "result.version"},
    ),
    *(_compare(metric) for metric in ("latency", "accuracy", "cpu", "memory")),
)


def select_all(rules: Iterable[InconsistencyRule]) -> str:
    """SQL: the rows of inconsistencies of these rules."""
    return "\nUNION ALL\n".join(rule.select() for rule in rules)
