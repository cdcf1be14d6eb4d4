"""The SQL of `trends`: the minutes of each series, and the rises of its profile over the day.

docs/trends.md says what they are for. All means are of sums of integers, so they do not depend on order.
"""

from typing import NamedTuple

from transforms.analysis.series import HOUR, MICRO
from transforms.core.time_units import MINUTE_US
from transforms.derived.feature_sql import join_queries
from transforms.derived.feature_sql.arithmetic import divide
from transforms.derived.feature_sql.context import LATE_US, MINUTE


class Metric(NamedTuple):
    """A metric that is watched. `is_log`: its logarithm is; differences are relative then. `floor`: the least
    standard deviation and change, in millionths. `window`: its column in windows of an hour. `clipped`: its
    value from metrics that are not beyond their fences, `{name}`; `fenced`: these metrics."""

    is_log: bool
    floor: int
    window: str
    clipped: str
    fenced: tuple[str, ...]


FENCES = {"latency_ms": "latency", "accuracy": "accuracy", "cpu_usage": "cpu", "memory_mb": "memory"}
"""Of what the fences of a metric are named."""
METRICS = {
    "latency_ms": Metric(True, 10_000, "avg_latency_ms", "{latency_ms}", ("latency_ms",)),
    "accuracy": Metric(False, 1_000, "avg_accuracy", "{accuracy}", ("accuracy",)),
    "cpu_usage": Metric(False, 1_000, "avg_cpu_usage", "{cpu_usage}", ("cpu_usage",)),
    "memory_mb": Metric(True, 10_000, "avg_memory_mb", "{memory_mb}", ("memory_mb",)),
    "performance_score": Metric(
        False, 1_000, "performance_score",
        "({accuracy} * reference_latency_ms / (reference_latency_ms + {latency_ms}))",
        ("accuracy", "latency_ms"),
    ),
}  # fmt: skip
LEVELS = ("agent", "agent_type", "fleet")
USUAL_HOURS = 24
"""Hours whose mean is the usual level of an agent, from which that of types and the fleet is measured."""
DAYS = 7
"""Days from which the profile of the hour of day is taken; all of them must have both hours of a rise."""

_SHORT = "INTEGER"


def _scale(value: str, kind: str = "BIGINT") -> str:
    """SQL: a value in whole millionths. As INTEGER its sums are faster; valid values and logarithms fit."""
    return f"floor({value} * {MICRO} + 0.5)::{kind}"


def _log(metric: Metric, value: str) -> str:
    return f"ln(greatest({value}, 0.001))" if metric.is_log else value


def _clip(name: str, metric: Metric) -> str:
    """SQL: the scaled value of a report none of whose values is beyond a fence. Fences of equal quartiles do
    not count."""
    beyond, within = [], {}
    for fenced in metric.fenced:
        low, high = (f"{FENCES[fenced]}_{side}_fence" for side in ("low", "high"))
        beyond.append(f"{high} > {low} AND ({fenced} > {high} OR {fenced} < {low})")
        within[fenced] = (
            f"CASE WHEN {high} > {low} THEN greatest(least({fenced}, {high}), {low}) ELSE {fenced} END"
        )
    # Few values are beyond, so that few logarithms are taken twice.
    clipped = _scale(_log(metric, metric.clipped.format(**within)), _SHORT)
    return f"CASE WHEN {' OR '.join(beyond)} THEN {clipped} ELSE scaled_{name} END"


def _average(window: str) -> str:
    """SQL: the mean of windows of different numbers of tasks."""
    return f"(sum({_scale(f'{window} * task_count')}) / sum(task_count) / {MICRO})"


def _floor(time: str) -> str:
    """SQL: the hour of a time, since 1970."""
    return divide(f"epoch_us({time})", MINUTE_US * HOUR)


def _list(template: str) -> str:
    return ", ".join(template.format(name=name, **each._asdict()) for name, each in METRICS.items())


_SCALED = ", ".join(f"{_scale(_log(each, name), _SHORT)} AS scaled_{name}" for name, each in METRICS.items())
_VALUES = ", ".join(
    f"scaled_{name} AS {name}, {_clip(name, each)} AS clipped_{name}" for name, each in METRICS.items()
)
_SUMS = _list("sum({name}) AS {name}, sum(clipped_{name}) AS clipped_{name}")
_MEANS = _list(
    "(sum({name}) // sum(reports))::BIGINT AS {name}, "
    "(sum(clipped_{name}) // sum(reports))::BIGINT AS clipped_{name}"
)
_DEVIATIONS = _list(
    "cells.{name} - reports * usual.{name} AS {name}, "
    "clipped_{name} - reports * usual.{name} AS clipped_{name}"
)
_USUAL = _list("(sum({name}) // count(*))::BIGINT AS {name}")
_WINDOWS = ", ".join(f"{_scale(_log(each, each.window))} AS {name}" for name, each in METRICS.items())
_HOURS = ", ".join(f"{_scale(_log(each, _average(each.window)))} AS {name}" for name, each in METRICS.items())
_RISES = _list("b.{name} - a.{name} AS {name}")
# The variance of the median of n normal values is about pi / 2 of that of their mean.
_MEDIANS = _list(
    "quantile_disc({name}, 0.5)::BIGINT AS {name}, (157 * (count(*) * sum({name}::HUGEINT * {name}) "
    "- sum({name})::HUGEINT * sum({name})) // (100 * count(*) * count(*) * (count(*) - 1)))::BIGINT "
    "AS clipped_{name}"
)
_TYPE_OR_FLEET = f"""CASE WHEN grouping(target_agent_type) = 0 THEN '{LEVELS[1]}'
            ELSE '{LEVELS[2]}' END AS level,
        coalesce(target_agent_type, '') AS name"""
