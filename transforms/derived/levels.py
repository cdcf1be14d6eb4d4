"""The level of each agent over an hour against the other agents of its type, in SQL.

docs/columns.md (Distributions) defines the test. All sums are of integers, so they do not depend on order.
"""

from datetime import timedelta

from schemas.readers.formats import FIRST_US
from transforms.core.time_units import HOUR_US, MINUTE_US
from transforms.derived.feature_sql.context import GAP_MINUTES, LATE_US

WINDOW_BEFORE = timedelta(hours=3)
"""The window of a report begins at most 2 h 2 min before it."""
FEWEST_REPORTS, FEWEST_AGENTS = 10, 8
GUARD, FEED = GAP_MINUTES * MINUTE_US, LATE_US
"""From the end of the window of an hour to the first report that is tested; in which a report is received.
Hours are counted from FIRST_US, so that none is negative."""

VALUES = {
    "latency": "ln(latency_ms)",
    "accuracy": "accuracy",
    "cpu": "ln(greatest(cpu_usage, 0.01) * execution_context.available_cores)",
    "memory": "ln(memory_mb)",
}
"""What is compared, of a report."""

_TAIL = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806,
    0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
)  # fmt: skip
"""Coefficients of Press and others, Numerical Recipes (erfcc): the relative error of erfc is below 1.2e-7."""


def _two_sided(z: str) -> str:
    """SQL: 2 (1 - Phi(|z|)) of the standard normal distribution."""
    x = f"(abs({z}) / sqrt(2))"
    u = f"(1 / (1 + 0.5 * {x}))"
    series = str(_TAIL[-1])
    for coefficient in reversed(_TAIL[:-1]):
        series = f"({coefficient} + {u} * {series})"
    return f"{u} * exp(-{x} * {x} + {series})"


def _list(template: str) -> str:
    return ",\n        ".join(template.format(metric=metric, value=value) for metric, value in VALUES.items())


_SUMS = "struct_pack(s := sum({metric}), q := sum({metric}::HUGEINT * {metric})) AS {metric}"

LEVELS = f"""
readings AS (
    SELECT agent_id, target_agent_type, (epoch_us(recorded_at) - ({FIRST_US})) // {HOUR_US} AS hour,
        {_list("round({value} * 1000000)::BIGINT AS {metric}")}
    FROM past_reports
    WHERE received_at IS NULL OR epoch_us(received_at) - epoch_us(recorded_at) <= {FEED}
),
agent_hours AS (
    SELECT agent_id, hour, min(target_agent_type) AS agent_type, count(*) AS n,
        {_list(_SUMS)}
    FROM readings
    GROUP BY agent_id, hour
    HAVING count(*) >= {FEWEST_REPORTS} AND min(target_agent_type) IS NOT NULL
),
metrics AS (
    UNPIVOT agent_hours ON {", ".join(VALUES)} INTO NAME metric VALUE sums
),
-- Of each agent, hour and metric: mean (x), sum of squares within (w), and 10^9 / n (i).
agent_levels AS (
    SELECT agent_id, hour, agent_type, metric, n, round(sums.s / n)::HUGEINT AS x,
        (n * sums.q - sums.s * sums.s) // n AS w, 1000000000 // n AS i
    FROM metrics
),
type_sums AS (
    SELECT hour, agent_type, metric, count(*) AS k, sum(x) AS sx, sum(x * x) AS sxx, sum(w) AS sw,
        sum(n - 1) AS sn, sum(i) AS si
    FROM agent_levels
    GROUP BY hour, agent_type, metric
    HAVING count(*) >= {FEWEST_AGENTS}
),
against_others AS (
    SELECT agent_id, hour, agent_type, metric, n, k, x, (sx - x)::DOUBLE / (k - 1) AS m,
        ((k - 1) * (sxx - x * x) - (sx - x) * (sx - x))::DOUBLE / ((k - 1) * (k - 2)) AS between_agents,
        sw::DOUBLE / sn AS within, greatest(0, i - (si - i)::DOUBLE / (k - 1)) / 1000000000 AS fewer
    FROM agent_levels JOIN type_sums USING (hour, agent_type, metric)
),
studentised AS (
    SELECT *, (x - m) / sqrt(between_agents * (1 + 1 / (k - 1)) + within * fewer) AS t, k - 2 AS f
    FROM against_others
    WHERE between_agents * (1 + 1 / (k - 1)) + within * fewer > 0
),
tested AS (
    SELECT agent_id, hour, agent_type, metric, n AS reports, k AS agents,
        x / 1000000 AS level, m / 1000000 AS others,
        sign(t) * (8 * f + 1) / (8 * f + 3) * sqrt(f * ln(1 + t * t / f)) AS z
    FROM studentised
),
unusual AS MATERIALIZED (
    SELECT tested.* REPLACE (round(z, 3) AS z)
    FROM tested CROSS JOIN settings
    WHERE {_two_sided("z")} < false_alarm_rate
),
levels AS MATERIALIZED (
    SELECT own.*, hour * {HOUR_US} + ({FIRST_US}) AS window_start, agent_type, metric, agents, reports,
        level, others, z
    FROM ({{own}}) AS own
    JOIN unusual ON own.agent_id = unusual.agent_id
        AND (own.recorded - {GUARD} - ({FIRST_US})) // {HOUR_US} - 1 = unusual.hour
        AND own.cutoff >= (unusual.hour + 1) * {HOUR_US} + {FEED} + ({FIRST_US})
)
"""
"""CTEs over `past_reports` and `settings`; the last is `levels`: a row for each report, of `own`, and metric
of an agent that is unusual among its type."""
