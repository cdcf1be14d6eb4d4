"""Graphs on a Flink cluster of two TaskManagers with a slot each, which loses one of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from runners.flink.rest import Rest
from tests.integration.counting import assert_counted_without_a_gap
from tests.integration.programs import PATIENCE, ROOT, WHY_NOT, Program
from tests.integration.streaming import children
from tests.integration.summing import NUMBERS, list_workers, read_sums

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


class Cluster(NamedTuple):
    """A running cluster, and the words with which a program uses it."""

    process: subprocess.Popen[str]
    master: str
    words: tuple[str, ...]

    def list_task_managers(self) -> list[int]:
        """The processes of its TaskManagers."""
        found = children(self.process.pid).items()
        return sorted(pid for pid, words in found if "TaskManagerRunner" in words)

    def list_states(self) -> list[str]:
        """The states of its jobs, in Flink's words."""
        return [job["state"] for job in Rest(f"http://{self.master}").ask("/jobs/overview")["jobs"]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    command = [sys.executable, ROOT / "deploy/flink/session_cluster.py", "--folder", folder, "--slots", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        # Other lines say that jars are fetched.
        printed = next(line for line in process.stdout if "--flink-master" in line)
        _, master, _, environment = printed.split()
        yield Cluster(process, master, ("--master", master, "--environment", environment))
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_a_batch_is_completed_though_a_task_manager_is_killed_in_the_middle(
    tmp_path: Path, cluster: Cluster
) -> None:
    (tmp_path / "hold").touch()
    run = Program("summing", tmp_path, *cluster.words)
    run.until(lambda: len(list_workers(tmp_path)) == 2)
    killed, kept = cluster.list_task_managers()
    os.kill(killed, signal.SIGKILL)
    run.until(lambda: run.progress["restarts"] > 0)
    (tmp_path / "hold").unlink()
    assert run.ended() == {"end": "done", "counted": NUMBERS}
    assert read_sums(tmp_path) == {digit: sum(range(digit, NUMBERS, 10)) for digit in range(10)}
    assert kept in cluster.list_task_managers()


def test_an_interrupted_batch_is_cancelled_on_the_cluster(tmp_path: Path, cluster: Cluster) -> None:
    (tmp_path / "hold").touch()
    run = Program("summing", tmp_path, *cluster.words)
    run.until(lambda: len(list_workers(tmp_path)) == 2)
    run.interrupted()
    assert cluster.list_states().count("CANCELED") == 1
    assert "RUNNING" not in cluster.list_states()


def test_a_stream_goes_on_from_the_newest_checkpoint(tmp_path: Path, cluster: Cluster) -> None:
    restored = []
    for _ in range(2):
        run = Program("counting", tmp_path, *cluster.words)
        run.until(lambda run=run: run.progress.get("checkpoints", 0) > 1)  # type: ignore[misc]
        restored.append(run.progress["restored_from"])
        run.interrupted()
    assert restored[0] is None
    assert restored[1] is not None
    assert_counted_without_a_gap(tmp_path)
