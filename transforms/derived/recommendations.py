"""The derived table `recommendations`: what could be changed, why, and whether the cause went away.

docs/columns.md defines every column and the test. Each period of PERIOD_HOURS is tested anew: a share of
tasks against the limit of a rule, after every minute. A row is made at the first minute of a period at
which a rule is met, and at the first one at which it is refuted if it was met in the period before.

The test is the sequential one of Robbins (1970): the ratio of the likelihood of k of n under a uniform prior
to that under a share p. The chance that it ever exceeds 1 / LEVEL at the true share is at most LEVEL (Ville).
The shares at which it does not are an interval that holds the true one at all looks together.
"""

from datetime import timedelta
from math import log

import pyarrow as pa

from schemas.readers.formats import FIRST_US
from schemas.tables import TIME, Table
from transforms.core.time_units import HOUR_US, MINUTE_US
from transforms.derived.derived_table import DerivedTable, Input
from transforms.derived.feature_sql import join_queries
from transforms.derived.outcome_sums import LADDER
from transforms.derived.recommendation_rules import ABOVE, RECOMMENDATION_RULES, Rule
from transforms.derived.rules import format_time

PERIOD_HOURS = 12
LEVEL = 1e-4
LEAST_TASKS, LEAST_MINUTES = 100, 10
"""Tasks of a period, and minutes in which there were some, before anything is said: fewer may be chance."""
PEAK_SHARE = 0.01
CHANGED = 0.05
"""A parameter has changed if its mean differs by more than this share from that of the period before."""

_PERIOD = PERIOD_HOURS * HOUR_US
_BISECTIONS = 30
_PLACES = ", ".join(f"{{'place': {place}, 'share': {share}}}" for place, share in enumerate(LADDER, 1))


def _test(p: str) -> str:
    """SQL: the logarithm of the test of the share p, with k of n seen."""
    return f"(lgamma(k + 1) + lgamma(n - k + 1) - lgamma(n + 2) - k * ln({p}) - (n - k) * ln(1 - {p}))"


def _bound(start: str, step: str) -> str:
    """SQL: an end of the interval, by bisection from `start` in steps of `step` / 2, / 4, ..."""
    moved = f"(x + {step} / 2 ** i)"
    search = (
        f"list_reduce(range(1, {_BISECTIONS})::DOUBLE[], lambda x, i: "
        f"CASE WHEN {_test(moved)} >= {-log(LEVEL)!r} THEN {moved} ELSE x END, {start}::DOUBLE)"
    )
    return f"round(CASE WHEN {step} = 0 THEN {start} ELSE {search} END, 6)"


def _write_rule(rule: Rule) -> str:
    sign = 1 if rule.side == ABOVE else -1
    return (
        f"('{rule.name}', {rule.version}, '{rule.measure}', {rule.step}, {sign}, {rule.limit}::DOUBLE, "
        f"'{rule.subject_kind}', nullif('{rule.parameter}', ''), {rule.divisor})"
    )


def _choose(column: str) -> str:
    """SQL: an expression of each rule."""
    cases = " ".join(f"WHEN '{rule.name}' THEN {getattr(rule, column)}" for rule in RECOMMENDATION_RULES)
    return f"CASE rule {cases} END"


def _format(number: str) -> str:
    """SQL: a number as text, to five digits."""
    return f"format('{{:.5g}}', {number})"


_MEANINGS = ", ".join(f"('{rule.name}', '{rule.meaning}')" for rule in RECOMMENDATION_RULES)
_MEAN = "sum(total) FILTER ({0})::DOUBLE / sum(task_count) FILTER ({0})::DOUBLE / divisor"
_NOW = "c.period = d.period AND c.moment <= d.moment"
_BEFORE = "c.period = d.period - 1"

