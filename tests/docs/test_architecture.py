"""The architecture page holds: imports go one way, its programs define report_id and line_id, what it names
is there."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.settings import Settings
from schemas.registry import load
from schemas.tables import FLEET, TABLES
from tests.builders import messages
from transforms.sources.archives.envelope_blocks import decode
from transforms.validation.validate import Rules, judge_block

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MAY_IMPORT = {
    "schemas": {"schemas"},
    "transforms": {"schemas", "transforms"},
    "runners": {"runners"},
    "pipelines": {"schemas", "transforms", "pipelines", "runners"},
}
Definition = Callable[[dict[str, Any]], str]
WIRING = {"pipelines/graph.py", "pipelines/assembly.py", "pipelines/settings.py"}


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


VECTORS = [json.loads(text) for text in fenced("json")]
CONTEXT = VECTORS[0]["report"]["execution_context"]


def modules(package: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py"))


def imported(module: str) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "."


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package: str) -> None:
    foreign = set(MAY_IMPORT) | {"tests"}
    found = {
        (module, name)
        for module in modules(package)
        for name in imported(module)
        if name.partition(".")[0] in foreign
    }
    assert modules(package)
    assert {pair for pair in found if pair[1].partition(".")[0] not in MAY_IMPORT[package]} == set()


def test_schemas_are_free_of_beam() -> None:
    assert [
        module
        for module in modules("schemas")
        if any(name.startswith("apache_beam") for name in imported(module))
    ] == []


def test_runners_are_used_where_jobs_start_and_nowhere_in_the_wiring() -> None:
    users = {
        module
        for module in modules("pipelines")
        if any(name.partition(".")[0] == "runners" for name in imported(module))
    }
    assert "pipelines/jobs/backfill.py" in users
    assert {Path(module).parent.as_posix() for module in users} <= {"pipelines/jobs", "pipelines/commands"}
    assert not users & WIRING


@pytest.fixture(scope="module")
def programs() -> dict[str, Any]:
    """What the page's programs define."""
    names: dict[str, Any] = {}
    for program in fenced("python"):
        exec(compile(program, "architecture.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def defined(programs: dict[str, Any]) -> Definition:
    """The page's own `report_id`."""
    report_id: Definition = programs["report_id"]
    return report_id


def test_the_program_and_the_reader_know_a_bare_line_by_the_same_id(programs: dict[str, Any]) -> None:
    lines = [b'{"task_id": "t"}', b"no JSON \xff", b'{"task_id": "t"}']
    read = decode(b"\r\n".join([*lines, b""]), 5).raw
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
    reports, refused = judge_block(messages([report], received_at=None), load("kpi_report"), Rules())
    assert refused["message"].to_pylist() == []
    (row,) = reports.to_pylist()
    return report_id(row), row["report_id"]


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:schemas|transforms|pipelines|runners|tests|docs)/[\w./]+)`", PAGE)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_setting_and_column_that_is_named_exists() -> None:
    known = set(Settings.model_fields) | {name for table in TABLES.values() for name in table.schema.names}
    known |= {"row", *TABLES, FLEET.name, "build", "flock", "null", "report_id", "flat"}
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", PAGE))
    assert named
    assert named <= known
