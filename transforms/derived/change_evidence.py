"""Evidence from `trends`: an agent's level of a metric changed for the worse, and that of its type did not.

The type is the one that all reports of the agent in the window of the change are for. That it did not change
means something only if it was watched: it has a slope in the two hours before. A change of the type counts if
it is in the same direction, at most QUIET minutes from the agent's, and at least half as large: an agent
moves the mean of its type, too, by its part of the agents.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from transforms.analysis.change_points import QUIET, WINDOW
from transforms.core.time_units import MINUTE_US
from transforms.derived.derived_table import Input
from transforms.derived.evidence import PERIOD_HOURS, Evidence, count_from_first, format_moment, write_rows
from transforms.derived.trend_sql import METRICS

MOST_FALSE_ALARMS = 0.1
"""A change is evidence if false alarms that are so large are so rare: a day, of all series together."""
SHARE_OF_TYPE = 0.5
_NEAR = QUIET * MINUTE_US
_LOGS = ", ".join(f"'{name}'" for name, each in METRICS.items() if each.is_log)


@dataclass(frozen=True)
class ChangeTest:
    """Whether a metric of `trends` changed for the worse: `worse` is a verdict, `raised` or `lowered`."""

    metric: str
    worse: str


def _make_verdicts(tests: Mapping[str, ChangeTest]) -> dict[str, str]:
    rows = {rule: (each.metric, each.worse) for rule, each in tests.items()}
    return {
        "change_rules": write_rows("change_rules", "metric, worse", rows),
        "watched": f"""
        SELECT target_agent_type AS type, metric, {count_from_first("time_window_start")} AS moment
        FROM trends WHERE kind = 'slope' AND level = 'agent_type'""",
        "level_changes": f"""
        SELECT rule, level = 'agent' AS is_agent, agent_id AS subject,
            coalesce(only_type, target_agent_type) AS type, metric, verdict = worse AS is_worse,
            {count_from_first("time_window_start")} AS moment, {count_from_first("changed_at")} AS changed,
            before, after, change, change_low, change_high, z, threshold, false_alarms,
            CASE WHEN metric IN ({_LOGS}) THEN ln(after / before) ELSE after - before END AS size
        FROM trends JOIN change_rules USING (metric)
        WHERE kind = 'change' AND level IN ('agent', 'agent_type')""",
        # Of a change of an agent, those of its type that are like it.
        "shared": f"""
        SELECT a.rule, a.subject, a.moment, t.moment AS seen
        FROM level_changes a JOIN level_changes t ON a.is_agent AND NOT t.is_agent
            AND t.rule = a.rule AND t.type = a.type AND abs(t.changed - a.changed) <= {_NEAR}
            AND t.size * sign(a.size) >= {SHARE_OF_TYPE} * abs(a.size)""",
        "own_changes": f"""
        SELECT * FROM level_changes c
        WHERE is_agent AND is_worse AND false_alarms <= {MOST_FALSE_ALARMS}
            AND EXISTS (FROM watched w WHERE w.type = c.type AND w.metric = c.metric
                AND w.moment BETWEEN c.moment - {WINDOW * MINUTE_US} AND c.moment)
            AND NOT EXISTS (FROM shared s WHERE s.rule = c.rule AND s.subject = c.subject
                AND s.moment = c.moment AND s.seen <= c.moment)""",
        "change_verdicts": """
        SELECT rule, subject, moment, bool_or(is_met) AS is_met FROM (
            SELECT rule, subject, moment, true AS is_met FROM own_changes
            UNION ALL
            SELECT rule, subject, moment, false FROM level_changes WHERE is_agent AND NOT is_worse
            UNION ALL
            SELECT rule, subject, seen, false FROM own_changes JOIN shared USING (rule, subject, moment))
        GROUP BY rule, subject, moment""",
    }


def _make_details(tests: Mapping[str, ChangeTest]) -> dict[str, str]:
    return {
        # What a decision is about: the change of the agent, or the one of its type that was seen later.
        "decisive": """
        SELECT d.rule, d.subject, d.moment, c.* EXCLUDE (rule, subject, moment)
        FROM decisions d JOIN level_changes c USING (rule, subject, moment)
        UNION ALL
        SELECT d.rule, d.subject, d.moment, t.* EXCLUDE (rule, subject, moment)
        FROM decisions d
        JOIN (SELECT DISTINCT rule, subject, type, seen AS moment FROM own_changes
            JOIN shared USING (rule, subject, moment)) s USING (rule, subject, moment)
        JOIN level_changes t ON NOT t.is_agent AND t.rule = d.rule AND t.type = s.type AND t.moment = d.moment
        WHERE NOT d.is_met""",
        "change_details": f"""
        SELECT rule, subject, moment, exp(-false_alarms) AS confidence, json_object(
            'metric', metric, 'level', CASE WHEN is_agent THEN 'agent' ELSE 'agent_type' END,
            'agent_type', type, 'changed_at', {format_moment("changed")}, 'before', before, 'after', after,
            'change', change, 'is_relative', metric IN ({_LOGS}), 'low', change_low, 'high', change_high,
            'z', z, 'threshold', threshold,
            'false_alarms', false_alarms)::VARCHAR AS evidence,
            NULL::DOUBLE AS mean, NULL::DOUBLE AS mean_before, NULL::DOUBLE AS factor
        FROM decisive
        QUALIFY row_number() OVER (PARTITION BY rule, subject, moment ORDER BY is_agent DESC) = 1""",
    }


CHANGES = Evidence(
    "change",
    # A change is compared with one of its type up to WINDOW + QUIET before it, and refuted as much later.
    (Input("trends", timedelta(hours=2 * PERIOD_HOURS, minutes=2 * (WINDOW + QUIET))),),
    ChangeTest,
    _make_verdicts,
    _make_details,
)
