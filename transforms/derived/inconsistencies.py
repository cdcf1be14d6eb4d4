"""The table of inconsistencies: which rules each report breaks, by what was known when its wait was over."""

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

OWN = """
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
    1 + quota_tolerance AS quota
FROM reports CROSS JOIN settings
"""
"""The columns of the report, and the settings, of `transforms.derived.rules`; also `oldest`: records of its
task from before it do not count."""

TASK_VERSIONS = """
SELECT task_id, version, epoch_us(effective_at) AS effective, epoch_us(created_at) AS created,
    target_agent_type AS target, max_cpu_cores AS cpu, max_memory_mb AS memory,
    max_execution_time_secs AS seconds, max_network_mbps AS mbps
FROM tasks
"""
RESULT_VERSIONS = """
SELECT task_id, version, epoch_us(effective_at) AS effective, epoch_us(completed_at) AS completed, success
FROM results
"""

_TASK = ("created", "target", "cpu", "memory", "seconds", "mbps")
_RESULT = ("completed", "success")
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
-- A report with one version of its task and result in view is checked here, by few columns and without
-- grouping. The others, and those that break a rule, are few: `contexts` has only these.
first_look AS (
    SELECT hash(own.report_id) AS number, own.*, firsts.*, now.agent, old.agent AS agent_before,
        CASE WHEN t.task_id IS NOT NULL THEN {task} END AS task,
        CASE WHEN r.task_id IS NOT NULL THEN {result} END AS result
    FROM ({own}) AS own
    CROSS JOIN firsts
    LEFT JOIN ({tasks}) AS t
        ON t.task_id = own.task_id AND t.effective <= own.cutoff AND t.created >= own.oldest
    LEFT JOIN ({results}) AS r
        ON r.task_id = own.task_id AND r.effective <= own.cutoff AND r.completed >= own.oldest
    {agents}
),
suspects AS MATERIALIZED (
    SELECT * FROM ({own}) WHERE hash(report_id) IN (
        SELECT number FROM first_look GROUP BY number HAVING count(*) > 1 OR bool_or({any_broken})
    )
),
current_tasks AS ({current_tasks}),
current_results AS ({current_results}),
contexts AS MATERIALIZED (
    SELECT own.*, firsts.*, current_tasks.task, current_results.result, now.agent, old.agent AS agent_before
    FROM suspects AS own
    CROSS JOIN firsts
    LEFT JOIN current_tasks USING (report_id)
    LEFT JOIN current_results USING (report_id)
    {agents}
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


def _pack(version: str, columns: tuple[str, ...], versions: str) -> str:
    """SQL: a version's columns as a struct, with the number of `versions`."""
    fields = ", ".join(f"'{column}': {version}.{column}" for column in columns)
    return f"{{{fields}, 'versions': {versions}}}"


def _select_current(name: str, versions: str, columns: tuple[str, ...], time: str) -> str:
    """SQL: by report_id the current version in view of the suspects' tasks, as a struct of this name."""
    current = "max_by(v, (v.effective, v.version)) AS v, count(*) AS n"
    return f"""
    SELECT report_id, {_pack("v", ("version", *columns), "n")} AS {name}
    FROM (
        SELECT suspects.report_id, {current}
        FROM suspects JOIN ({versions}) AS v USING (task_id)
        WHERE v.effective <= suspects.cutoff AND v.{time} >= suspects.oldest
        GROUP BY suspects.report_id
    )
    """


def _format_sql() -> str:
    conditions = [f"coalesce({rule.condition}, false)" for rule in RULES if rule.relation == "contexts"]
    return _SQL.format(
        own=OWN,
        tasks=TASK_VERSIONS,
        results=RESULT_VERSIONS,
        task=_pack("t", _TASK, "1"),
        result=_pack("r", _RESULT, "1"),
        current_tasks=_select_current("task", TASK_VERSIONS, _TASK, "created"),
        current_results=_select_current("result", RESULT_VERSIONS, _RESULT, "completed"),
        agents=_AGENTS,
        beginning=BEGINNING,
        any_broken=" OR ".join(conditions),
        levels=LEVELS.format(own=OWN),
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
