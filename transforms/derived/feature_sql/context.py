"""Each report with the task and the agent that were known at its horizon."""

from transforms.core.time_units import HOUR_US, MINUTE_US, SECOND_US
from transforms.derived.feature_sql.arithmetic import divide

GAP_MINUTES, LATE_US = 2, 60 * SECOND_US
"""The rules of history about which reports feed (`transforms.history.time_rules`)."""
_EVER = 1 << 62

FEEDS = f"(received_at IS NULL OR epoch_us(received_at) - epoch_us(recorded_at) <= {LATE_US})"
"""A report that is not late is in the windows of others."""
HORIZON = "epoch_us(effective_at) + context_wait_seconds * 1000000"
MINUTE = divide("epoch_us(recorded_at)", MINUTE_US)
HOUR = divide("epoch_us(recorded_at)", HOUR_US)

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
    **AGENTS,
    # The reports to derive. `early`: recorded long after it was received, so that it has no past.
    "known": f"""
        SELECT r.report_id, r.task_id, r.agent_id, agent, recorded_at, {MINUTE} AS minute,
            {divide(f"{MINUTE} - {GAP_MINUTES}", 60)} AS settled,
            -{divide("experience_days * 86400000000 - epoch_us(recorded_at)", HOUR_US)} AS first_hour,
            epoch_us(recorded_at) - epoch_us(r.effective_at) > {LATE_US} AS early, hour_of_day, day_of_week,
            task_versions > 0 AS has_task, a.agent_id IS NOT NULL AS has_agent,
            CASE WHEN has_task THEN task.source_layer ELSE r.source_layer END AS source_layer,
            CASE WHEN has_task THEN task.target_agent_type ELSE r.target_agent_type END AS target_agent_type,
            CASE WHEN has_task THEN task.priority ELSE r.priority END AS priority,
            coalesce(agent_type, r.target_agent_type) AS agent_type,
            task.max_cpu_cores, task.max_memory_mb, task.max_execution_time_secs, task.max_network_mbps,
            task.payload_bytes, task.experiment, task.variant
        FROM (SELECT reports.*, {HORIZON} AS horizon FROM reports, settings) r
        JOIN agent_numbers ON agent_numbers.agent_id = r.agent_id
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
