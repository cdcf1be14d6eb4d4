"""Graphs on a Flink cluster of two TaskManagers with a slot each, which loses one of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from runners.flink.rest import Rest, Unreachable
from tests.integration.counting import assert_counted_without_a_gap
from tests.integration.programs import ROOT, WHY_NOT, Program
from tests.integration.streaming import children
from tests.integration.summing import NUMBERS, list_workers, read_sums
from tests.patience import PATIENCE

SLOTS = 2
HANG_SECONDS = 1.5
"""Longer than from one question of Flink for metrics to the next."""
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

    @property
    def rest(self) -> Rest:
        """Its REST interface."""
        return Rest(f"http://{self.master}")

    def list_states(self) -> list[str]:
        """The states of its jobs, in Flink's words."""
        return [job["state"] for job in self.rest.ask("/jobs/overview")["jobs"]]

    def free(self) -> None:
        """Cancel jobs that a test left, and wait until all slots are free."""
        end = time.monotonic() + PATIENCE
        while self.rest.ask("/overview")["slots-available"] < SLOTS:
            assert time.monotonic() < end, f"no free slots: {self.list_states()}"
            for job in self.rest.ask("/jobs/overview")["jobs"]:
                with suppress(Unreachable):  # it has ended meanwhile
                    self.rest.cancel(job["jid"])
            time.sleep(0.5)


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
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


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """The cluster with nothing on it, whatever the tests before left there."""
    shared_cluster.free()
    return shared_cluster


Begin = Callable[[str], Program]


@pytest.fixture
def begin(cluster: Cluster, tmp_path: Path) -> Iterator[Begin]:
    """Starts a program on the cluster and the test's folder; it ends with the test."""
    runs: list[Program] = []

    def begin_run(name: str) -> Program:
        runs.append(Program(name, tmp_path, *cluster.words))
        return runs[-1]

    yield begin_run
    for run in runs:
        run.process.kill()
        run.process.wait()


def test_a_batch_is_completed_though_a_task_manager_is_killed_in_the_middle(
    tmp_path: Path, cluster: Cluster, begin: Begin
) -> None:
    (tmp_path / "hold").touch()
    run = begin("summing")
    run.until(lambda: len(list_workers(tmp_path)) == 2)
    killed, kept = cluster.list_task_managers()
    # Flink waits for the metrics of one that hangs. If it ends then, all metrics keep their values for ever.
    os.kill(killed, signal.SIGSTOP)
    time.sleep(HANG_SECONDS)
    os.kill(killed, signal.SIGKILL)
    run.until(lambda: run.progress["restarts"] > 0)
    (tmp_path / "hold").unlink()
    assert run.ended() == {"end": "done", "counted": NUMBERS}
    assert read_sums(tmp_path) == {digit: sum(range(digit, NUMBERS, 10)) for digit in range(10)}
    assert kept in cluster.list_task_managers()


def test_an_interrupted_batch_is_cancelled_on_the_cluster(
    tmp_path: Path, cluster: Cluster, begin: Begin
) -> None:
    canceled = cluster.list_states().count("CANCELED")
    (tmp_path / "hold").touch()
    run = begin("summing")
    run.until(lambda: len(list_workers(tmp_path)) == 2)
    run.interrupted()
    assert cluster.list_states().count("CANCELED") == canceled + 1
    assert "RUNNING" not in cluster.list_states()


def test_a_stream_goes_on_from_the_newest_checkpoint(tmp_path: Path, begin: Begin) -> None:
    restored = []
    for _ in range(2):
        run = begin("counting")
        run.until(lambda run=run: run.progress.get("checkpoints", 0) > 1)  # type: ignore[misc]
        restored.append(run.progress["restored_from"])
        run.interrupted()
    assert restored[0] is None
    assert restored[1] is not None
    assert_counted_without_a_gap(tmp_path)
