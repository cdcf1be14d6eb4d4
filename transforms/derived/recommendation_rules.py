"""The rules of recommendations, as data. One more: a Rule in RECOMMENDATION_RULES, a line in docs/columns.md,
a planted cause in tests/transforms/derived/test_recommendations.py.

A rule looks at a measure of `outcome_sums`: of n tasks of a subject, k are beyond a step. It is met if the
share k / n is on its side of the limit, by a test that may be looked at after every minute.
"""

from dataclasses import dataclass

from transforms.derived.outcome_sums import LADDER, NEAR_QUOTA

ABOVE, BELOW = "above", "below"
MARGIN = 1.25
"""A quota is proposed as that of which 99 % of the tasks need no more, and a quarter more."""


@dataclass(frozen=True)
class Rule:
    """A rule of recommendations.

    Attributes:
        version: raise it, and that of the table, when the rule is changed.
        measure, step: a measure of `outcome_sums`, and the place of one of its counts, from 1.
        side, limit: met if the share of these tasks is above, or below, the limit.
        subject_kind: what the subject is.
        meaning: what was seen.
        advice: SQL, the recommendation in words, with subject, factor, current_value and proposed_value.
        parameter: what could be changed; empty if it is nothing that kpiflow knows.
        divisor: of the measure's total, for the parameter's unit.
        factor: SQL of the proposed over the current value, with `peak`: the step of LADDER that at most 1 %
            of the tasks are beyond. NULL if none is proposed.
    """

    name: str
    version: int
    measure: str
    step: int
    side: str
    limit: float
    subject_kind: str
    meaning: str
    advice: str
    parameter: str = ""
    divisor: int = 1
    factor: str = "NULL"


def _resize(measure: str, parameter: str, unit: str, divisor: int = 1) -> tuple[Rule, Rule]:
    """The two rules about a quota: it is often reached, or never nearly."""
    tail = f"tasks for ' || subject || ', from a mean of ' || current_value || ' {unit}"
    near, far = LADDER.index(NEAR_QUOTA) + 1, LADDER.index(0.4) + 1
    common = ("agent_type",)
    return (
        Rule(
            f"raise_{measure}_quota", 1, measure, near, ABOVE, 0.05, *common,
            f"more than 5 % of the tasks use over {NEAR_QUOTA * 100:.0f} % of their {measure} quota",
            f"'raise {parameter} of {tail}' "
            "|| coalesce(' to ' || proposed_value || ' (times ' || factor || ')', '')",
            parameter, divisor, f"peak * {MARGIN}",
        ),
        Rule(
            f"lower_{measure}_quota", 1, measure, far, BELOW, 0.01, *common,
            f"less than 1 % of the tasks use over 40 % of their {measure} quota",
            f"'lower {parameter} of {tail} to ' || proposed_value || ' (times ' || factor || ')'",
            parameter, divisor, f"peak * {MARGIN}",
        ),
    )  # fmt: skip


RECOMMENDATION_RULES = (
    *_resize("memory", "max_memory_mb", "MB"),
    *_resize("cpu", "max_cpu_cores", "cores", 1000),
    Rule(
        "raise_time_quota", 1, "timeouts", 1, ABOVE, 0.01, "agent_type",
        f"more than 1 % of the tasks fail after {NEAR_QUOTA * 100:.0f} % of their time quota",
        "'tasks for ' || subject || ' fail when their time is over: raise max_execution_time_secs from a '"
        "|| 'mean of ' || current_value || ' s to ' || proposed_value || ', or find what slows them'",
        "max_execution_time_secs", 1, "1.5",
    ),
    Rule(
        "meet_deadlines", 1, "deadlines", 1, ABOVE, 0.05, "priority",
        "more than 5 % of the tasks are completed after their deadline",
        "'tasks of priority ' || subject || ' miss their deadline, a mean of ' || current_value || "
        "' s after creation: start them earlier, or give them more time'",
        "deadline",
    ),
    Rule(
        "fix_producer", 1, "rejected", 1, ABOVE, 0.05, "source",
        "more than 5 % of the reports are rejected",
        "'more than 5 % of the reports of ' || subject || ' are rejected: look at the causes with '"
        "|| '`kpiflow quarantine list` and correct their producer'",
    ),
)  # fmt: skip
