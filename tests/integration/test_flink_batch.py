"""A bounded graph on the embedded Flink: its end, its results, and what ends it early."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.processes import wait_for_ends
from tests.integration.programs import WHY_NOT, Program
from tests.integration.summing import NUMBERS, list_workers, read_sums

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

SUMS = {digit: sum(range(digit, NUMBERS, 10)) for digit in range(10)}


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[], Program]]:
    """Starts runs on a folder whose steps wait, and ends them with the test."""
    runs: list[Program] = []
    (tmp_path / "hold").touch()

    def begin_run() -> Program:
        runs.append(Program("summing", tmp_path))
        return runs[-1]

    yield begin_run
    for run in runs:
        run.process.kill()
        run.process.wait()


Begin = Callable[[], Program]


def test_a_run_ends_with_all_results_though_a_worker_is_killed_in_the_middle(
    tmp_path: Path, begin: Begin
) -> None:
    run = begin()
    run.until(lambda: len(list_workers(tmp_path)) > 0)
    assert (tmp_path / "within").exists()
    run.until(lambda: run.progress["state"] == "running")
    killed = list_workers(tmp_path)[0]
    os.kill(killed, signal.SIGKILL)
    run.until(lambda: "was killed by signal 9" in (run.progress["failure"] or ""))
    (tmp_path / "hold").unlink()
    assert run.ended() == {"end": "done", "counted": NUMBERS}
    assert run.progress["restarts"] >= 1
    assert read_sums(tmp_path) == SUMS
    assert set(list_workers(tmp_path)) > {killed}


def test_an_error_of_a_step_ends_the_run_at_once_and_is_raised_with_its_cause(
    tmp_path: Path, begin: Begin
) -> None:
    run = begin()
    run.until(lambda: len(list_workers(tmp_path)) > 0)
    (tmp_path / "poison").touch()
    (tmp_path / "hold").unlink()
    end = run.ended()
    assert end["end"] == "StepFailed"
    assert "a step failed: transforms.core.errors.Refused: this is poison; take it away" in end["message"]
    assert str(tmp_path / "engine" / "logs" / "flink.log") in end["message"]
    assert end["found"] == "Refused('this is poison; take it away')"
    assert run.progress["restarts"] <= 1
    assert read_sums(tmp_path) == {}


def test_a_killed_java_ends_the_run_with_that_cause_and_the_same_command_completes_it(
    tmp_path: Path, begin: Begin
) -> None:
    run = begin()
    run.until(lambda: len(list_workers(tmp_path)) > 0)
    children = run.children()
    os.kill(run.java(), signal.SIGKILL)
    end = run.ended()
    assert end["end"] == "FlinkFailed"
    assert "Java process was killed by signal 9" in end["message"]
    wait_for_ends(children)
    (tmp_path / "hold").unlink()
    assert begin().ended() == {"end": "done", "counted": NUMBERS}
    assert read_sums(tmp_path) == SUMS


def test_an_interrupted_run_leaves_no_process(tmp_path: Path, begin: Begin) -> None:
    run = begin()
    run.until(lambda: len(list_workers(tmp_path)) > 0)
    children = run.children()
    assert len(children) > 1
    run.interrupted()
    assert run.progress["state"] == "stopping"
    wait_for_ends(children)
