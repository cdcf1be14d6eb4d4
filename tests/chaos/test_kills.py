"""A run that is killed, in any of its parts, at a named point or at a random moment, loses nothing and counts
nothing twice."""

import random
import time
from pathlib import Path

import pytest

from tests.chaos.faults import inject, kill_at, processes, start_producer, stop_workers
from tests.integration.streaming import Scene, kill
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

POINTS = (
    "after read",
    "before write",
    "before rename",
    "after rename",
    "after write",
    "before commit",
    "after commit",
)
PARTS = ("worker", "java", "all")
SOME = (("after read", "worker"), ("before rename", "all"), ("after write", "java"), ("before commit", "all"))


def survive(scene: Scene, *faults: tuple[str, str]) -> int:
    """Send while a run dies at each point; how often it was started until all was in the tables and
    proven."""
    producer = start_producer(scene, reports=9000, rate=12_000)
    starts = scene.survive(inject([kill_at(scene.folder, *fault) for fault in faults]))
    assert producer.wait(PATIENCE) == 0
    assert [fault for fault in faults if not (scene.folder / f"{fault[1]} {fault[0]}").exists()] == []
    assert scene.prove()["received"] == 9000
    return starts


def test_kills_of_every_part_lose_nothing_and_count_nothing_twice(scene: Scene) -> None:
    assert survive(scene, *SOME) == 4


@pytest.mark.chaos
@pytest.mark.parametrize("part", PARTS)
def test_a_kill_at_each_point_loses_nothing_and_counts_nothing_twice(scene: Scene, part: str) -> None:
    assert survive(scene, *((point, part) for point in POINTS)) == (
        1 if part == "worker" else 1 + len(POINTS)
    )


@pytest.mark.chaos
def test_a_kill_during_a_checkpoint_leaves_the_one_before_it(scene: Scene) -> None:
    producer = start_producer(scene, reports=6000, rate=12_000)
    for part in PARTS:
        before, run = complete(scene), scene.start()
        scene.until(lambda: complete(scene) - before)  # noqa: B023 (called at once)
        with stop_workers(run):
            scene.until(lambda: unfinished(scene))
            kill(run, part)
            left = unfinished(scene)
        assert left
        if part == "worker":
            before = complete(scene)
            scene.until(lambda: complete(scene) - before)  # noqa: B023
            kill(run, "all")
        run.wait(PATIENCE)
    scene.finish()
    assert producer.wait(PATIENCE) == 0
    assert scene.prove()["received"] == 6000


@pytest.mark.chaos
def test_ten_kills_in_a_row_of_random_parts_at_random_moments(scene: Scene, seed: int) -> None:
    lot = random.Random(seed)
    producer = start_producer(scene, reports=20_000, rate=10_000)
    told = []
    for _ in range(10):
        if not scene.runs or scene.runs[-1].poll() is not None:
            scene.start()
        run, part, pause = scene.runs[-1], lot.choice(PARTS), lot.uniform(0, 12)
        time.sleep(pause)
        scene.until(lambda: processes(run, part))  # noqa: B023 (called at once)
        kill(run, part)
        told.append(f"{part} after {pause:.1f} s")
        if part != "worker":
            run.wait(PATIENCE)
    assert producer.wait(PATIENCE) == 0
    if scene.runs[-1].poll() is None:
        kill(scene.runs[-1], "all")
    scene.finish()
    assert scene.prove()["received"] == 20_000, f"CHAOS_SEED={seed}: {told}"


def checkpoints(scene: Scene) -> set[Path]:
    return set((scene.output / "_stream" / "checkpoints").glob("*/chk-*"))


def complete(scene: Scene) -> set[Path]:
    return {path for path in checkpoints(scene) if (path / "_metadata").exists()}


def unfinished(scene: Scene) -> set[Path]:
    """Checkpoints that are being made, or that were when their run was killed."""
    return {path for path in checkpoints(scene) if not (path / "_metadata").exists()}
