"""The rows of `features`: each report to derive, with what the other parts say about it."""

from transforms.derived.feature_sql.arithmetic import SCALE
from transforms.derived.feature_sql.complexity import SCORE

_UPPER, _LOWER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"
PRIORITIES = (1, 25, 50, 75, 100)


def _lower(text: str) -> str:
    return f"translate({text}, '{_UPPER}', '{_LOWER}')"


_RANKS = " ".join(f"WHEN {priority} THEN {rank}" for rank, priority in enumerate(PRIORITIES))
_HAS_WORD = f"""lambda entry: len(list_filter(string_split(split_part({_lower("entry")}, '=', 2), ','),
    lambda word: contains({_lower("agent_type")}, word))) > 0"""

QUERIES = {
    "categories": f"""
        SELECT agent_type, coalesce(split_part(
            list_filter(string_split(agent_type_categories, ';'), {_HAS_WORD})[1], '=', 1), 'other')
            AS agent_type_category
        FROM (SELECT DISTINCT agent_type FROM known WHERE agent_type IS NOT NULL), settings""",
    # Everything that is known of each report to derive. A report without a past joins nothing of it.
    "joined": f"""
        SELECT known.*, agent_type_category, windows.* EXCLUDE (agent, minute), mu, tau2, sigma2,
            agents, CASE WHEN has_task AND fits.n >= fit_reports THEN {SCORE} END AS task_complexity_score,
            fit_ranges.n AS task_complexity_n, cpu_correlation, memory_correlation, resource_correlation_n,
            CASE WHEN NOT early THEN coalesce(experience.experience_tasks, 0) END AS experience_tasks
        FROM known LEFT JOIN categories USING (agent_type)
        LEFT JOIN windows ON windows.agent = known.agent AND windows.minute = known.minute AND NOT early
        LEFT JOIN fit_ranges ON fit_ranges.settled = known.settled AND NOT early
        LEFT JOIN fits ON fits.settled = known.settled AND NOT early
        LEFT JOIN intercepts own ON own.settled = known.settled AND own.task_type = known.target_agent_type
        LEFT JOIN correlation ON correlation.agent = known.agent AND correlation.settled = known.settled
            AND NOT early
        LEFT JOIN experience ON experience.agent = known.agent AND experience.settled = known.settled
            AND experience.first_hour = known.first_hour AND NOT early
        LEFT JOIN types ON types.settled = known.settled
            AND types.agent_type IS NOT DISTINCT FROM known.agent_type AND NOT early,
        settings""",
    "weighed": f"""
        SELECT *, score::DOUBLE / (trend_n::DOUBLE * {SCALE}) AS own_mean,
            ((trend_n * score2 - score * score)::DOUBLE / {SCALE}.0 / {SCALE}.0 / trend_n::DOUBLE
                + coalesce(sigma2, 0)) / trend_n::DOUBLE AS variance,
            CASE WHEN trend_n IS NULL THEN CASE WHEN mu IS NOT NULL THEN 0.0 END
                WHEN mu IS NULL OR agents = 1 OR variance = 0 THEN 1.0
                ELSE tau2 / (tau2 + variance / trend_n::DOUBLE) END AS weight
        FROM joined""",
}

RESULT = f"""
    SELECT report_id, recorded_at, agent_id, task_id,
        CASE WHEN has_task AND has_agent THEN 'complete' ELSE 'missing' END AS context_state,
        agent_type, agent_type_category, source_layer, target_agent_type, priority,
        CASE priority {_RANKS} END AS priority_encoded,
        experience_tasks,
        CASE WHEN experience_tasks < experience_step THEN 'new'
            WHEN experience_tasks < experience_step ** 2 THEN 'low'
            WHEN experience_tasks < experience_step ** 3 THEN 'medium'
            WHEN experience_tasks IS NOT NULL THEN 'high' END AS experience_level,
        workload,
        CASE WHEN workload < workload_low THEN 'low' WHEN workload > workload_high THEN 'high'
            WHEN workload IS NOT NULL THEN 'normal' END AS workload_level,
        latency_trend, latency_trend_se, accuracy_trend, accuracy_trend_se,
        coalesce(trend_n, 0)::BIGINT AS trend_n,
        throughput_trend, throughput_trend_se, coalesce(throughput_trend_n, 0) AS throughput_trend_n,
        task_complexity_score, coalesce(task_complexity_n, 0)::BIGINT AS task_complexity_n,
        cpu_correlation, memory_correlation,
        CASE WHEN abs(memory_correlation) > abs(cpu_correlation) THEN memory_correlation
            ELSE coalesce(cpu_correlation, memory_correlation) END AS resource_correlation,
        coalesce(resource_correlation_n, 0)::BIGINT AS resource_correlation_n,
        CASE WHEN weight = 1 THEN own_mean WHEN weight = 0 THEN mu
            ELSE weight * own_mean + (1 - weight) * mu END AS agent_fitness_score,
        weight AS agent_fitness_weight,
        sin(2 * pi() * hour_of_day / 24) AS execution_hour_sin,
        cos(2 * pi() * hour_of_day / 24) AS execution_hour_cos,
        sin(2 * pi() * (day_of_week - 1) / 7) AS execution_day_sin,
        cos(2 * pi() * (day_of_week - 1) / 7) AS execution_day_cos,
        experiment, variant
    FROM weighed, settings"""
