"""kpiflow recommend: experiments with and without a winner."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.cli import run
from pipelines.settings import Settings
from schemas.tables import LAYOUT_VERSION, REPORTS
from tests.builders import NOON
from tests.pipelines.summary.test_queries import store
from transforms.derived.features import FEATURES
from transforms.derived.recommendations import RECOMMENDATIONS

HOSTILE = "x\n[red]'; DROP TABLE features; --\x1b[2J\u202e"
SOON, LATER = "2025-10-22T16:00:00Z", "2025-10-24T00:00:00Z"


def store_experiment(folder: Path, name: str, by: float, control: str = "control") -> None:
    """30 blocks of five minutes since noon with ten tasks each, of ten agents; of every second task the
    logarithm of latency_ms differs."""
    chance = np.random.default_rng(7)
    reports: list[dict[str, Any]] = []
    features = []
    for number in range(300):
        row = {
            "report_id": f"{name} {number}",
            "task_id": f"{name} {number}",
            "agent_id": f"a{number % 20 // 2}",
        }
        row |= {"recorded_at": NOON + timedelta(seconds=30 * number)}
        latency = float(np.exp(5 + chance.normal(0, 0.1) + by * (number % 2)))
        others = {"accuracy": 0.9, "cpu_usage": 0.3, "memory_mb": 100.0}
        noise = {each: value * float(np.exp(chance.normal(0, 0.1))) for each, value in others.items()}
        reports.append(
            row | {"latency_ms": latency, "performance_score": chance.normal(), "revision": 1} | noise
        )
        features.append(row | {"experiment": name, "variant": "new" if number % 2 else control})
    store(folder, REPORTS, reports)
    store(folder, FEATURES, features)


def make_folder(folder: Path) -> Path:
    settings = Settings().row_settings()
    (folder / "_kpiflow.json").write_text(
        json.dumps({"layout": LAYOUT_VERSION, "schemas": {}, "settings": settings})
    )
    (folder / RECOMMENDATIONS.name).mkdir()
    return folder


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("winners"))
    store_experiment(folder, "routing", -0.3)
    return folder


def ask(capsys: pytest.CaptureFixture[str], output: Path, *words: str) -> dict[str, Any]:
    """The answer as JSON."""
    assert run(["recommend", str(output), "--json", *words]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_winner_is_recommended_with_what_was_seen_after_and_until_when(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recommend", str(output), "--at", SOON]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "adopt_variant of experiment routing: new" in text
    assert "let new take the place of control in the experiment routing: its latency_ms is lower" in text
    assert "after that: " in text
    assert "until 2025-10-23T14:29:30" in text
    (row,) = ask(capsys, output, "--at", SOON, "--rule", "adopt_variant")["recommendations"]
    assert row["evidence"]["high"] < 0
    assert row["confidence"] >= 0.99
    assert row["decided_at"] < SOON


def test_it_is_gone_a_day_after_the_last_task(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, output, "--at", LATER)["recommendations"] == []
    assert len(ask(capsys, output, "--at", LATER, "--all")["recommendations"]) == 1


def test_other_rules_and_subjects_leave_it_out(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--rule", "slower_agent"], ["--subject", "another"]):
        assert ask(capsys, output, "--at", SOON, *words)["recommendations"] == []


def test_an_experiment_without_a_winner_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path)
    store_experiment(folder, HOSTILE, -0.3, control="\x1b]0;owned\x07")
    assert ask(capsys, folder, "--at", SOON)["without_winner"] == {HOSTILE: "no task has the variant control"}
    assert run(["recommend", str(folder), "--at", SOON]) == 0
    text = capsys.readouterr().out
    assert "\x1b]" not in text
    assert "\u202e" not in text
    assert "[red]'; DROP TABLE features" in text
    assert "no task has the variant control" in text
