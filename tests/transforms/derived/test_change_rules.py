"""Rules about an agent that changed when its type did not, from rows of `trends`."""

import json
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from pipelines.settings import Settings
from tests.builders import NOON
from transforms.derived.bounds import Period
from transforms.derived.change_evidence import ChangeTest
from transforms.derived.recommendation_rules import RECOMMENDATION_RULES, RecommendationRule
from transforms.derived.recommendations import TABLE
from transforms.derived.run import derive_rows
from transforms.derived.trend_sql import METRICS
from transforms.derived.trends import TRENDS

Row = dict[str, Any]
RULES = [rule for rule in RECOMMENDATION_RULES if isinstance(rule.test, ChangeTest)]
SETTINGS = Settings().derived_settings()


def slope(metric: str, minute: int = 0, kind: str = "inference") -> Row:
    """The slope of a type: it is watched."""
    return {"time_window_start": at(minute), "level": "agent_type", "target_agent_type": kind,
            "metric": metric, "kind": "slope", "verdict": "steady", "slope": 0.0}  # fmt: skip


def change(metric: str, minute: int, by: float, **fields: Any) -> Row:
    """A change of an agent's level of 1, by a factor or difference of `by`, that was seen in a minute."""
    after = 1 + by
    found = {
        "time_window_start": at(minute), "level": "agent", "agent_id": "a", "only_type": "inference",
        "metric": metric, "kind": "change", "verdict": "raised" if by > 0 else "lowered",
        "changed_at": at(minute - 5), "before": 1.0, "after": after, "change": by, "change_low": by / 2,
        "change_high": by * 2, "z": 9.0, "threshold": 5.0, "false_alarms": 1e-6,
    }  # fmt: skip
    return found | fields


def of_type(metric: str, minute: int, by: float, **fields: Any) -> Row:
    """The same of the agent's type."""
    own = {"level": "agent_type", "agent_id": None, "only_type": None, "target_agent_type": "inference"}
    return change(metric, minute, by, **own | fields)


def at(minute: int) -> datetime:
    return NOON + timedelta(minutes=minute)


def recommend(*rows: Row, period: Period | None = None) -> list[Row]:
    stored = {"trends": pa.Table.from_pylist(list(rows), schema=TRENDS.schema)}
    given = () if period is None else (period,)
    return derive_rows(TABLE, stored, SETTINGS, *given).to_pylist()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_finds_an_agent_that_became_worse_when_its_type_did_not(rule: RecommendationRule) -> None:
    assert isinstance(rule.test, ChangeTest)
    metric, sign = rule.test.metric, 1 if rule.test.worse == "raised" else -1
    (row,) = recommend(slope(metric), change(metric, 30, 0.5 * sign))
    assert (row["rule"], row["subject_kind"], row["subject"]) == (rule.name, "agent", "a")
    assert (row["state"], row["decided_at"], row["since"]) == ("new", at(30), at(30))
    assert row["expires_at"] == NOON + timedelta(hours=24)
    assert row["confidence"] == pytest.approx(1 - 1e-6)
    assert "look at agent a: " in row["recommendation"]
    assert "its type, inference, did not" in row["recommendation"]
    evidence = json.loads(row["evidence"])
    assert (evidence["metric"], evidence["change"]) == (metric, 0.5 * sign)
    assert {evidence["low"], evidence["high"]} == {0.25 * sign, sign}
    assert evidence["changed_at"] == "2025-10-22T12:25:00.000000Z"
    assert recommend(slope(metric), change(metric, 30, -0.5 * sign)) == []


def test_the_rules_are_about_metrics_that_trends_has() -> None:
    assert {rule.test.metric for rule in RULES if isinstance(rule.test, ChangeTest)} <= set(METRICS)


@pytest.mark.parametrize(
    "others",
    [
        [change("latency_ms", 30, 0.5, only_type=None), slope("latency_ms")],
        [change("latency_ms", 30, 0.5, false_alarms=0.3), slope("latency_ms")],
        [change("latency_ms", 30, 0.5)],
        [change("latency_ms", 30, 0.5), slope("latency_ms", kind="other"), slope("accuracy")],
        [change("latency_ms", 200, 0.5), slope("latency_ms")],
        [change("latency_ms", 30, 0.5), slope("latency_ms"), of_type("latency_ms", 28, 0.4)],
    ],
    ids=["several types", "common alarm", "no slope", "another slope", "old slope", "the type changed"],
)  # fmt: skip
def test_nothing_is_recommended_where_the_type_may_be_the_cause(others: list[Row]) -> None:
    assert recommend(*others) == []


@pytest.mark.parametrize(
    "other",
    [
        of_type("latency_ms", 28, 0.1), of_type("latency_ms", 28, -0.5), of_type("accuracy", 28, 0.5),
        of_type("latency_ms", 28, 0.5, changed_at=at(-60)),
        of_type("latency_ms", 28, 0.5, target_agent_type="other"),
    ],
    ids=["less than half", "the other way", "another metric", "long before", "another type"],
)  # fmt: skip
def test_another_change_is_not_that_of_the_agent(other: Row) -> None:
    (row,) = recommend(slope("latency_ms"), change("latency_ms", 30, 0.5), other)
    assert row["rule"] == "slower_agent"


def test_it_ends_when_the_agent_goes_back_or_its_type_is_seen_to_have_changed() -> None:
    first = slope("latency_ms"), change("latency_ms", 30, 0.5)
    _, back = recommend(*first, change("latency_ms", 300, -0.3))
    assert (back["state"], back["decided_at"], back["since"]) == ("ended", at(300), at(30))
    assert (back["recommendation"], back["expires_at"], back["outcome"]) == (None, None, "unknown")
    assert json.loads(back["evidence"])["change"] == -0.3
    _, too = recommend(*first, of_type("latency_ms", 40, 0.5))
    assert (too["state"], too["decided_at"]) == ("ended", at(40))
    assert json.loads(too["evidence"])["level"] == "agent_type"
    once, again = recommend(*first, slope("latency_ms", 90), change("latency_ms", 100, 0.4))
    assert (once["state"], again["state"], again["since"]) == ("new", "renewed", at(30))


def test_what_a_row_says_does_not_depend_on_how_time_is_cut() -> None:
    rows = [slope("latency_ms", minute) for minute in range(0, 40 * 60, 60)]
    rows += [change("latency_ms", 5 + 97 * n, 0.5 if n % 3 else -0.3) for n in range(20)]
    rows += [of_type("latency_ms", minute, 0.5) for minute in (400, 1100)]
    whole, start, step = recommend(*rows), int(NOON.timestamp()) * 10**6, 4207 * 10**6
    assert len({row["state"] for row in whole}) == 3
    parts: list[Row] = []
    for number in range(33):
        period = Period(start + number * step, start + (number + 1) * step)
        found = recommend(*rows, period=period)
        parts += [row for row in found if period.start <= row["decided_at"].timestamp() * 1e6 < period.end]
    assert parts == whole
