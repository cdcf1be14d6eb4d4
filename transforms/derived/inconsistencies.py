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

_TASK = ("version", "created", "target", "cpu", "memory", "seconds", "mbps")
_RESULT = ("version", "completed", "success")
_SQL = """
WITH own AS MATERIALIZED ({own}),
tasks_of AS ({tasks}),
results_of AS ({results}),
agent_versions AS (
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
agent_spans AS (
    SELECT agent_id, agent, since,
        lead(since, 1, 1::BIGINT << 62) OVER (PARTITION BY agent_id ORDER BY since, version) AS until
    FROM agent_changes
),
firsts AS (
    SELECT epoch_us(tasks) AS first_task, epoch_us(agents) AS first_agent FROM first_records
),
all_contexts AS (
    SELECT own.*, tasks_of.task, results_of.result, now.agent, old.agent AS agent_before, firsts.*
    FROM own
    CROSS JOIN firsts
    LEFT JOIN tasks_of USING (report_id)
    LEFT JOIN results_of USING (report_id)
    LEFT JOIN agent_spans AS now
        ON now.agent_id = own.agent_id AND now.since <= own.cutoff AND own.cutoff < now.until
    LEFT JOIN agent_spans AS old
        ON old.agent_id = own.agent_id AND old.since <= own.effective AND own.effective < old.until
),
-- Few reports break a rule: only for these the evidence is made.
contexts AS MATERIALIZED (SELECT * FROM all_contexts WHERE {any_broken}),
shared_tasks AS (SELECT task_id FROM claims GROUP BY task_id HAVING count(*) > 1),
all_claims AS MATERIALIZED (
    SELECT task_id, report_id, agent_id, epoch_us(recorded_at) AS recorded,
        epoch_us(effective_at) AS effective
    FROM claims WHERE task_id IN (FROM shared_tasks)
),
claim_pairs AS (
    SELECT own.*, other.agent_id <> own.agent_id AS by_another, other
    FROM own
    JOIN all_claims AS other USING (task_id)
    CROSS JOIN settings
    WHERE (other.effective, other.report_id) < (own.effective, own.report_id)
        AND other.recorded >= own.oldest
        AND other.recorded <= least(own.cutoff, own.recorded + context_hours * 3600000000)
),
earlier_claims AS (
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


def _select_current(name: str, versions: str, columns: tuple[str, ...], time: str) -> str:
    """SQL: by report_id the current version in view, as a struct `name` with these columns and `versions`.

    Most tasks have one version, and need no grouping by report.
    """
    fields = ", ".join(f"'{column}': v.{column}" for column in columns)
    return f"""
    WITH versions AS MATERIALIZED ({versions}),
    changed AS MATERIALIZED (SELECT task_id FROM versions GROUP BY task_id HAVING count(*) > 1),
    in_view AS (
        SELECT own.report_id, own.task_id, v.effective, {{{fields}}} AS one
        FROM own JOIN versions AS v ON v.task_id = own.task_id
        WHERE v.effective <= own.cutoff AND v.{time} >= own.oldest
    )
    SELECT report_id, struct_insert(one, versions := 1) AS {name}
    FROM in_view WHERE task_id NOT IN (FROM changed)
    UNION ALL
    SELECT report_id, struct_insert(max_by(one, (effective, one.version)), versions := count(*)::INTEGER)
    FROM in_view WHERE task_id IN (FROM changed) GROUP BY report_id
    """


def _format_sql() -> str:
    conditions = [f"({rule.condition})" for rule in RULES if rule.relation == "contexts"]
    return _SQL.format(
        own=OWN,
        tasks=_select_current("task", TASK_VERSIONS, _TASK, "created"),
        results=_select_current("result", RESULT_VERSIONS, _RESULT, "completed"),
        beginning=BEGINNING,
        any_broken=" OR ".join(conditions),
        levels=LEVELS,
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
    version=1,
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
