"""Recommendations: each rule with a planted cause, what it says, and when it says nothing."""

import json
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from pipelines.settings import Settings
from tests.benchmarks.recommendations import SHARE_RULES, make_series
from tests.builders import NOON
from tests.transforms.derived.contexts import Row, derive, report, result, store, task
from transforms.derived import outcome_sums, recommendations, share_evidence
from transforms.derived.bounds import Period
from transforms.derived.derived_table import DerivedTable
from transforms.derived.evidence import PERIOD_HOURS
from transforms.derived.features import TABLE as FEATURES
from transforms.derived.recommendation_rules import RecommendationRule
from transforms.derived.registry import TABLES, find_stored_table
from transforms.derived.run import derive_rows

RULES = {rule.name: rule for rule in SHARE_RULES}
EVERY = 10.0
"""Seconds from a task to the next."""


def run_tasks(count: int = 400, **fields: Any) -> dict[str, pa.Table]:
    """An output of `count` tasks with their reports and results. The fields of each, by kind, are values, or
    functions of its number."""
    given = {kind: fields.pop(kind, {}) for kind in ("report", "task", "result")}

    def fill(kind: str, number: int) -> Row:
        return {name: each(number) if callable(each) else each for name, each in given[kind].items()}

    names = [f"t{number}" for number in range(count)]
    times = [number * EVERY for number in range(count)]
    rows = list(enumerate(zip(names, times)))
    quota = {"max_cpu_cores": 4.0, "max_memory_mb": 1000, "max_execution_time_secs": 10, "priority": 50}
    return store(
        [
            report(f"r {n}", t, **{"task_id": n, "latency_ms": 1000.0} | fill("report", i))
            for i, (n, t) in rows
        ],
        [task(n, t - 10, t - 9, **quota | fill("task", i)) for i, (n, t) in rows],
        [result(n, t, t + 2, **fill("result", i)) for i, (n, t) in rows],
        **fields,
    )


def reject(count: int) -> dict[str, pa.Table]:
    """Rejected reports, as many in each minute."""
    rows = [
        {
            "source": "s",
            "message_id": f"rejected {number}",
            "received_at": NOON + timedelta(seconds=number * 5),
            "kind": "kpi_report",
            "reason": "schema",
        }
        for number in range(count)
    ]
    return {"quarantine": pa.Table.from_pylist(rows, schema=find_stored_table("quarantine").schema)}


def recommend(stored: dict[str, pa.Table]) -> list[Row]:
    sums = derive_rows(outcome_sums.TABLE, stored, Settings().derived_settings())
    return derive(recommendations.TABLE, {"outcome_sums": pa.table(sums)})


def every(nth: int, value: Any, other: Any) -> Any:
    """`value` for every n-th task, else `other`."""
    return lambda number: other if number % nth else value


CAUSES: dict[str, tuple[dict[str, Any], str, float | None, float | None]] = {
    "raise_memory_quota": ({"report": {"memory_mb": every(4, 1100.0, 700.0)}}, "x", 1000, 1562.5),
    "lower_memory_quota": (
        {"count": 1800, "result": {"memory_peak_mb": 190.0}, "report": {"memory_mb": 50.0}}, "x", 1000, 250,
    ),
    "raise_cpu_quota": ({"report": {"cpu_usage": every(4, 1.0, 0.6)}}, "x", 4, 6.25),
    "lower_cpu_quota": ({"count": 1800, "report": {"cpu_usage": 0.05}}, "x", 4, 0.5),
    "raise_time_quota": (
        {"result": {"success": every(8, False, True), "execution_time_ms": every(8, 9900, 1000)}},
        "x", 10, 15,
    ),
    "meet_deadlines": ({"task": {"deadline": every(5, NOON, NOON + timedelta(days=1))}}, "50", None, None),
    "fix_producer": (reject(600), "s", None, None),
}  # fmt: skip
"""By rule: what makes it met, for whom, and the current and proposed mean of its parameter."""


@pytest.mark.parametrize("name", RULES)
def test_each_rule_finds_a_planted_cause_and_no_other_rule_does(name):
    fields, subject, current, proposed = CAUSES[name]
    (row,) = recommend(run_tasks(**fields))
    assert (row["rule"], row["subject"], row["state"], row["outcome"]) == (name, subject, "new", None)
    assert row["since"] == row["decided_at"]
    assert row["confidence"] >= 1 - share_evidence.LEVEL
    if proposed is not None:
        assert (row["current"], row["proposed"]) == (current, proposed)
    evidence, rule = json.loads(row["evidence"]), RULES[name]
    low, high = evidence["low"], evidence["high"]
    assert low <= evidence["share"] <= high
    assert not low < rule.test.limit < high
    assert subject in row["recommendation"]


