"""A power cut takes what was not synced to disk: of the newest checkpoint, and of the archive. Nothing is
lost or counted twice."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from runners.flink.checkpoints import list_complete_checkpoints
from tests.chaos.faults import alive, read_offset, start_producer, until
from tests.integration.streaming import KEY, Scene, children, kill
from tests.patience import PATIENCE
from transforms.envelopes.envelope_lines import read_line
from transforms.redis.entry_ids import parse_id

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


def emptied(checkpoint: Path) -> None:
    for path in checkpoint.iterdir():
        os.truncate(path, 0)


def halved(checkpoint: Path) -> None:
    largest = max(checkpoint.iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def zeroed(checkpoint: Path) -> None:
    largest = max(checkpoint.iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))


def unsealed(checkpoint: Path) -> None:
    checkpoint.with_name(f"{checkpoint.name}.seal").unlink(missing_ok=True)
    (checkpoint / "_metadata").write_bytes(b"")


@pytest.mark.parametrize("damage", [emptied, halved, zeroed, unsealed])
def test_a_power_cut_loses_nothing(scene: Scene, damage: Callable[[Path], None], seed: int) -> None:
    engine = scene.output / "_stream"
    scene.start("--checkpoint-seconds", 2)
    scene.until(lambda: list_complete_checkpoints(engine))
    producer = start_producer(scene, reports=4000, rate=12_000)
    scene.until(lambda: delivered_some(scene))
    parts = children(scene.runs[-1].pid)
    kill(scene.runs[-1], "all")
    until(lambda: not any(map(alive, parts)))  # a worker that is dying can still commit
    newest = list_complete_checkpoints(engine)[-1]
    damage(newest)
    cut_archive(scene, random.Random(seed))
    assert producer.wait(PATIENCE) == 0
    scene.finish()
    assert f"{newest} " in (engine / "logs" / "flink.log").read_text()
    assert str(newest) in scene.said().replace("\n", "")
    assert scene.prove()["received"] == 4000


def delivered_some(scene: Scene) -> bool:
    with scene.server.client() as client:
        groups = client.xinfo_groups(KEY) if client.exists(KEY) else []
    return any(group["last-delivered-id"] != b"0-0" for group in groups)


def cut_archive(scene: Scene, lot: random.Random) -> None:
    """Cut each file of the archive somewhere after what is committed, as a machine that was started again
    finds it."""
    place = parse_id(read_offset(scene))
    for path in (scene.folder / "archive").rglob("*.ndjson"):
        octets = path.read_bytes()
        lines = octets.splitlines(keepends=True)
        envelopes = [read_line(line) for line in lines if line.endswith(b"\n")]
        synced = sum(
            len(line) for line, each in zip(lines, envelopes) if each and parse_id(each.message_id) <= place
        )
        path.write_bytes(octets[: lot.randint(synced, len(octets))])
        os.utime(path, (1, 1))
