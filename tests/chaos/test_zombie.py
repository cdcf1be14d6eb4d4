"""Two jobs never write one output or read for one group, not even one that should be dead."""

import os
import signal
from pathlib import Path

import pytest

from tests.chaos.faults import alive, hold_at, inject, read_state, until, workers
from tests.integration.streaming import Scene, children
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow


def test_a_run_is_alone_and_leaves_nothing_alive(scene: Scene) -> None:
    scene.add(1000)
    run = scene.start()
    scene.until(lambda: scene.read() >= 1000)
    first = scene.output
    assert scene.start().wait(PATIENCE) == 2
    assert f"another job is writing to {first}" in " ".join(scene.said().split())
    other = Scene(scene.server, scene.folder / "other")
    other.folder.mkdir()
    assert other.start().wait(PATIENCE) == 2
    assert "is being read for the group 'kpiflow' by another job" in " ".join(other.said().split())
    below = children(run.pid)
    assert len(below) >= 3
    run.kill()
    until(lambda: not any(map(alive, below)))


def test_a_forgotten_worker_in_the_middle_of_a_write_keeps_its_successor_out(scene: Scene) -> None:
    scene.add(1000)
    run = scene.start(env=inject([hold_at(scene.folder, "before rename")]))
    scene.until(lambda: list_stopped(workers(run)))
    living = workers(run)
    held = list_stopped(living)
    try:
        run.kill()
        run.wait()
        scene.add(500, seed=2)
        until(lambda: list(filter(alive, living)) == held)
        assert scene.start().wait(PATIENCE) == 2
        assert "another job is writing" in scene.said()
        os.kill(held[0], signal.SIGCONT)
        until(lambda: not any(map(alive, held)))
        scene.finish()
    finally:
        for pid in filter(alive, living):
            os.kill(pid, signal.SIGKILL)
    assert scene.prove()["received"] == 1500
    assert leftovers(scene.output) == []


def list_stopped(pids: list[int]) -> list[int]:
    """Those of the processes that are stopped."""
    return [pid for pid in pids if read_state(pid) == "T"]


def leftovers(output: Path) -> list[Path]:
    """Files that a writer has not finished."""
    return list(output.rglob(".*.kpiflow"))
