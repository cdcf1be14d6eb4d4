"""Each report with the task and the agent that were known at its horizon."""

from transforms.core.time_units import HOUR_US, MINUTE_US, SECOND_US
from transforms.derived.feature_sql.arithmetic import divide

GAP_MINUTES, LATE_US = 2, 60 * SECOND_US
"""The rules of history about which reports feed (`transforms.history.time_rules`)."""
_EVER = 1 << 62
_CREATED = f"created >= recorded_us - context_hours * {HOUR_US}"

FEEDS = f"(received_at IS NULL OR epoch_us(received_at) - epoch_us(recorded_at) <= {LATE_US})"
"""A report that is not late is in the windows of others."""
HORIZON = "epoch_us(effective_at) + context_wait_seconds * 1000000"
MINUTE = divide("epoch_us(recorded_at)", MINUTE_US)
HOUR = divide("epoch_us(recorded_at)", HOUR_US)

TASKS = {
    "timed": f"""
        SELECT reports.*, epoch_us(recorded_at) AS recorded_us, {HORIZON} AS horizon, context_hours
        FROM reports, settings""",
    # Few tasks have two versions. Of each such version, the versions that replace it where they are known.
    "changed_tasks": "SELECT task_id FROM tasks GROUP BY task_id HAVING count(*) > 1",
    "changes": """
        SELECT task_id, version, epoch_us(effective_at) AS effective, epoch_us(created_at) AS created
        FROM tasks WHERE task_id IN (SELECT task_id FROM changed_tasks)""",
    "replacements": """
        SELECT a.task_id, a.version, list({'effective': b.effective, 'created': b.created}) AS later
        FROM changes a JOIN changes b
            ON a.task_id = b.task_id AND (b.effective, b.version) > (a.effective, a.version)
        GROUP BY ALL""",
}
"""`timed` are the reports with their horizons, in microseconds since 1970."""


def select_task_versions(*more: str) -> str:
    """The query `task_versions`, after those of TASKS: what fits read of a task, and `more` columns."""
    return f"""
        SELECT {", ".join(["tasks.task_id", *more])}, epoch_us(effective_at) AS effective,
            epoch_us(created_at) AS created, later, priority, target_agent_type, max_cpu_cores, max_memory_mb,
            max_execution_time_secs, max_network_mbps, payload_bytes
        FROM tasks LEFT JOIN replacements USING (task_id, version)"""


TASK = f"""t.task_id = r.task_id AND effective <= horizon AND {_CREATED} AND (later IS NULL
    OR len(list_filter(later, lambda v: v.effective <= horizon AND v.{_CREATED})) = 0)"""
"""What joins a version `t` of `task_versions` to a report `r`: at most one, the current one."""

AGENTS = {
    # Of versions with one time the last; a version without a time counts from the beginning.
    "agent_versions": f"""
        SELECT agent_id, coalesce(epoch_us(effective_at), {-_EVER}) AS since,
            arg_max(agent_type, version) AS agent_type
        FROM agents GROUP BY agent_id, since""",
    # Since when an agent is of a type: few rows, since most versions keep the type.
    "agent_changes": """
        SELECT agent_id, since, agent_type FROM agent_versions
        QUALIFY lag(agent_type) OVER (PARTITION BY agent_id ORDER BY since) IS DISTINCT FROM agent_type""",
    "agent_types": f"""
        SELECT *, lead(since, 1, {_EVER}) OVER (PARTITION BY agent_id ORDER BY since) AS until
        FROM agent_changes""",
}

QUERIES = {
    # Agents are numbers in all that follows, since texts are long to compare and to keep.
    "agent_numbers": """
        SELECT agent_id, row_number() OVER () AS agent FROM (SELECT DISTINCT agent_id FROM past_reports)""",
    **TASKS,
    "task_versions": select_task_versions("source_layer", "experiment", "variant"),
    **AGENTS,
    # The reports to derive. `early`: recorded long after it was received, so that it has no past.
    "known": f"""
        SELECT r.report_id, r.task_id, r.agent_id, agent, recorded_at, {MINUTE} AS minute,
            {divide(f"{MINUTE} - {GAP_MINUTES}", 60)} AS settled,
            -{divide("experience_days * 86400000000 - recorded_us", HOUR_US)} AS first_hour,
            epoch_us(recorded_at) - epoch_us(r.effective_at) > {LATE_US} AS early, hour_of_day, day_of_week,
            t.task_id IS NOT NULL AS has_task, a.agent_id IS NOT NULL AS has_agent,
            CASE WHEN has_task THEN t.source_layer ELSE r.source_layer END AS source_layer,
            CASE WHEN has_task THEN t.target_agent_type ELSE r.target_agent_type END AS target_agent_type,
            CASE WHEN has_task THEN t.priority ELSE r.priority END AS priority,
            coalesce(agent_type, r.target_agent_type) AS agent_type,
            max_cpu_cores, max_memory_mb, max_execution_time_secs, max_network_mbps, payload_bytes,
            experiment, variant
        FROM timed r JOIN agent_numbers ON agent_numbers.agent_id = r.agent_id
        LEFT JOIN task_versions t ON {TASK}
        LEFT JOIN agent_types a ON a.agent_id = r.agent_id AND horizon >= since AND horizon < until,
        settings""",
    # What they are compared with, themselves among them.
    "past": f"""
        SELECT agent, {MINUTE} AS minute, {HOUR} AS hour, {FEEDS} AS feeds, latency_ms, accuracy, cpu_usage,
            memory_mb, performance_score, coalesce(agent_type, target_agent_type) AS agent_type
        FROM (SELECT past_reports.*, {HORIZON} AS horizon FROM past_reports, settings) r
        JOIN agent_numbers USING (agent_id)
        LEFT JOIN agent_types a ON a.agent_id = r.agent_id AND horizon >= since AND horizon < until""",
}
