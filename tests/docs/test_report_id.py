"""The page on ids is true: its programs give the ids of its test vectors, and those of the code."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.registry import load
from tests.builders import messages
from transforms.sources.archives.envelope_chunks import decode_lines
from transforms.validation.validate import MessageRules, judge_block

PAGE = (Path(__file__).parents[2] / "docs/reference/report-id.md").read_text(encoding="utf-8")
Definition = Callable[[dict[str, Any]], str]


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


VECTORS = [json.loads(text) for text in fenced("json")]
CONTEXT = VECTORS[0]["report"]["execution_context"]


@pytest.fixture(scope="module")
def programs() -> dict[str, Any]:
    """What the page's programs define."""
    names: dict[str, Any] = {}
    for program in fenced("python"):
        exec(compile(program, "report-id.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def defined(programs: dict[str, Any]) -> Definition:
    """The page's own `report_id`."""
    report_id: Definition = programs["report_id"]
    return report_id


def test_the_program_and_the_reader_know_a_bare_line_by_the_same_id(programs: dict[str, Any]) -> None:
    lines = [b'{"task_id": "t"}', b"no JSON \xff", b'{"task_id": "t"}']
    read = decode_lines(b"\r\n".join([*lines, b""]), 5).messages
    assert read["message_id"].to_pylist() == [
        programs["line_id"](number, line) for number, line in enumerate(lines, 5)
    ]
    assert set(read["source"].to_pylist()) == {"archive"}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_the_program_and_the_kernel_give_each_vector_its_id(
    vector: dict[str, Any], defined: Definition
) -> None:
    assert identified(vector["report"], defined) == (vector["id"], vector["id"])


@pytest.mark.parametrize(
    "change",
    [
        {"gpu_utilization": 0.25, "target_agent_type": "gpu", "error_details": "x"},
        {"custom_metrics": {}, "latency_ms": 1e-300, "recorded_at": "1969-07-20T20:17:40.5+00:00"},
        {"execution_context": CONTEXT | {"network_interfaces": ["b", "", "b"]}},
        {"execution_context": CONTEXT | {"gpu_info": {"z": 1, "a": []}}},
        {"custom_metrics": {"z": 1e9, "é": -1, "a": 0}, "network_bytes": 999_999_999_999},
    ],
)
def test_the_program_and_the_kernel_agree_on_other_reports(
    change: dict[str, Any], defined: Definition
) -> None:
    by_program, by_kernel = identified(VECTORS[0]["report"] | change, defined)
    assert by_program == by_kernel


def identified(report: dict[str, Any], report_id: Definition) -> tuple[str, str]:
    """What the page's program and the kernel call a report."""
    reports, refused = judge_block(messages([report], received_at=None), load("kpi_report"), MessageRules())
    assert refused["message"].to_pylist() == []
    (row,) = reports.to_pylist()
    return report_id(row), row["report_id"]
