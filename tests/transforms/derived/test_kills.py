"""`kpiflow derive` that is killed, that runs twice at once, or that finds files it did not write: the next
run makes the same files."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.jobs.derive import derive as derive_output
from pipelines.jobs.derive import make_deriver
from pipelines.settings import Settings
from pipelines.verify.derived_checks import find_derived_problems
from schemas.tables import AGENTS, REPORTS, TASKS
from tests.builders import NOON
from tests.outputs import open_output
from tests.transforms.derived.derive_process import STEPS, Kill, finish, start_derive
from tests.transforms.derived.outputs import MINUTE, make_agent, make_report, make_task, write
from transforms.derived import inconsistencies
from transforms.derived.registry import DERIVED

VALUES = Settings().derived_settings()
SIGKILLED = -9


def read_files(output: Path) -> dict[str, bytes]:
    """The bytes of all files of derived tables by name, and of what is left of unfinished ones."""
    files = [path for path in sorted(output.rglob("*")) if path.is_file()]
    names = {path: path.relative_to(output).as_posix() for path in files}
    return {
        name: path.read_bytes()
        for path, name in names.items()
        if name.partition("/")[0] in DERIVED or ".kpiflow" in path.suffix or "_derive/work" in name
    }


def make_stored(output: Path, reports: int) -> None:
    """Reports of two hours, of tasks and agents that are known, unknown, late or changed."""
    open_output(output, Settings(), create=True)
    hours = [NOON + number % 2 * 60 * MINUTE + number * MINUTE for number in range(reports)]
    write(output, REPORTS, [make_report(n, at, 0 * MINUTE, n % 3, n % 2) for n, at in enumerate(hours)])
    write(output, TASKS, [make_task(n, NOON - MINUTE, NOON + n * 2 * MINUTE, n) for n in range(2)])
    write(output, AGENTS, [make_agent(n, NOON + n * MINUTE, 0) for n in range(2)])


@pytest.fixture(scope="module")
def stale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output that was derived, and whose stored rows have changed since: files are stale, missing, and
    without rows."""
    output = tmp_path_factory.mktemp("stale") / "out"
    make_stored(output, 3)
    write(output, REPORTS, [make_report(9, NOON + 180 * MINUTE, 0 * MINUTE, 9)])
    derive_output(output, make_deriver(output, VALUES))
    next((output / "kpi_reports").rglob("hour=15/*.parquet")).unlink()
    make_stored(output, 4)
    return output


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the same rows in an output that is derived once."""
    output = tmp_path_factory.mktemp("once") / "out"
    make_stored(output, 4)
    derive_output(output, make_deriver(output, VALUES))
    return read_files(output)


@pytest.fixture
def output(stale: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stale, tmp_path / "out")


@pytest.mark.parametrize(
    ("step", "side"),
    [(step, "before") for step in STEPS] + [(step, "after") for step in ("rename it", "write the state")],
)
def test_killed_at_any_step_and_run_again_it_gives_the_same_files(
    output: Path, expected: dict[str, bytes], step: str, side: str
) -> None:
    assert finish(start_derive(output, Kill(side, step))) == SIGKILLED
    derive_output(output, make_deriver(output, VALUES))
    assert read_files(output) == expected


def test_two_that_run_at_once_give_the_same_files(output: Path, expected: dict[str, bytes]) -> None:
    assert [finish(each) for each in [start_derive(output), start_derive(output)]] == [0, 0]
    assert read_files(output) == expected


def cut(data: bytes) -> bytes:
    return data[:-20]


def empty(data: bytes) -> bytes:
    return b""


def change_rows(data: bytes) -> bytes:
    """One bit of the rows; what the footer says stays."""
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


@pytest.mark.parametrize("damage", [cut, empty, change_rows])
def test_a_damaged_derived_file_is_named_and_derived_again(
    output: Path, expected: dict[str, bytes], damage: Callable[[bytes], bytes]
) -> None:
    derive_output(output, make_deriver(output, VALUES))
    file = next((output / "features").rglob("*.parquet"))
    file.write_bytes(damage(file.read_bytes()))
    (problem, *_) = find_derived_problems(output)
    assert file.relative_to(output).as_posix() in problem
    if "remove it" in problem:
        file.unlink()
    assert run(["derive", str(output)]) == 0
    assert list(find_derived_problems(output)) == []
    assert read_files(output) == expected


def test_files_of_another_version_are_derived_again(
    output: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = inconsistencies.TABLE
    for version in (table.version + 1, table.version):
        monkeypatch.setitem(DERIVED, table.table.name, replace(table, version=version))
        derive_output(output, make_deriver(output, VALUES))
        newest = read_files(output)
        assert any(newest[name] != expected[name] for name in newest) == (version != table.version)
    assert newest == expected


def test_an_output_of_an_older_version_without_derived_tables_is_derived(
    stale: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """Its description names no schema of records and no setting of derived tables."""
    output = tmp_path / "old"
    make_stored(output, 4)
    description = json.loads((output / "_kpiflow.json").read_text())
    description["schemas"] = {"kpi_report": description["schemas"]["kpi_report"]}
    (output / "_kpiflow.json").write_text(json.dumps(description))
    assert list(find_derived_problems(output)) == []
    assert run(["derive", str(output)]) == 0
    assert read_files(output) == expected
