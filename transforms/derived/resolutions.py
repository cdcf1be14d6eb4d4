"""The table of resolutions: the first record that resolves an inconsistency, if one comes in time."""

import pyarrow as pa

from schemas.tables import TIME, Table
from transforms.derived.derived_table import Clock, DerivedTable, Input
from transforms.derived.inconsistencies import INCONSISTENCY, OWN, RESULT_VERSIONS, TASK_VERSIONS
from transforms.derived.rules import RULES, InconsistencyRule

_LATER = {
    "task": ("later_tasks", "task_id"),
    "execution_result": ("later_results", "task_id"),
    "agent": ("later_agents", "agent_id"),
}
"""By kind: the relation of its versions, and the column that both sides share."""

_SQL = """
WITH own AS ({own}),
later_tasks AS (SELECT *, created AS at FROM ({tasks})),
later_results AS (SELECT *, completed AS at FROM ({results})),
later_agents AS (
    SELECT agent_id, version, epoch_us(effective_at) AS effective, 1::BIGINT << 62 AS at FROM agents
),
broken AS MATERIALIZED (
    SELECT own.* EXCLUDE (report_id, task_id, agent_id), inconsistencies.*,
        own.recorded + context_hours * 3600000000 AS last
    FROM inconsistencies JOIN own USING (report_id) CROSS JOIN settings
),
resolving AS ({resolving})
SELECT inconsistencies.*, make_timestamptz(first.effective) AS resolved_at,
    json_object('kind', first.kind, 'id', first.id, 'version', first.version)::VARCHAR AS resolved_by
FROM inconsistencies
JOIN (
    SELECT report_id, rule, min_by(record, (record.effective, record.version)) AS first
    FROM resolving GROUP BY report_id, rule
) USING (report_id, rule)
"""


def _select_resolving(rule: InconsistencyRule) -> str:
    """SQL: report_id, rule, and each record that resolves an inconsistency of this rule."""
    assert rule.resolution
    relation, shared = _LATER[rule.resolution.kind]
    return f"""
    SELECT report_id, rule, {{
        'kind': '{rule.resolution.kind}', 'id': {shared},
        'version': later.version, 'effective': later.effective
    }} AS record
    FROM broken JOIN {relation} AS later USING ({shared})
    WHERE rule = '{rule.name}' AND later.effective > cutoff AND later.effective <= last AND later.at >= oldest
        AND ({rule.resolution.condition})
    """


TABLE = DerivedTable(
    Table(
        "resolutions",
        pa.schema([*INCONSISTENCY, ("resolved_at", TIME), ("resolved_by", pa.string())]),
        key=("report_id", "rule"),
        order=("resolved_at",),
        time="resolved_at",
    ),
    version=1,
    inputs=(
        Input("inconsistencies", "context_hours"),
        Input("tasks", "context_hours"),
        Input("results", "context_hours"),
        Input("agents"),
    ),
    sql=_SQL.format(
        own=OWN,
        tasks=TASK_VERSIONS,
        results=RESULT_VERSIONS,
        resolving="UNION ALL".join(_select_resolving(rule) for rule in RULES if rule.resolution),
    ),
    clock=Clock.EFFECTIVE,
)
