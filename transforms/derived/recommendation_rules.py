"""The rules of recommendations, as data. One more: a Rule in RECOMMENDATION_RULES, a line in docs/columns.md,
a planted cause in tests/transforms/derived/test_recommendations.py or test_change_rules.py.

The class of a rule's test decides where its evidence comes from (`evidence`).
"""

from dataclasses import dataclass

from transforms.derived.change_evidence import ChangeTest
from transforms.derived.outcome_sums import LADDER, NEAR_QUOTA
from transforms.derived.share_evidence import ABOVE, BELOW, ShareTest

MARGIN = 1.25
"""A quota is proposed as that of which 99 % of the tasks need no more, and a quarter more."""


@dataclass(frozen=True)
class RecommendationRule:
    """A rule of recommendations.

    Attributes:
        version: raise it, and that of the table, when the rule is changed.
        subject_kind: what the subject is.
        meaning: what was seen.
        advice: SQL, the recommendation in words, with subject, factor, current_value, proposed_value and
            the JSON evidence.
        test: when it is met.
        parameter: what could be changed; empty if it is nothing that kpiflow knows.
    """

    name: str
    version: int
    subject_kind: str
    meaning: str
    advice: str
    test: ShareTest | ChangeTest
    parameter: str = ""


def _resize(
    measure: str, parameter: str, unit: str, divisor: int = 1
) -> tuple[RecommendationRule, RecommendationRule]:
    """The two rules about a quota: it is often reached, or never nearly."""
    tail = f"tasks for ' || subject || ', from a mean of ' || current_value || ' {unit}"
    near, far = LADDER.index(NEAR_QUOTA) + 1, LADDER.index(0.4) + 1
    proposal = divisor, f"peak * {MARGIN}"
    return (
        RecommendationRule(
            f"raise_{measure}_quota", 1, "agent_type",
            f"more than 5 % of the tasks use over {NEAR_QUOTA * 100:.0f} % of their {measure} quota",
            f"'raise {parameter} of {tail}' "
            "|| coalesce(' to ' || proposed_value || ' (times ' || factor || ')', '')",
            ShareTest(measure, near, ABOVE, 0.05, *proposal), parameter,
        ),
        RecommendationRule(
            f"lower_{measure}_quota", 1, "agent_type",
            f"less than 1 % of the tasks use over 40 % of their {measure} quota",
            f"'lower {parameter} of {tail} to ' || proposed_value || ' (times ' || factor || ')'",
            ShareTest(measure, far, BELOW, 0.01, *proposal), parameter,
        ),
    )  # fmt: skip


def _watch(name: str, metric: str, worse: str) -> RecommendationRule:
    """The rule that an agent became worse in a metric, and its type did not."""
    before, after = (f"format('{{:.5g}}', (evidence->>'{name}')::DOUBLE)" for name in ("before", "after"))
    return RecommendationRule(
        name, 1, "agent",
        f"the level of {metric} of an agent was {worse}, and that of its type did not change with it",
        f"'look at agent ' || subject || ': the level of its {metric} changed from ' || {before} || ' to ' "
        f"|| {after} || ' at ' || (evidence->>'changed_at') || ', and that of its type, ' || "
        "(evidence->>'agent_type') || ', did not'",
        ChangeTest(metric, worse),
    )  # fmt: skip


RECOMMENDATION_RULES = (
    *_resize("memory", "max_memory_mb", "MB"),
    *_resize("cpu", "max_cpu_cores", "cores", 1000),
    RecommendationRule(
        "raise_time_quota", 1, "agent_type",
        f"more than 1 % of the tasks fail after {NEAR_QUOTA * 100:.0f} % of their time quota",
        "'tasks for ' || subject || ' fail when their time is over: raise max_execution_time_secs from a '"
        "|| 'mean of ' || current_value || ' s to ' || proposed_value || ', or find what slows them'",
        ShareTest("timeouts", 1, ABOVE, 0.01, 1, "1.5"), "max_execution_time_secs",
    ),
    RecommendationRule(
        "meet_deadlines", 1, "priority",
        "more than 5 % of the tasks are completed after their deadline",
        "'tasks of priority ' || subject || ' miss their deadline, a mean of ' || current_value || "
        "' s after creation: start them earlier, or give them more time'",
        ShareTest("deadlines", 1, ABOVE, 0.05), "deadline",
    ),
    RecommendationRule(
        "fix_producer", 1, "source",
        "more than 5 % of the reports are rejected",
        "'more than 5 % of the reports of ' || subject || ' are rejected: look at the causes with '"
        "|| '`kpiflow quarantine list` and correct their producer'",
        ShareTest("rejected", 1, ABOVE, 0.05),
    ),
    _watch("slower_agent", "latency_ms", "raised"),
    _watch("less_accurate_agent", "accuracy", "lowered"),
    _watch("agent_uses_more_cpu", "cpu_usage", "raised"),
    _watch("agent_uses_more_memory", "memory_mb", "raised"),
)  # fmt: skip
