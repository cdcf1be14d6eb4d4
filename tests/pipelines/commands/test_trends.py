"""`kpiflow trends`: what it shows of an output, and how it ends."""

import json
import shutil
from pathlib import Path

import pytest

from pipelines.cli import run
from tests.pipelines.queries.small_output import START, make_output
from tests.pipelines.summary.test_queries import store
from transforms.derived.trends import TRENDS


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    make_output(folder)
    for file in (folder / "trends").rglob("*.parquet"):
        file.unlink()
    shared = {"metric": "latency_ms", "time_window_start": START, "points": 120}
    change = shared | {"kind": "change", "verdict": "raised", "changed_at": START, "before": 100.0,
                       "after": 150.0, "change": 0.5, "z": 6.0, "threshold": 5.0}  # fmt: skip
    slope = shared | {"kind": "slope", "slope_low": 0.02, "slope_high": 0.08, "slope": 0.05}
    store(folder, TRENDS, [
        change | {"level": "agent", "agent_id": "a\x1b[1m"}, change | {"level": "fleet", "change": 0.25},
        slope | {"level": "agent_type", "target_agent_type": "gpu", "verdict": "rising"},
        slope | {"level": "agent", "agent_id": "b", "verdict": "steady", "slope_low": -0.1},
    ])  # fmt: skip
    return folder


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["trends", *arguments]) == 0
    return capsys.readouterr().out


def test_changes_and_moving_series_are_shown(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = show(capsys, str(output))
    assert "+50.0%" in text
    assert "a\\x1b[1m" in text
    assert "type gpu" in text
    assert "+2.0% to +8.0%" in text
    assert "steady" not in text


def test_one_series_is_shown_alone(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = show(capsys, str(output), "--fleet")
    assert "+25.0%" in text
    assert "+50.0%" not in text
    assert "no series rose or fell" in text
    assert "no change of level" in show(capsys, str(output), "--type", "gpu")


def test_json_has_the_rows(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(show(capsys, str(output), "--json", "--to", "2030-01-01T00:00:00Z"))
    assert [row["change"] for row in found["changes"]] == [0.5, 0.25]
    assert [row["target_agent_type"] for row in found["slopes"]] == ["gpu"]
    assert found["changes"][0]["changed_at"] == "2025-10-20T20:00:00Z"


@pytest.mark.parametrize("wrong", [["--fleet", "--agent", "a"], ["--from", "soon"]])
def test_wrong_use_ends_with_2(output: Path, wrong: list[str]) -> None:
    assert run(["trends", str(output), *wrong]) == 2


def test_an_output_that_is_not_derived_is_named_with_the_fix(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(output / "trends")
    assert run(["trends", str(output)]) == 2
    assert "kpiflow derive" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["", "missing"])
def test_a_folder_without_an_output_is_named_with_the_fix(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["trends", str(tmp_path / folder)]) == 2
    assert "kpiflow backfill" in capsys.readouterr().err
