"""report_id depends on what a report says, and on nothing else."""

import json
import random
from datetime import timedelta
from typing import Any

import pytest

from schemas.registry import load
from tests.builders import NOON, agent, messages, report
from transforms.validation.validate import MessageRules, judge_block


def ids(*documents: Any) -> list[str]:
    reports, refused = judge_block(messages(documents), load("kpi_report"), MessageRules())
    assert refused.num_rows == 0, refused.to_pylist()
    rows = sorted(
        zip(reports["message_id"].to_pylist(), reports["report_id"].to_pylist()),
        key=lambda row: int(row[0][1:]),
    )
    return [name for _, name in rows]


FULL = report(
    1,
    custom_metrics={"a": 1.0, "b": -0.0},
    network_bytes=5,
    error_details={"code": [1]},
    source_layer="é",
    priority=50,
    odd={"x": None},
)


def test_report_ids_are_those_written_down() -> None:
    assert ids(report(), FULL) == ["74b77c9c9807b07682f931a560dcaabe", "2cdfd97574675df331cb594bcdfedd10"]


def test_spelling_does_not_matter() -> None:
    respelt = json.dumps(dict(reversed(FULL.items())), indent=1, ensure_ascii=True).replace("\n", " ")
    shifted = FULL | {
        "recorded_at": "2025-10-22T14:00:00.000000999+02:00",
        "agent_id": FULL["agent_id"].upper(),
        "network_bytes": 5.0,
    }
    lacking = FULL | {"gpu_utilization": None, "custom_metrics": {"b": 0, "a": 1}}
    assert len(set(ids(FULL, respelt, shifted, lacking))) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": agent(9)},
        {"agent_id": agent(9)},
        {"recorded_at": (NOON + timedelta(microseconds=1)).isoformat()},
        {"latency_ms": 120.00000000000001},
        {"network_bytes": None},
        {"network_bytes": 0},
        {"custom_metrics": None},
        {"custom_metrics": {}},
        {"custom_metrics": {"a": 0.0, "b": 1.0}},
        {"error_details": None},
        {"error_details": {"code": [2]}},
        {"source_layer": None, "target_agent_type": "é"},
        {"odd": {}},
        {"odd": ...},
        {"gpu_utilization": 0.0},
        {"execution_context": FULL["execution_context"] | {"network_interfaces": []}},
        {"execution_context": FULL["execution_context"] | {"network_interfaces": ["a", "b"]}},
    ],
)
def test_any_change_of_content_is_another_report(change: dict[str, Any]) -> None:
    changed = {name: value for name, value in (FULL | change).items() if value is not ...}
    assert len(set(ids(FULL, changed))) == 2


def test_the_order_of_a_list_matters_and_that_of_names_does_not() -> None:
    context = FULL["execution_context"]
    lists = [
        FULL | {"execution_context": context | {"network_interfaces": each}}
        for each in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""])
    ]
    assert len(set(ids(*lists))) == 4


def test_an_id_does_not_depend_on_its_batch() -> None:
    documents = [report(i, custom_metrics={f"k{i % 7}": i}, note="x" * (i % 3)) for i in range(100)]
    together = dict(zip(range(100), ids(*documents)))
    shuffled = random.Random(1).sample(range(100), 100)
    assert [together[i] for i in shuffled] == ids(*(documents[i] for i in shuffled))
    assert together[42] == ids(documents[42])[0]
