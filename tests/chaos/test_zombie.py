"""Two jobs never write one output or read for one group, not even one that should be dead."""

import os
import signal
from pathlib import Path

import pytest

from tests.chaos.faults import alive, hold_at, inject, until, workers
from tests.integration.streaming import Scene, children

pytestmark = pytest.mark.slow


def test_a_run_is_alone_and_leaves_nothing_alive(scene: Scene) -> None:
    scene.add(1000)
    run = scene.start()
    scene.until(lambda: scene.read() >= 1000)
    first = scene.output
    assert scene.start().wait(60) == 2
    assert f"another job is writing to {first}" in " ".join(scene.said().split())
    other = Scene(scene.server, scene.folder / "other")
    other.folder.mkdir()
    assert other.start().wait(60) == 2
    assert "is being read for the group 'kpiflow' by another job" in " ".join(other.said().split())
    below = children(run.pid)
    assert len(below) >= 3
    run.kill()
    until(lambda: not any(map(alive, below)))


def test_a_forgotten_worker_in_the_middle_of_a_write_keeps_its_successor_out(scene: Scene) -> None:
    scene.add(1000)
    run = scene.start(env=inject([hold_at(scene.folder, "before rename")]))
    scene.until((scene.folder / "held").exists)
    held = workers(run)
    try:
        run.kill()
        run.wait()
        scene.add(500, seed=2)
        until(lambda: len([pid for pid in held if alive(pid)]) == 1)
        assert scene.start().wait(60) == 2
        assert "another job is writing" in scene.said()
        (scene.folder / "released").touch()
        scene.finish()
    finally:
        for pid in filter(alive, held):
            os.kill(pid, signal.SIGKILL)
    assert scene.prove()["received"] == 1500
    assert leftovers(scene.output) == []


def leftovers(output: Path) -> list[Path]:
    """Files that a writer has not finished."""
    return list(output.rglob(".*.kpiflow"))
