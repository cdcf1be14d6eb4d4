"""Evidence from `outcome_sums`: of n tasks of a subject k are beyond a step, a share beyond a limit.

Each period is tested anew, after every minute, by the sequential test of Robbins (1970): the ratio of the
likelihood of k of n under a uniform prior to that under a share p. The chance that it ever exceeds 1 / LEVEL
at the true share is at most LEVEL (Ville). The shares at which it does not are an interval that holds the
true one at all looks together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import log

from transforms.core.time_units import MINUTE_US
from transforms.derived.derived_table import Input
from transforms.derived.evidence import (
    PERIOD_HOURS,
    PERIOD_US,
    Evidence,
    count_from_first,
    format_moment,
    write_rows,
)
from transforms.derived.outcome_sums import LADDER

LEVEL = 1e-4
LEAST_TASKS, LEAST_MINUTES = 100, 10
"""Tasks of a period, and minutes in which there were some, before anything is said: fewer may be chance."""
PEAK_SHARE = 0.01
ABOVE, BELOW = "above", "below"
_BISECTIONS = 30
_PLACES = ", ".join(f"{{'place': {place}, 'share': {share}}}" for place, share in enumerate(LADDER, 1))


@dataclass(frozen=True)
class ShareTest:
    """Whether a share is beyond its limit.

    Attributes:
        measure, step: a measure of `outcome_sums`, and the place of one of its counts, from 1.
        side, limit: met if the share of these tasks is above, or below, the limit.
        divisor: of the measure's total, for the parameter's unit.
        factor: SQL of the proposed over the current value, with `peak`: the step of LADDER that at most 1 %
            of the tasks are beyond. NULL if none is proposed.
    """

    measure: str
    step: int
    side: str
    limit: float
    divisor: int = 1
    factor: str = "NULL"


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


_MEAN = "sum(total) FILTER ({0})::DOUBLE / sum(task_count) FILTER ({0})::DOUBLE / divisor"
_NOW = "c.period = d.period AND c.moment <= d.moment"
_BEFORE = "c.period = d.period - 1"


def _make_verdicts(tests: Mapping[str, ShareTest]) -> dict[str, str]:
    rows = {
        rule: (each.measure, each.step, 1 if each.side == ABOVE else -1, each.limit, each.divisor)
        for rule, each in tests.items()
    }
    return {
        "share_rules": write_rows("share_rules", "measure, step, sign, share_limit, divisor", rows),
        "cells": f"""
        SELECT measure, subject, moment, moment // {PERIOD_US} AS period, task_count, total,
            string_split(counts, ' ')::BIGINT[] AS counts
        FROM (SELECT *, {count_from_first("time_window_start")} AS moment FROM outcome_sums)""",
        "looks": """
        SELECT rule, sign, share_limit, subject, period, moment, count(*) OVER past AS minutes,
            (sum(task_count) OVER past)::DOUBLE AS n, (sum(counts[step]) OVER past)::DOUBLE AS k
        FROM cells JOIN share_rules USING (measure)
        WINDOW past AS (PARTITION BY rule, subject, period ORDER BY moment)""",
        "tested": f"""
        SELECT *, sign * (k / n - share_limit) > 0 AS is_met
        FROM looks
        WHERE n >= {LEAST_TASKS} AND minutes >= {LEAST_MINUTES}
            AND {_test("share_limit")} >= {-log(LEVEL)!r}""",
        "firsts": """
        SELECT rule, subject, min(moment) FILTER (is_met) AS met, min(moment) FILTER (NOT is_met) AS refuted
        FROM tested GROUP BY rule, subject, period""",
        "share_verdicts": """
        SELECT rule, subject, met AS moment, true AS is_met FROM firsts WHERE met IS NOT NULL
        UNION ALL
        SELECT rule, subject, refuted, false FROM firsts WHERE refuted < coalesce(met, refuted + 1)""",
    }


def _make_details(tests: Mapping[str, ShareTest]) -> dict[str, str]:
    factors = " ".join(f"WHEN '{rule}' THEN {each.factor}" for rule, each in tests.items())
    return {
        # The mean of the parameter in this period, and in the one before. Both are of few cells.
        "parameters": f"""
        SELECT d.rule, d.subject, d.moment, {_MEAN.format(_NOW)} AS mean,
            {_MEAN.format(_BEFORE)} AS mean_before
        FROM decisions d JOIN share_rules USING (rule)
        JOIN cells c ON c.measure = share_rules.measure AND c.subject = d.subject
            AND ({_NOW} OR {_BEFORE})
        GROUP BY d.rule, d.subject, d.moment, divisor""",
        "beyond": f"""
        SELECT d.rule, d.subject, d.moment, share, sum(counts[place]) AS k, sum(task_count) AS n
        FROM decisions d JOIN share_rules USING (rule)
        JOIN cells c ON c.measure = share_rules.measure AND c.subject = d.subject AND {_NOW}
        CROSS JOIN (SELECT unnest([{_PLACES}], recursive := true))
        GROUP BY d.rule, d.subject, d.moment, share""",
        "peaks": f"""
        SELECT rule, subject, moment, min(share) AS peak FROM beyond WHERE k <= {PEAK_SHARE} * n
        GROUP BY rule, subject, moment""",
        "share_details": f"""
        SELECT rule, subject, moment, 1 - exp(-{_test("share_limit")}) AS confidence, json_object(
            'measure', measure, 'from', {format_moment(f"d.period * {PERIOD_US}")},
            'to', {format_moment(f"moment + {MINUTE_US}")}, 'tasks', n::BIGINT,
            'beyond', k::BIGINT, 'share', round(k / n, 6), 'low', {_bound("0", "(k / n)")},
            'high', {_bound("1", "(k / n - 1)")}, 'limit', share_limit, 'level', {LEVEL},
            'parameter_before', round(mean_before, 3))::VARCHAR AS evidence,
            mean, mean_before, (CASE rule {factors} END)::DOUBLE AS factor
        FROM decisions d JOIN share_rules USING (rule) JOIN parameters USING (rule, subject, moment)
        LEFT JOIN peaks USING (rule, subject, moment)
        JOIN (SELECT rule, subject, moment, n, k FROM looks) USING (rule, subject, moment)""",
    }


SHARES = Evidence(
    "share",
    (Input("outcome_sums", timedelta(hours=2 * PERIOD_HOURS)),),
    ShareTest,
    _make_verdicts,
    _make_details,
)
