"""The derived table `recommendations`: what could be changed, why, and whether the cause went away.

docs/columns.md defines every column and the tests. A source of evidence (`evidence`) says when rules are met
and refuted. A row is made when a rule is met, and when one is refuted that was met before; time is cut into
periods of PERIOD_HOURS, and what was met counts to the end of the next period.
"""

import pyarrow as pa

from schemas.readers.formats import FIRST_US
from schemas.tables import TIME, Table
from transforms.derived.change_evidence import CHANGES
from transforms.derived.derived_table import DerivedTable
from transforms.derived.evidence import PERIOD_US, Evidence, write_rows
from transforms.derived.feature_sql import join_queries
from transforms.derived.recommendation_rules import RECOMMENDATION_RULES
from transforms.derived.share_evidence import SHARES

EVIDENCE = (SHARES, CHANGES)
CHANGED = 0.05
"""A parameter has changed if its mean differs by more than this share from that of the period before."""


def _list_tests(evidence: Evidence) -> dict[str, object]:
    """The tests of the rules with this evidence, by rule."""
    return {rule.name: rule.test for rule in RECOMMENDATION_RULES if isinstance(rule.test, evidence.test)}


def _unite(name: str) -> str:
    """SQL: the queries NAME of all evidence as one."""
    return " UNION ALL BY NAME ".join(f"SELECT * FROM {each.name}_{name}" for each in EVIDENCE)


def _format(number: str) -> str:
    """SQL: a number as text, to five digits."""
    return f"format('{{:.5g}}', {number})"


def _moment(number: str) -> str:
    """SQL: a time, from what `count_from_first` gave."""
    return f"make_timestamptz({number} + ({FIRST_US}))"


_RULES = {
    each.name: (each.version, each.subject_kind, each.parameter, each.meaning)
    for each in RECOMMENDATION_RULES
}
_ADVICE = " ".join(f"WHEN '{rule.name}' THEN {rule.advice}" for rule in RECOMMENDATION_RULES)

_VERDICTS = {name: text for each in EVIDENCE for name, text in each.make_verdicts(_list_tests(each)).items()}
_DETAILS = {name: text for each in EVIDENCE for name, text in each.make_details(_list_tests(each)).items()}
QUERIES = {
    "rules": f"""
        SELECT * REPLACE (nullif(parameter, '') AS parameter)
        FROM ({write_rows("rules", "rule_version, subject_kind, parameter, reason", _RULES)})""",
    **_VERDICTS,
    "verdicts": f"""
        SELECT *, moment // {PERIOD_US} AS period FROM ({_unite("verdicts")})""",
    # `met_before`: the verdict before, if it was that the rule is met and still counts.
    "verdicts_in_order": """
        SELECT *, CASE WHEN lag(is_met) OVER past AND period - lag(period) OVER past <= 1
            THEN lag(moment) OVER past END AS met_before
        FROM verdicts WINDOW past AS (PARTITION BY rule, subject ORDER BY moment)""",
    "decisions": """
        SELECT *, coalesce(met_before, moment) AS since,
            CASE WHEN NOT is_met THEN 'ended' WHEN met_before IS NULL THEN 'new' ELSE 'renewed' END AS state
        FROM verdicts_in_order WHERE is_met OR met_before IS NOT NULL""",
    **_DETAILS,
    "proposals": f"""
        SELECT * REPLACE (CASE WHEN is_met THEN factor END AS factor)
        FROM decisions JOIN rules USING (rule) JOIN ({_unite("details")}) USING (rule, subject, moment)""",
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


TABLE = DerivedTable(
    RECOMMENDATIONS,
    version=2,
    inputs=tuple(each for evidence in EVIDENCE for each in evidence.inputs),
    sql=join_queries(
        QUERIES,
        f"""
        SELECT {_moment("moment")} AS decided_at, rule, rule_version, subject_kind, subject, state,
            CASE WHEN is_met THEN CASE rule {_ADVICE} END END AS recommendation, parameter,
            round(mean, 3) AS current, round(mean * proposed_factor, 3) AS proposed,
            round(proposed_factor, 3) AS factor, reason, evidence, confidence, {_moment("since")} AS since,
            CASE WHEN is_met THEN {_moment(f"(period + 2) * {PERIOD_US}")} END AS expires_at,
            CASE WHEN NOT is_met THEN CASE
                WHEN mean IS NULL OR mean_before IS NULL THEN 'unknown'
                WHEN abs(mean - mean_before) > {CHANGED} * mean_before THEN 'changed'
                ELSE 'unchanged' END END AS outcome
        FROM worded""",
    ),
)
