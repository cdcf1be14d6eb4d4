"""The architecture page holds: imports go one way, its programs define report_id and line_id, what it names
is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.settings import Settings
from schemas.tables import FLEET, TABLES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MAY_IMPORT = {
    "schemas": {"schemas"},
    "transforms": {"schemas", "transforms"},
    "runners": {"runners"},
    "pipelines": {"schemas", "transforms", "pipelines", "runners"},
}
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "envelopes": {"core"},
    "objects": {"core"},
    "redis": {"core"},
    "storage": {"core", "objects"},
    "encryption": {"core", "storage"},
    "validation": {"core"},
    "sources": {"core", "encryption", "envelopes", "objects", "redis", "storage", "validation"},
    "analysis": set(),
    "derived": {"analysis", "core", "encryption", "sinks", "storage"},
    "sinks": {"core", "encryption", "envelopes", "objects", "redis", "storage", "validation"},
}
"""Rooms of transforms, and what each may import beside itself. Sources and sinks do not know each other."""
WIRING = {"pipelines/graph.py", "pipelines/assembly.py", "pipelines/settings.py"}


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


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_is_below_it(room: str) -> None:
    found = {
        (module, name)
        for module in modules(f"transforms/{room}")
        for name in imported(module)
        if name.startswith("transforms.")
    }
    assert modules(f"transforms/{room}")
    assert {pair for pair in found if pair[1].split(".")[1] not in ROOMS[room] | {room}} == set()


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
    assert "pipelines/jobs/engines.py" in users
    assert {Path(module).parent.as_posix() for module in users} <= {"pipelines/jobs", "pipelines/commands"}
    assert not users & WIRING


GENERIC = (
    "pipelines/assembly.py",
    "pipelines/graph.py",
    "pipelines/commands/doctor.py",
    "pipelines/commands/reconcile.py",
    "pipelines/commands/status.py",
    "pipelines/commands/stream.py",
    "pipelines/jobs/dataflow.py",
    "pipelines/jobs/dataflow_stream.py",
    "pipelines/jobs/job_status.py",
    "pipelines/jobs/pending_rows.py",
    "pipelines/jobs/stream.py",
    "pipelines/jobs/stream_job.py",
    "pipelines/verify/reconcile.py",
    "pipelines/verify/source_messages.py",
    "transforms/sources/reader_status.py",
    "transforms/sources/source.py",
)
"""Modules that use any source: only by its protocol, made by the list in pipelines/sources.py."""


@pytest.mark.parametrize("module", GENERIC)
def test_what_uses_any_source_knows_no_kind_of_source(module: str) -> None:
    kinds = {
        f"transforms.sources.{path.name}"
        for path in (ROOT / "transforms" / "sources").iterdir()
        if path.is_dir()
    }
    assert "transforms.sources.redis" in kinds
    kinds |= {"redis", "transforms.redis", "pipelines.connections"}
    assert [
        name for name in imported(module) if any(f"{name}.".startswith(f"{kind}.") for kind in kinds)
    ] == []


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:schemas|transforms|pipelines|runners|tests|docs)/[\w./]+)`", PAGE)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("package", ["schemas", "transforms", "pipelines"])
def test_every_room_is_named(package: str) -> None:
    rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert rooms
    assert {room for room in rooms if f"`{package}/{room}/`" not in PAGE} == set()


def test_every_setting_and_column_that_is_named_exists() -> None:
    known = set(Settings.model_fields) | {name for table in TABLES.values() for name in table.schema.names}
    known |= {"row", *TABLES, FLEET.name, "build", "flock", "null", "report_id", "flat"}
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", PAGE))
    assert named
    assert named <= known
