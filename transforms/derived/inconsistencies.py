"""The table of inconsistencies: which rules each report breaks, by what was known when its wait was over."""

from collections.abc import Mapping

import pyarrow as pa

from schemas.tables import TIME, Table
from transforms.derived.derived_table import DerivedTable, Input
from transforms.derived.levels import LEVELS, WINDOW_BEFORE
from transforms.derived.rules import BEGINNING, RULES, select_all

INCONSISTENCY = pa.schema(
    [
        ("report_id", pa.string()),
        ("rule", pa.string()),
        ("severity", pa.string()),
        ("recorded_at", TIME),
        ("effective_at", TIME),
        ("task_id", pa.string()),
        ("agent_id", pa.string()),
        ("evidence", pa.string()),
    ]
)


def select_own(*more: str) -> str:
    """SQL: the columns of the report, and the settings, of `transforms.derived.rules`; also `oldest`: records
    of its task from before it do not count. `more`: further columns."""
    return f"""
SELECT
    report_id, task_id, agent_id, latency_ms, memory_mb,
    error_details IS NOT NULL AS has_error_details,
    cpu_usage * execution_context.available_cores AS cores_used,
    latency_ms / 1000 AS seconds_used,
    network_bytes * 0.008::DOUBLE / latency_ms AS mbps_used,
    epoch_us(recorded_at) AS recorded,
    epoch_us(effective_at) AS effective,
    epoch_us(effective_at) + context_wait_seconds * 1000000 AS cutoff,
    epoch_us(recorded_at) - context_hours * 3600000000 AS oldest,
    (clock_tolerance_seconds * 1000000)::BIGINT AS clock,
    {", ".join(["1 + quota_tolerance AS quota", *more])}
FROM reports CROSS JOIN settings
"""


_TASK = {
    "version": "task.version",
    "created": "epoch_us(task.created_at)",
    "target": "task.target_agent_type",
    "cpu": "task.max_cpu_cores",
    "memory": "task.max_memory_mb",
    "seconds": "task.max_execution_time_secs",
    "mbps": "task.max_network_mbps",
}
_RESULT = {
    "version": "result.version",
    "completed": "epoch_us(result.completed_at)",
    "success": "result.success",
}
_SQL = """
WITH agent_versions AS (
    SELECT agent_id, coalesce(epoch_us(effective_at), {beginning}) AS since, version,
        {{'type': agent_type, 'capabilities': capabilities}} AS agent
    FROM agents
),
agent_changes AS (
    SELECT agent_id, since, version, agent
    FROM agent_versions
    QUALIFY agent IS DISTINCT FROM lag(agent) OVER (PARTITION BY agent_id ORDER BY since, version)
),
-- An agent from one change of its type or capabilities to the next, in microseconds.
agent_spans AS MATERIALIZED (
    SELECT agent_id, agent, since,
        lead(since, 1, 1::BIGINT << 62) OVER (PARTITION BY agent_id ORDER BY since, version) AS until
    FROM agent_changes
),
firsts AS MATERIALIZED (
    SELECT epoch_us(tasks) AS first_task, epoch_us(agents) AS first_agent FROM first_records
),
-- Few reports break a rule.
contexts AS MATERIALIZED (
    SELECT * FROM (
        SELECT own.*, firsts.*, now.agent, old.agent AS agent_before
        FROM ({in_context}) AS own CROSS JOIN firsts
        {agents}
    ) WHERE {any_broken}
),
shared_tasks AS MATERIALIZED (
    SELECT hash(task_id) FROM claims GROUP BY hash(task_id) HAVING count(*) > 1
),
all_claims AS MATERIALIZED (
    SELECT task_id, report_id, agent_id, epoch_us(recorded_at) AS recorded,
        epoch_us(effective_at) AS effective
    FROM claims WHERE hash(task_id) IN (FROM shared_tasks)
),
claim_pairs AS (
    SELECT own.*, other.agent_id <> own.agent_id AS by_another, other
    FROM ({own}) AS own
    JOIN all_claims AS other USING (task_id)
    CROSS JOIN settings
    WHERE (other.effective, other.report_id) < (own.effective, own.report_id)
        AND other.recorded >= own.oldest
        AND other.recorded <= least(own.cutoff, own.recorded + context_hours * 3600000000)
),
earlier_claims AS MATERIALIZED (
    SELECT report_id, task_id, agent_id, recorded, effective, by_another, count(*) AS claims,
        min_by(other, (other.effective, other.report_id)) AS first
    FROM claim_pairs
    GROUP BY report_id, task_id, agent_id, recorded, effective, by_another
),
{levels}
SELECT report_id, rule, severity, make_timestamptz(recorded) AS recorded_at,
    make_timestamptz(effective) AS effective_at, task_id, agent_id, evidence
FROM ({rules})
"""
_AGENTS = """
    LEFT JOIN agent_spans AS now
        ON now.agent_id = own.agent_id AND now.since <= own.cutoff AND own.cutoff < now.until
    LEFT JOIN agent_spans AS old
        ON old.agent_id = own.agent_id AND old.since <= own.effective AND own.effective < old.until
"""


def _pack(name: str, columns: Mapping[str, str]) -> str:
    """SQL: the current version of a report's task or result as a struct, with the number of versions."""
    fields = ", ".join(f"'{column}': {text}" for column, text in columns.items())
    return f"CASE WHEN {name}_versions > 0 THEN {{{fields}, 'versions': {name}_versions}} END AS {name}"


def _format_sql() -> str:
    conditions = [f"coalesce({rule.condition}, false)" for rule in RULES if rule.relation == "contexts"]
    return _SQL.format(
        own=select_own(),
        in_context=select_own(_pack("task", _TASK), _pack("result", _RESULT)),
        agents=_AGENTS,
        beginning=BEGINNING,
        any_broken=" OR ".join(conditions),
        levels=LEVELS.format(own=select_own()),
        rules=select_all(RULES),
    )


TABLE = DerivedTable(
    Table(
        "inconsistencies",
        INCONSISTENCY,
        key=("report_id", "rule"),
        order=("agent_id", "recorded_at"),
        time="recorded_at",
    ),
    version=2,
    inputs=(
        Input("past_reports", WINDOW_BEFORE),
        Input("claims", "context_hours"),
        Input("tasks", "context_hours"),
        Input("results", "context_hours"),
        Input("agents"),
        Input("first_records"),
    ),
    sql=_format_sql(),
)
