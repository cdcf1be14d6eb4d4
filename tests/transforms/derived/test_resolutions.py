"""Which later record resolves an inconsistency, and which does not."""

import json
from typing import Any

import pyarrow as pa
import pytest

from tests.transforms.derived.contexts import HOUR, Row, agent, derive, report, result, store, task
from transforms.derived import inconsistencies, resolutions

LATE = {
    "task_unknown": {"tasks": [task("u"), task(received=90)]},
    "agent_unknown": {"agents": [agent("b"), agent(received=90)]},
    "recorded_before_creation": {"tasks": [task(created=6), task(received=90, version="v2")]},
    "recorded_after_completion": {"results": [result(completed=-6), result(received=90, version="v2")]},
    "cpu_over_quota": {"tasks": [task(max_cpu_cores=1.0), task(received=90, version="v2")]},
    "agent_type_mismatch": {
        "tasks": [task(target_agent_type="y"), task(received=90, version="v2")],
        "agents": [agent()],
    },
    "outcome_disagrees": {"results": [result(success=False), result(received=90, version="v2")]},
}


def resolve(**parts: Any) -> dict[str, Row]:
    """The record that resolves each inconsistency of the report `r`, by rule."""
    stored = store([report()], **{name: tuple(rows) for name, rows in parts.items()})
    table = inconsistencies.TABLE.table
    broken = pa.Table.from_pylist(derive(inconsistencies.TABLE, stored), schema=table.schema)
    rows = derive(resolutions.TABLE, stored | {table.name: broken})
    assert all(row["resolved_at"] > row["effective_at"] for row in rows)
    return {row["rule"]: json.loads(row["resolved_by"]) for row in rows}


@pytest.mark.parametrize("rule", LATE)
def test_a_later_record_that_fits_resolves_the_rule(rule: str) -> None:
    found = resolve(**LATE[rule])
    assert list(found) == [rule]
    assert found[rule]["version"] in ("v1", "v2")


def test_a_later_version_that_does_not_fit_resolves_nothing() -> None:
    tasks = [task(max_cpu_cores=1.0), task(received=90, version="v2", max_cpu_cores=1.5)]
    assert resolve(tasks=tasks) == {}


def test_the_first_record_that_fits_is_named() -> None:
    tasks = [task("u"), task(received=200, version="v1"), task(received=90, version="v2")]
    assert resolve(tasks=tasks) == {"task_unknown": {"kind": "task", "id": "t", "version": "v2"}}


@pytest.mark.parametrize(("received", "is_resolved"), [(24 * HOUR, True), (24 * HOUR + 1, False)])
def test_a_record_that_comes_a_day_later_resolves_nothing(received: float, is_resolved: bool) -> None:
    assert bool(resolve(tasks=[task("u"), task(received=received)])) == is_resolved
