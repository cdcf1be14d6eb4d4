"""A run that is killed at a named point, in any of its parts, loses nothing and counts nothing twice."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.streaming import KEY, ROOT, Scene, ended, faults
from tests.servers import RedisServer

pytestmark = pytest.mark.slow

POINTS = ("after read", "before write", "before rename", "after rename", "after write", "before commit", "after commit")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with RedisServer(tmp_path, appendonly=True) as server, ended(Scene(server, tmp_path)) as scene:
        yield scene


def sending(scene: Scene, reports: int, rate: int) -> subprocess.Popen[bytes]:
    """A producer that sends while the run dies and comes back."""
    words = ["--stream", KEY, "--reports", reports, "--rate", rate, "--agents", 20]
    return subprocess.Popen([sys.executable, "-m", "pipelines.cli", "generate", "--redis", scene.server.url, *map(str, words)], cwd=ROOT)


@pytest.mark.parametrize("part", ["worker", "java", "all"])
def test_a_kill_at_each_point_loses_nothing_and_counts_nothing_twice(scene: Scene, part: str) -> None:
    producer = sending(scene, reports=9000, rate=12_000)
    starts = scene.survive(faults(scene.folder, POINTS, part))
    assert producer.wait(60) == 0
    assert {path.name for path in scene.folder.glob(f"{part} *")} == {f"{part} {point}" for point in POINTS}
    assert starts == (1 if part == "worker" else 1 + len(POINTS))
    assert scene.prove()["received"] == 9000
