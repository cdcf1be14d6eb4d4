"""`kpiflow compare`: the tasks that it reads from an output, and what it says of wrong use."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import run
from tests.pipelines.queries.small_output import AGENTS, make_output

CONTROL, OTHERS = ",".join(AGENTS[:2]), ",".join(AGENTS[2:])


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_output(tmp_path_factory.mktemp("compare") / "out")


def ask(output: Path, words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The answer as JSON."""
    assert run(["compare", str(output), *words, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_the_tasks_of_an_experiment_are_compared(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(output, ["routing", "--metric", "latency_ms:p50"], capsys)
    assert answer["assigned"]
    assert answer["units"] == {"control": 50, "treatment": 50}
    assert [each["metric"] for each in answer["effects"]] == ["latency_ms:p50"]


def test_sets_of_agents_are_compared_without_an_experiment(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ask(output, ["--agents", f"control={CONTROL}", "--agents", f"new={OTHERS}"], capsys)
    assert (answer["assigned"], answer["unit"], answer["ratio_p"]) == (False, "agent", None)
    assert answer["units"] == {"control": 2, "new": 3}
    assert {each["reason"] for each in answer["effects"]} == {
        "a variant has 2 different agents; 5 are needed"
    }


def test_an_answer_about_sets_of_agents_is_called_observational(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", str(output), "--agents", f"control={CONTROL}", "--agents", f"new={OTHERS}"]) == 0
    assert "observational" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "needs an experiment or sets of agents"),
        (["routing", "--agents", "a=b"], "needs an experiment or sets of agents"),
        (["--agents", "a=b", "--unit", "task"], "are for what was assigned"),
        (["--agents", "control=nobody", "--agents", f"new={OTHERS}"], "no agent of control has a report"),
        (["--agents", f"new={OTHERS}"], "no task has the variant control"),
        (["--agents", f"control={OTHERS}"], "all tasks have the variant control"),
        (["routing", "--share", "control=1"], "the variant treatment has no share"),
        (["routing", "--metric", "latency_ms:median"], "has no percentile"),
        (["routing", "--unit", "report"], "--unit report is not known"),
        (["rooting"], "no task of the experiment rooting"),
    ],
)
def test_wrong_use_names_the_fix(
    words: list[str], fault: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", str(output), *words]) == 2
    message = capsys.readouterr().err
    assert fault in message
    assert len(message.splitlines()) == 2