_OF_TYPES = "HAVING grouping(target_agent_type) = 1 OR target_agent_type IS NOT NULL"

QUERIES = {
    "feeding": f"""
        SELECT agent_id, target_agent_type, {MINUTE} AS minute, epoch_us(effective_at) AS effective, {_VALUES}
        FROM (SELECT *, {_SCALED} FROM past_reports)
            CROSS JOIN (SELECT context_wait_seconds, reference_latency_ms FROM settings)
        WHERE received_at IS NULL OR epoch_us(received_at) - epoch_us(recorded_at)
            <= least({LATE_US}, context_wait_seconds * 1000000)""",
    "cells": f"""
        SELECT agent_id, target_agent_type, minute, max(effective) AS effective, count(*) AS reports, {_SUMS}
        FROM feeding GROUP BY agent_id, target_agent_type, minute""",
    "targets": f"""
        SELECT DISTINCT unnest([hour, hour + 1]) AS hour
        FROM (SELECT DISTINCT {divide("minute", HOUR)} AS hour FROM cells)""",
    # Of each agent and hour: the means of the day before.
    "usual": f"""
        SELECT agent_id, targets.hour AS hour, {_USUAL}
        FROM (SELECT agent_id, {_floor("time_window_start")} AS hour, {_WINDOWS} FROM past_windows) past
        JOIN targets ON past.hour BETWEEN targets.hour - {USUAL_HOURS + 1} AND targets.hour - 2
        GROUP BY agent_id, targets.hour""",
    "deviations": f"""
        SELECT cells.agent_id, target_agent_type, minute, effective, reports, {_DEVIATIONS}
        FROM cells JOIN usual
            ON cells.agent_id = usual.agent_id AND {divide("minute", HOUR)} = usual.hour""",
    "minutes": f"""
        SELECT '{LEVELS[0]}' AS level, agent_id AS name, minute,
            max(effective) >= minute * {MINUTE_US} AS is_settled,
            CASE WHEN count(*) = 1 THEN min(target_agent_type) END AS only_type, {_MEANS}
        FROM cells GROUP BY agent_id, minute
        UNION ALL
        SELECT {_TYPE_OR_FLEET}, minute, false AS is_settled, NULL AS only_type, {_MEANS}
        FROM deviations GROUP BY GROUPING SETS ((target_agent_type, minute), (minute)) {_OF_TYPES}""",
    "wanted": f"""
        SELECT DISTINCT hour - 24 * day - unnest([0, 1]) AS hour
        FROM targets, (SELECT unnest(range(1, {DAYS + 1})) AS day)""",
    "wanted_windows": f"""
        SELECT * FROM (SELECT *, {_floor("time_window_start")} AS hour FROM past_windows)
        JOIN wanted USING (hour)""",
    "hours": f"""
        SELECT '{LEVELS[0]}' AS level, agent_id AS name, hour, {_HOURS}
        FROM wanted_windows GROUP BY agent_id, hour
        UNION ALL
        SELECT {_TYPE_OR_FLEET}, hour, {_HOURS}
        FROM wanted_windows GROUP BY GROUPING SETS ((target_agent_type, hour), (hour)) {_OF_TYPES}""",
    "rises": f"""
        SELECT level, name, targets.hour AS hour, {_RISES}
        FROM targets, (SELECT unnest(range(1, {DAYS + 1})) AS day)
        JOIN hours b ON b.hour = targets.hour - 24 * day
        JOIN (SELECT * REPLACE (hour + 1 AS hour) FROM hours) a USING (level, name, hour)""",
}
SQL = join_queries(
    QUERIES,
    f"""
    SELECT *, false AS is_rise, minute >= (SELECT min({MINUTE}) FROM reports) AS is_own FROM minutes
    UNION ALL BY NAME
    SELECT level, name, hour AS minute, true AS is_rise, {_MEDIANS}
    FROM rises GROUP BY level, name, hour HAVING count(*) = {DAYS}""",
)
