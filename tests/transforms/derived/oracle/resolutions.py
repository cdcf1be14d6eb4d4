"""The table resolutions, as docs/columns.md defines it."""

import json
from typing import Any

from tests.transforms.derived.oracle.context import Context, group_versions
from tests.transforms.derived.oracle.inconsistencies import (
    QUOTAS,
    derive_inconsistencies,
    find_used,
    fits,
    is_over,
)
from tests.transforms.derived.oracle.rows import SECOND, Row, Settings, Tables

KINDS = {
    "task": ("tasks", "task_id", "created_at"),
    "execution_result": ("results", "task_id", "completed_at"),
    "agent": ("agents", "agent_id", None),
}
"""Table, id and own time of each kind that can resolve an inconsistency."""

KIND_OF_RULE = {
    "task_unknown": "task",
    "agent_unknown": "agent",
    "recorded_before_creation": "task",
    "recorded_after_completion": "execution_result",
    **dict.fromkeys(QUOTAS, "task"),
    "agent_type_mismatch": "task",
    "outcome_disagrees": "execution_result",
}


def derive_resolutions(tables: Tables, settings: Settings) -> list[Row]:
    """One row for each inconsistency that a later record resolves."""
    context = Context(tables, settings)
    reports = {report["report_id"]: report for report in tables["kpi_reports"]}
    records = {kind: group_versions(tables[table], key) for kind, (table, key, _) in KINDS.items()}
    rows = []
    for broken in derive_inconsistencies(tables, settings):
        kind = KIND_OF_RULE.get(broken["rule"])
        if kind is None:
            continue
        report, (_, key, time) = reports[broken["report_id"]], KINDS[kind]
        for record in records[kind][report[key]]:
            if is_later(record, time, report, context) and resolves(record, broken, report, settings):
                by = {"kind": kind, "id": record[key], "version": record["version"]}
                rows.append(broken | {"resolved_at": record["effective_at"], "resolved_by": json.dumps(by)})
                break
    return rows


def is_later(record: Row, time: str | None, report: Row, context: Context) -> bool:
    """Whether a record came after the wait of a report, and soon enough."""
    effective_at, recorded_at = record["effective_at"], report["recorded_at"]
    if effective_at is None or not context.find_cutoff(report) < effective_at <= recorded_at + context.age:
        return False
    return time is None or record[time] >= recorded_at - context.age


def resolves(record: Row, broken: Row, report: Row, settings: Settings) -> bool:
    """Whether the condition of a rule is true for a record."""
    rule = broken["rule"]
    recorded_at, tolerance = report["recorded_at"], settings["clock_tolerance_seconds"] * SECOND
    if rule == "recorded_before_creation":
        return recorded_at >= record["created_at"] - tolerance
    if rule == "recorded_after_completion":
        return recorded_at <= record["completed_at"] + tolerance
    if rule in QUOTAS:
        return not is_over(find_used(rule, report), record[QUOTAS[rule]], settings)
    if rule == "agent_type_mismatch":
        evidence: dict[str, Any] = json.loads(broken["evidence"])
        return fits(record["target_agent_type"], evidence["agent_type"], evidence["capabilities"])
    if rule == "outcome_disagrees":
        return record["success"] == (report["error_details"] is None)
    return True
