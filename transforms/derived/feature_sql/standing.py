"""How an agent stands: its experience, whether resources explain its latency, and how well it does."""

from transforms.core.time_units import HOUR_US
from transforms.derived.feature_sql.arithmetic import SCALE, divide, fix

SCORE = fix("performance_score")


def _correlate(a: str, b: str) -> str:
    """Pearson's correlation of two ranks, from sums that are whole numbers; null if one is constant."""
    spreads = [f"(n * sum_{each}2 - sum_{each} * sum_{each})" for each in (a, b)]
    product = f"(n * sum_{a}_{b} - sum_{a} * sum_{b})::DOUBLE"
    return (
        f"CASE WHEN n >= correlation_reports AND {spreads[0]} > 0 AND {spreads[1]} > 0 "
        f"THEN {product} / (sqrt({spreads[0]}::DOUBLE) * sqrt({spreads[1]}::DOUBLE)) END"
    )


def _rank(column: str) -> str:
    """Twice the mean rank of a value among the reports of its agent and hour: the first and the last place of
    its equals."""
    order = f"OVER (PARTITION BY agent, hour ORDER BY {column}"
    return f"(rank() {order}) + count(*) {order}))::HUGEINT"


QUERIES = {
    "ranks": f"""
        SELECT agent, hour, {_rank("latency_ms")} AS l, {_rank("cpu_usage")} AS c,
            {_rank("memory_mb")} AS m
        FROM past WHERE feeds""",
    "rank_sums": """
        SELECT agent, hour + 1 AS settled, count(*)::HUGEINT AS n, sum(l) AS sum_l, sum(l * l) AS sum_l2,
            sum(c) AS sum_c, sum(c * c) AS sum_c2, sum(l * c) AS sum_l_c,
            sum(m) AS sum_m, sum(m * m) AS sum_m2, sum(l * m) AS sum_l_m
        FROM ranks GROUP BY agent, hour""",
    "correlation": f"""
        SELECT agent, settled, n AS resource_correlation_n, {_correlate("l", "c")} AS cpu_correlation,
            {_correlate("l", "m")} AS memory_correlation
        FROM rank_sums, settings""",
    "score_cells": f"""
        SELECT hour + 1 AS settled, agent_type, agent, count(*)::HUGEINT AS n, sum({SCORE}) AS total,
            sum({SCORE} * {SCORE}) AS squares
        FROM past WHERE feeds GROUP BY ALL""",
    "score_sums": """
        SELECT settled, agent_type, count(*) AS agents, sum(n) AS n, sum(n * n) AS nn, sum(total) AS total,
            sum(total * total // n) AS between_zero, sum(squares) AS squares
        FROM score_cells GROUP BY settled, agent_type""",
    "score_variances": f"""
        SELECT settled, agent_type, agents, n, nn, total::DOUBLE / (n::DOUBLE * {SCALE}) AS mu,
            (between_zero - total * total // n)::DOUBLE / {SCALE}.0 / {SCALE}.0 AS between_agents,
            (squares - between_zero)::DOUBLE / {SCALE}.0 / {SCALE}.0 AS within_agents,
            CASE WHEN n > agents THEN within_agents / (n - agents)::DOUBLE
                WHEN n > 1 THEN between_agents / (n - 1)::DOUBLE ELSE 0 END AS sigma2
        FROM score_sums""",
    "types": """
        SELECT settled, agent_type, agents, mu, sigma2,
            CASE WHEN agents > 1 AND n > agents THEN greatest(0, (between_agents - (agents - 1) * sigma2)
                / (n::DOUBLE - nn::DOUBLE / n::DOUBLE)) ELSE 0 END AS tau2
        FROM score_variances""",
    # The windows that count for a report begin in [recorded_at - days, .. ) and end by settled hour - 1.
    "experience_hours": """
        SELECT DISTINCT agent, settled, first_hour FROM known WHERE NOT early""",
    "window_hours": f"""
        SELECT agent, {divide("epoch_us(time_window_start)", HOUR_US)} AS hour, task_count
        FROM past_windows JOIN agent_numbers USING (agent_id) WHERE granularity = '1h'""",
    "experience": """
        SELECT agent, settled, first_hour, sum(task_count)::BIGINT AS experience_tasks
        FROM experience_hours JOIN window_hours USING (agent)
        WHERE hour >= first_hour AND hour + 2 <= settled
        GROUP BY ALL""",
}