QUERIES = {
    "rules": f"""
        SELECT * FROM (VALUES {", ".join(map(_write_rule, RECOMMENDATION_RULES))}) AS rules(rule,
            rule_version, measure, step, sign, share_limit, subject_kind, parameter, divisor)""",
    "meanings": f"SELECT * FROM (VALUES {_MEANINGS}) AS meanings(rule, reason)",
    # Times are counted from FIRST_US, so that none is negative.
    "cells": f"""
        SELECT measure, subject, moment, moment // {_PERIOD} AS period, task_count, total,
            string_split(counts, ' ')::BIGINT[] AS counts
        FROM (SELECT *, epoch_us(time_window_start) - ({FIRST_US}) AS moment FROM outcome_sums)""",
    "looks": """
        SELECT rule, sign, share_limit, subject, period, moment, count(*) OVER past AS minutes,
            (sum(task_count) OVER past)::DOUBLE AS n, (sum(counts[step]) OVER past)::DOUBLE AS k
        FROM cells JOIN rules USING (measure)
        WINDOW past AS (PARTITION BY rule, subject, period ORDER BY moment)""",
    "tested": f"""
        SELECT *, sign * (k / n - share_limit) > 0 AS is_met
        FROM looks
        WHERE n >= {LEAST_TASKS} AND minutes >= {LEAST_MINUTES}
            AND {_test("share_limit")} >= {-log(LEVEL)!r}""",
    "firsts": """
        SELECT rule, subject, period, min(moment) FILTER (is_met) AS met,
            min(moment) FILTER (NOT is_met) AS refuted
        FROM tested GROUP BY rule, subject, period""",
    "past_firsts": """
        SELECT rule, subject, period + 1 AS period, met AS first FROM firsts WHERE met IS NOT NULL""",
    "decisions": """
        SELECT rule, subject, period, met AS moment, coalesce(first, met) AS since,
            CASE WHEN first IS NULL THEN 'new' ELSE 'renewed' END AS state
        FROM firsts LEFT JOIN past_firsts USING (rule, subject, period) WHERE met IS NOT NULL
        UNION ALL
        SELECT rule, subject, period, refuted, first, 'ended'
        FROM firsts JOIN past_firsts USING (rule, subject, period)
        WHERE refuted < coalesce(met, refuted + 1)""",
    # The mean of the parameter in this period, and in the one before. Both are of few cells.
    "parameters": f"""
        SELECT d.rule, d.subject, d.moment, {_MEAN.format(_NOW)} AS mean,
            {_MEAN.format(_BEFORE)} AS mean_before
        FROM decisions d JOIN rules USING (rule)
        JOIN cells c ON c.measure = rules.measure AND c.subject = d.subject
            AND ({_NOW} OR {_BEFORE})
        GROUP BY d.rule, d.subject, d.moment, divisor""",
    "beyond": f"""
        SELECT d.rule, d.subject, d.moment, share, sum(counts[place]) AS k, sum(task_count) AS n
        FROM decisions d JOIN rules USING (rule)
        JOIN cells c ON c.measure = rules.measure AND c.subject = d.subject AND {_NOW}
        CROSS JOIN (SELECT unnest([{_PLACES}], recursive := true))
        GROUP BY d.rule, d.subject, d.moment, share""",
    "peaks": f"""
        SELECT rule, subject, moment, min(share) AS peak FROM beyond WHERE k <= {PEAK_SHARE} * n
        GROUP BY rule, subject, moment""",
    "proposals": f"""
        SELECT *, CASE WHEN state <> 'ended' THEN {_choose("factor")} END AS factor
        FROM decisions JOIN rules USING (rule) JOIN meanings USING (rule)
        JOIN parameters USING (rule, subject, moment) LEFT JOIN peaks USING (rule, subject, moment)
        JOIN (SELECT rule, subject, moment, n, k FROM looks) USING (rule, subject, moment)""",
    "worded": f"""
        SELECT * EXCLUDE (factor), factor AS proposed_factor, {_format("factor")} AS factor,
            {_format("mean")} AS current_value, {_format("mean * factor")} AS proposed_value
        FROM proposals""",
}

RECOMMENDATIONS = Table(
    "recommendations",
    pa.schema(
        [
            ("decided_at", TIME),
            ("rule", pa.string()),
            ("rule_version", pa.int64()),
            ("subject_kind", pa.string()),
            ("subject", pa.string()),
            ("state", pa.string()),
            ("recommendation", pa.string()),
            ("parameter", pa.string()),
            ("current", pa.float64()),
            ("proposed", pa.float64()),
            ("factor", pa.float64()),
            ("reason", pa.string()),
            ("evidence", pa.string()),
            ("confidence", pa.float64()),
            ("since", TIME),
            ("expires_at", TIME),
            ("outcome", pa.string()),
        ]
    ),
    key=("decided_at", "rule", "subject"),
    order=("decided_at", "rule", "subject"),
    time="decided_at",
)


def _moment(number: str) -> str:
    return f"make_timestamptz({number} + ({FIRST_US}))"


TABLE = DerivedTable(
    RECOMMENDATIONS,
    version=1,
    inputs=(Input("outcome_sums", timedelta(hours=2 * PERIOD_HOURS)),),
    sql=join_queries(
        QUERIES,
        f"""
        SELECT {_moment("moment")} AS decided_at, rule, rule_version, subject_kind, subject, state,
            CASE WHEN state <> 'ended' THEN {_choose("advice")} END AS recommendation, parameter,
            round(mean, 3) AS current, round(mean * proposed_factor, 3) AS proposed,
            round(proposed_factor, 3) AS factor, reason, json_object(
                'measure', measure, 'from', {format_time(f"period * {_PERIOD} + ({FIRST_US})")},
                'to', {format_time(f"moment + {MINUTE_US} + ({FIRST_US})")}, 'tasks', n::BIGINT,
                'beyond', k::BIGINT, 'share', round(k / n, 6), 'low', {_bound("0", "(k / n)")},
                'high', {_bound("1", "(k / n - 1)")}, 'limit', share_limit, 'level', {LEVEL},
                'parameter_before', round(mean_before, 3))::VARCHAR AS evidence,
            1 - exp(-{_test("share_limit")}) AS confidence, {_moment("since")} AS since,
            CASE WHEN state <> 'ended' THEN {_moment(f"(period + 2) * {_PERIOD}")} END AS expires_at,
            CASE WHEN state = 'ended' THEN CASE
                WHEN mean IS NULL OR mean_before IS NULL THEN 'unknown'
                WHEN abs(mean - mean_before) > {CHANGED} * mean_before THEN 'changed'
                ELSE 'unchanged' END END AS outcome
        FROM worded""",
    ),
)