def test_a_task_that_fits_its_quotas_and_deadline_makes_no_recommendation():
    assert recommend(run_tasks(report={"memory_mb": 700.0, "cpu_usage": 0.6})) == []


def test_few_tasks_make_no_recommendation():
    stored = run_tasks(share_evidence.LEAST_TASKS - 1, report={"memory_mb": 2000.0})
    assert recommend(stored) == []


@pytest.mark.parametrize("cores", [5e-324, 1e16, 1.7e308])
def test_a_quota_of_any_number_of_cores_stops_no_table(cores: float):
    stored = run_tasks(20, task={"max_cpu_cores": cores})
    rows = {table: derive_rows(table, stored, Settings().derived_settings()) for table in TABLES}
    sums = [row for row in rows[outcome_sums.TABLE].to_pylist() if row["measure"] == "cpu"]
    assert sum(row["task_count"] for row in sums) == 20
    assert sum(row["total"] for row in sums) == 20 * round(min(cores, 1e9) * 1000)
    assert rows[FEATURES].num_rows == 20


def test_a_task_of_two_versions_is_not_counted():
    stored = run_tasks(20)
    stored["inconsistencies"] = pa.Table.from_pylist(
        [{"report_id": "r t3", "rule": "task_changed", "recorded_at": NOON + timedelta(seconds=30)}],
        schema=find_stored_table("inconsistencies").schema,
    )
    sums = derive_rows(outcome_sums.TABLE, stored, Settings().derived_settings()).to_pylist()
    assert sum(row["task_count"] for row in sums if row["measure"] == "memory") == 19


def _recommend_series(rule: RecommendationRule, *shares: float, total: int = 1000) -> list[Row]:
    """The rows of a rule over periods in which its share is one of these each."""
    parts = []
    for period, share in enumerate(shares):
        rows = make_series(rule, share, 1, 20, period, PERIOD_HOURS)
        moved = [time + timedelta(hours=12 * period) for time in rows["time_window_start"].to_pylist()]
        rows = rows.set_column(0, rows.schema.field(0), pa.array(moved, rows.schema.field(0).type))
        if period:
            rows = rows.set_column(4, "total", pa.array([20 * total] * rows.num_rows, pa.int64()))
        parts.append(rows)
    found = derive(recommendations.TABLE, {"outcome_sums": pa.concat_tables(parts)})
    return [row for row in found if row["rule"] == rule.name]


def test_a_cause_that_stays_is_said_once_a_period_and_keeps_its_beginning():
    first, second = _recommend_series(RULES["raise_memory_quota"], 0.3, 0.3)
    assert (first["state"], second["state"]) == ("new", "renewed")
    assert second["since"] == first["decided_at"] < second["decided_at"] < first["expires_at"]


@pytest.mark.parametrize(("total", "outcome"), [(1000, "unchanged"), (1100, "changed")])
def test_a_cause_that_goes_away_ends_the_recommendation_and_says_whether_the_quota_had_changed(
    total, outcome
):
    first, second = _recommend_series(RULES["raise_memory_quota"], 0.3, 0.01, total=total)
    assert (first["state"], second["state"], second["outcome"]) == ("new", "ended", outcome)
    assert (second["recommendation"], second["expires_at"]) == (None, None)


def test_a_share_at_the_limit_is_recommended_by_chance_in_hardly_any_period():
    rule = RULES["raise_time_quota"]
    rows = make_series(rule, rule.test.limit, 200, 20, 7, PERIOD_HOURS)
    assert derive(recommendations.TABLE, {"outcome_sums": rows}) == []


@pytest.mark.parametrize(
    "table", [outcome_sums.TABLE, recommendations.TABLE], ids=lambda table: table.table.name
)
def test_rows_do_not_depend_on_how_time_is_cut(table: DerivedTable):
    stored = run_tasks(300, report={"memory_mb": every(4, 1100.0, 700.0)}, **reject(450))
    settings = Settings().derived_settings()
    if table is recommendations.TABLE:
        stored = {"outcome_sums": pa.table(derive_rows(outcome_sums.TABLE, stored, settings))}
    whole = derive_rows(table, stored, settings).to_pylist()
    noon, step = int(NOON.timestamp()) * 1_000_000, 600_000_000
    parts: list[Row] = []
    for number in range(6):
        period = Period(noon + number * step, noon + (number + 1) * step)
        rows = derive_rows(table, stored, settings, period, threads=2).to_pylist()
        parts += [
            row for row in rows if period.start <= row[str(table.table.time)].timestamp() * 1e6 < period.end
        ]
    assert parts == whole
