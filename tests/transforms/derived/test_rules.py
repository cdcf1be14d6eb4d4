"""Each rule of consistency: a report that breaks it, and one at its boundary that does not."""

import json
import sys
from typing import Any

import pytest

from tests.transforms.derived.contexts import HOUR, Row, agent, derive, report, result, store, task
from transforms.derived.evidence import parse_evidence
from transforms.derived.inconsistencies import TABLE
from transforms.derived.rules import RULES

Parts = dict[str, Any]


def find_broken(
    reports: list[Row],
    tasks: tuple[Row, ...] = (task(),),
    results: tuple[Row, ...] = (result(),),
    agents: tuple[Row, ...] = (agent(),),
    **settings: Any,
) -> dict[tuple[str, str], Row]:
    """The evidence by report and rule."""
    rows = derive(TABLE, store(reports, tasks, results, agents), **settings)
    return {(row["report_id"], row["rule"]): json.loads(row["evidence"]) for row in rows}


def name_broken(*reports: Row, **parts: Any) -> set[str]:
    """The rules that the report `r` breaks."""
    return {rule for name, rule in find_broken(list(reports) or [report()], **parts) if name == "r"}


EARLIER = report("p", -60)
CASES: dict[str, tuple[Parts, Parts, Row]] = {
    "task_unknown": (
        {"tasks": (task("u"), task(received=61.01))},
        {"tasks": (task("u"), task(received=61))},
        {"tasks_since": "2025-10-22T11:59:51.000000Z"},
    ),
    "agent_unknown": (
        {"agents": (agent("b"), agent(received=61.01))},
        {"agents": (agent("b"), agent(received=61))},
        {"agents_since": "2025-10-22T11:59:00.000000Z"},
    ),
    "recorded_before_creation": (
        {"tasks": (task(created=5.000001),)},
        {"tasks": (task(created=5),)},
        {"created_at": "2025-10-22T12:00:05.000001Z", "task_version": "v1"},
    ),
    "recorded_after_completion": (
        {"results": (result(completed=-5.000001),)},
        {"results": (result(completed=-5),)},
        {"completed_at": "2025-10-22T11:59:54.999999Z", "result_version": "v1"},
    ),
    "cpu_over_quota": (
        {"tasks": (task(max_cpu_cores=1.98),)},
        {"tasks": (task(max_cpu_cores=1.981),)},
        {"used": 2.0, "quota": 1.98, "task_version": "v1"},
    ),
    "memory_over_quota": (
        {"tasks": (task(max_memory_mb=506),)},
        {"tasks": (task(max_memory_mb=507),)},
        {"used": 512.0, "quota": 506, "task_version": "v1"},
    ),
    "time_over_quota": (
        {"reports": [report(latency_ms=1010.01)]},
        {"reports": [report(latency_ms=1010.0)]},
        {"used": 1.01001, "quota": 1, "task_version": "v1"},
    ),
    "network_over_quota": (
        {"reports": [report(network_bytes=1_010_001)]},
        {"reports": [report(network_bytes=1_010_000)]},
        {"used": 8.080008, "quota": 8, "task_version": "v1"},
    ),
    "agent_type_mismatch": (
        {"agents": (agent(agent_type="y", capabilities=["z"]),)},
        {"agents": (agent(agent_type="y", capabilities=["z", "x"]),)},
        {"agent_type": "y", "capabilities": ["z"], "target_agent_type": "x", "task_version": "v1"},
    ),
    "outcome_disagrees": (
        {"reports": [report(error_details="{}")]},
        {"reports": [report(error_details="{}")], "results": (result(success=False),)},
        {"success": True, "has_error_details": True, "result_version": "v1"},
    ),
    "task_claimed_twice": (
        {"reports": [report(), EARLIER | {"agent_id": "b"}]},
        {"reports": [report(), EARLIER | {"agent_id": "b", "task_id": "u"}]},
        {"report_id": "p", "agent_id": "b", "recorded_at": "2025-10-22T11:59:00.000000Z", "claims": 1},
    ),
    "task_reported_twice": (
        {"reports": [report(), EARLIER]},
        {"reports": [report(), EARLIER | {"task_id": "u"}]},
        {"report_id": "p", "recorded_at": "2025-10-22T11:59:00.000000Z", "claims": 1},
    ),
    "task_changed": (
        {"tasks": (task(), task(received=61, version="v2"))},
        {"tasks": (task(), task(received=61.01, version="v2"))},
        {"versions": 2, "task_version": "v2"},
    ),
    "result_changed": (
        {"results": (result(), result(version="v0"))},
        {"results": (result(), result("u", version="v0"))},
        {"versions": 2, "result_version": "v1"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_is_broken_just_past_its_boundary_and_kept_at_it(rule: str) -> None:
    broken, kept, evidence = CASES[rule]
    found = find_broken(**{"reports": [report()]} | broken)
    assert found["r", rule] == evidence
    assert ("r", rule) not in find_broken(**{"reports": [report()]} | kept)


def test_every_rule_has_a_case() -> None:
    assert [rule.name for rule in RULES if rule.relation != "levels"] == list(CASES)


def test_a_report_that_fits_its_task_result_and_agent_breaks_no_rule() -> None:
    assert name_broken() == set()


def test_without_records_only_other_reports_can_disagree() -> None:
    reports = [report(), EARLIER | {"agent_id": "b"}]
    assert name_broken(*reports, tasks=(), results=(), agents=()) == {"task_claimed_twice"}


@pytest.mark.parametrize(("since", "rules"), [(1, {"task_unknown"}), (1.000001, set())])
def test_a_task_is_expected_from_the_first_task_on(since: float, rules: set[str]) -> None:
    assert name_broken(tasks=(task("u", received=since),)) == rules


def test_an_agent_without_a_time_counts_from_the_beginning() -> None:
    assert name_broken(agents=(agent(received=None),)) == set()
    assert name_broken(agents=(agent("b", received=None),)) == set()


def test_a_task_that_was_created_a_day_before_is_not_in_view() -> None:
    assert name_broken(tasks=(task(created=-24 * HOUR),)) == set()
    assert name_broken(tasks=(task(created=-24 * HOUR - 0.001),)) == {"task_unknown"}


def test_a_report_without_a_time_of_receipt_waits_from_when_it_was_recorded() -> None:
    assert name_broken(report(late=None), tasks=(task(received=60),)) == set()
    assert name_broken(report(late=None), tasks=(task("u"), task(received=60.1))) == {"task_unknown"}


def test_of_two_versions_with_one_time_the_larger_counts() -> None:
    small, large = task(version="v1", max_cpu_cores=1.0), task(version="v2")
    assert name_broken(tasks=(small, large)) == {"task_changed"}
    swapped = (small | {"version": "v2"}, large | {"version": "v1"})
    assert name_broken(tasks=swapped) == {"task_changed", "cpu_over_quota"}


def test_a_task_without_quota_is_never_exceeded() -> None:
    unlimited = dict.fromkeys(
        ("max_cpu_cores", "max_memory_mb", "max_execution_time_secs", "max_network_mbps")
    )
    assert name_broken(report(latency_ms=1e5, network_bytes=10**11), tasks=(task(**unlimited),)) == set()


def test_the_evidence_of_endless_traffic_is_json() -> None:
    instant = report(latency_ms=5e-324, network_bytes=10**11)
    (row,) = derive(TABLE, store([instant], (task(max_network_mbps=1),), (result(),), (agent(),)))
    assert row["rule"] == "network_over_quota"
    assert parse_evidence(row["evidence"], TABLE.table)["used"] == sys.float_info.max


def test_a_result_that_fails_disagrees_with_a_report_without_error() -> None:
    assert name_broken(results=(result(success=False),)) == {"outcome_disagrees"}


def test_clocks_and_quotas_have_a_tolerance_that_is_a_setting() -> None:
    tasks = (task(created=2, max_memory_mb=500),)
    assert name_broken(tasks=tasks, clock_tolerance_seconds=2, quota_tolerance=0.03) == set()
    assert name_broken(tasks=tasks, clock_tolerance_seconds=1.5, quota_tolerance=0) == {
        "recorded_before_creation",
        "memory_over_quota",
    }


def test_an_agent_that_changes_its_type_fits_by_the_one_before_until_the_wait_is_over() -> None:
    before, after = agent(), agent(received=30, agent_type="y", version="v2")
    assert name_broken(agents=(before, after)) == set()
    assert name_broken(agents=(before, after | {"effective_at": before["effective_at"]})) == {
        "agent_type_mismatch"
    }
    assert name_broken(agents=(after, agent(received=31))) == set()


def test_an_agent_that_goes_back_has_its_type_again() -> None:
    away = agent(received=-50, agent_type="y", version="v2")
    assert name_broken(agents=(agent(), away, agent(received=-40, version="v0"))) == set()


@pytest.mark.parametrize(
    ("recorded", "late", "is_broken"),
    [
        (-24 * HOUR, 1, True),
        (-24 * HOUR - 0.001, 1, False),
        (60, -59.5, True),  # of a fast clock: recorded later, received before
        (61, -60.5, True),
        (61.001, -60.5, False),
        (0, 1, False),  # equal times: the larger report_id came second, and that is `z`
        (-30, 31.5, False),  # recorded before, received after: the other report is the second
    ],
)
def test_of_two_claims_the_second_to_come_is_inconsistent(
    recorded: float, late: float, is_broken: bool
) -> None:
    rules = name_broken(report(), report("z", recorded, late))
    assert ("task_reported_twice" in rules) == is_broken
    others = find_broken([report(), report("z", recorded, late)])
    if abs(recorded) <= 60:
        assert (("z", "task_reported_twice") in others) != is_broken


def test_the_first_of_several_claims_is_the_evidence() -> None:
    claims = [report(name, -60 - place, agent_id="b") for place, name in enumerate("pqs")]
    found = find_broken([report(), *claims])["r", "task_claimed_twice"]
    assert (found["report_id"], found["claims"]) == ("s", 3)
