"""A graph on a real Flink: it goes on where it was, whatever ended it, and leaves no process behind."""

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runners.flink.checkpoints import find_newest_checkpoint, list_complete_checkpoints
from tests.integration.counting import ENGINE, assert_counted_without_a_gap, read_numbers
from tests.integration.processes import wait_for_ends
from tests.integration.programs import WHY_NOT, Program

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


class Counting(Program):
    """The counting program, running on a folder."""

    def __init__(self, folder: Path, *words: object, hold: tuple[int, ...] = ()) -> None:
        super().__init__("counting", folder, *words, hold=hold)

    def counted(self, more: int = 5) -> None:
        """Wait until it has written some more numbers."""
        before = len(read_numbers(self.folder))
        self.until(lambda: len(read_numbers(self.folder)) >= before + more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that was interrupted leaves."""
    folder = tmp_path_factory.mktemp("made")
    run = Counting(folder)
    run.until(lambda: run.progress.get("checkpoints", 0) > 1)
    run.interrupted()
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture
def begun() -> Iterator[Callable[..., Counting]]:
    """Starts runs, and ends them with the test."""
    runs: list[Counting] = []

    def begin(folder: Path, *words: str, hold: tuple[int, ...] = ()) -> Counting:
        runs.append(Counting(folder, *words, hold=hold))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.wait()


Begun = Callable[..., Counting]


def test_an_interrupted_run_goes_on_where_it_was_and_its_successor_dies_with_java(
    folder: Path, begun: Begun
) -> None:
    before, checkpoint = read_numbers(folder), find_newest_checkpoint(folder / ENGINE)
    run = begun(folder)
    run.until(lambda: run.progress.get("checkpoints", 0) > 0)
    assert run.progress["restored_from"] == str(checkpoint)
    assert read_numbers(folder)[len(before)][0] > 0
    assert [path.parent.name for path in (folder / ENGINE / "checkpoints").glob("*/chk-*")].count(
        checkpoint.parent.name
    ) == 0
    os.kill(run.java(), signal.SIGKILL)
    end = run.ended()
    assert end["end"] == "FlinkFailed"
    assert "Java process was killed by signal 9" in end["message"]
    assert str(folder / ENGINE / "logs" / "flink.log") in end["message"]
    assert_counted_without_a_gap(folder)


def test_flink_recovers_by_itself_from_a_dead_worker_and_from_a_failing_step(
    folder: Path, begun: Begun
) -> None:
    run = begun(folder)
    run.counted()
    worker = read_numbers(folder)[-1][2]
    assert "runners.flink.workers" in run.children()[worker]
    os.kill(worker, signal.SIGKILL)
    run.until(lambda: "was killed by signal 9" in (run.progress["failure"] or ""))
    run.until(lambda: read_numbers(folder)[-1][2] != worker and run.progress["state"] == "running")
    (folder / "poison").touch()
    run.until(
        lambda: (
            "ValueError: this is poison" in run.progress["failure"] and run.progress["state"] == "restarting"
        )
    )
    (folder / "poison").unlink()
    run.until(lambda: run.progress["state"] == "running")
    run.counted()
    assert run.progress["restarts"] >= 2
    run.interrupted()
    assert_counted_without_a_gap(folder)


def test_nothing_outlives_a_killed_launcher_and_a_lock_holds_as_long_as_anything_lives(
    folder: Path, begun: Begun
) -> None:
    lock = (folder / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    run = begun(folder, hold=(lock.fileno(),))
    run.counted()
    lock.close()
    children = run.children()
    assert sum("runners.flink.workers" in words for words in children.values()) == 2
    with (folder / "lock").open("w") as again:
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(run.process.pid, signal.SIGKILL)
        fcntl.flock(again, fcntl.LOCK_EX)
    wait_for_ends(children)
    successor = begun(folder)
    successor.counted()
    assert_counted_without_a_gap(folder)


def test_two_runs_do_not_disturb_each_other_and_a_renewal_loses_nothing(
    folder: Path, tmp_path: Path, begun: Begun
) -> None:
    runs = [begun(folder, "--renew", "5"), begun(tmp_path / "other")]
    (tmp_path / "other").mkdir()
    for run in runs:
        run.counted()
    for _ in range(2):  # what it went on from, and its own first job
        job = find_newest_checkpoint(folder / ENGINE).parent
        runs[0].until(lambda job=job: not job.exists())  # type: ignore[misc]
    runs[0].counted()
    assert (runs[0].progress["restarts"], runs[0].progress["failure"]) == (0, None)
    for run in runs:
        run.interrupted()
        assert_counted_without_a_gap(run.folder)


def test_the_checkpoint_of_another_graph_is_refused_unless_the_run_is_fresh(
    folder: Path, begun: Begun
) -> None:
    checkpoint = find_newest_checkpoint(folder / ENGINE)
    end = begun(folder, "--changed").ended()
    assert end["end"] == "CheckpointRefused"
    assert str(checkpoint) in end["message"]
    assert "another one now" in end["message"]
    assert "--fresh" in end["message"]
    assert find_newest_checkpoint(folder / ENGINE) == checkpoint
    fresh = begun(folder, "--changed", "--fresh")
    fresh.until(lambda: fresh.progress.get("checkpoints", 0) > 0)
    assert fresh.progress["restored_from"] is None
    fresh.until(lambda: not checkpoint.exists())


def test_a_run_goes_on_from_the_checkpoint_before_a_torn_one_and_says_so(folder: Path, begun: Begun) -> None:
    before, newest = list_complete_checkpoints(folder / ENGINE)[-2:]
    os.truncate(newest / "_metadata", 3000)
    run = begun(folder)
    run.counted()
    assert run.progress["restored_from"] == str(before)
    assert [
        f"{newest} is damaged: _metadata has 3,000 bytes of" in why for why in run.progress["left_out"]
    ] == [True]
    assert f"{newest} is damaged" in (folder / ENGINE / "logs" / "flink.log").read_text()
    run.until(lambda: not newest.exists())
    run.interrupted()
    assert_counted_without_a_gap(folder)


@pytest.mark.chaos
def test_of_checkpoints_that_were_not_sealed_flink_finds_one_it_can_read(folder: Path, begun: Begun) -> None:
    before, newest = list_complete_checkpoints(folder / ENGINE)[-2:]
    for seal in (folder / ENGINE).rglob("*.seal"):
        seal.unlink()
    os.truncate(newest / "_metadata", 3000)
    run = begun(folder)
    run.counted()
    assert run.progress["restored_from"] == str(before)
    assert [f"{newest} cannot be read" in why for why in run.progress["left_out"]] == [True]
    run.interrupted()
    assert_counted_without_a_gap(folder)


@pytest.mark.chaos
@pytest.mark.parametrize("sealed", [True, False])
def test_where_no_checkpoint_can_be_read_the_run_ends_with_what_to_do(
    folder: Path, begun: Begun, sealed: bool
) -> None:
    for checkpoint in list_complete_checkpoints(folder / ENGINE):
        os.truncate(checkpoint / "_metadata", 3000)
        if not sealed:
            checkpoint.with_name(f"{checkpoint.name}.seal").unlink(
                missing_ok=True
            )  # the oldest may have had none
    end = begun(folder).ended()
    assert end["end"] == "CheckpointRefused"
    assert "no checkpoint can be read" in end["message"]
    assert "--fresh" in end["message"]


@pytest.mark.chaos
def test_the_unsealed_checkpoint_of_another_graph_is_no_reason_to_go_back_to_an_older_one(
    folder: Path, begun: Begun
) -> None:
    newest = find_newest_checkpoint(folder / ENGINE)
    for seal in (folder / ENGINE).rglob("*.seal"):
        seal.unlink()
    end = begun(folder, "--changed").ended()
    assert end["end"] == "CheckpointRefused"
    assert f"Flink cannot go on from {newest}" in end["message"]
    assert "another one now" in end["message"]
