"""An output that cannot be written for a while: nothing is committed meanwhile, and nothing is lost."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.faults import interrupt, is_caught_up, read_offset
from tests.disks import make_disk, mount
from tests.integration.streaming import KEY, Scene
from transforms.redis.entry_ids import parse_id

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


@pytest.fixture
def disk(scene: Scene) -> Iterator[Path]:
    """The output, on a file system of 128 MB of its own."""
    scene.output.mkdir()
    with make_disk(scene.output, "128m", "--lazy") as made:
        yield made


def fill(disk: Path) -> Path:
    """A file that takes all space there is."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


def end_of_stream(scene: Scene) -> str:
    with scene.server.client() as client:
        return str(client.xinfo_stream(KEY)["last-generated-id"].decode())


def stays_behind(scene: Scene, words: str, before: str) -> None:
    """The job says why it does not get on, and the group has not been moved to what is not in the tables."""
    scene.until(lambda: words in scene.said())
    assert parse_id(read_offset(scene)) <= parse_id(before)


def test_a_full_disk_and_a_folder_that_is_read_only_are_waited_for(scene: Scene, disk: Path) -> None:
    scene.add(1000)
    scene.start()
    scene.until(lambda: scene.read() >= 1000 and is_caught_up(scene))

    before, ballast = end_of_stream(scene), fill(disk)
    scene.add(500, seed=2)
    stays_behind(scene, "o space left", before)
    ballast.unlink()
    scene.until(lambda: is_caught_up(scene))

    before, tables = end_of_stream(scene), str(disk / "kpi_reports")
    mount("--bind", tables, tables)
    mount("-o", "remount,bind,ro", tables)
    try:
        scene.add(500, seed=3)
        stays_behind(scene, "Read-only file system", before)
    finally:
        subprocess.run(["umount", tables], check=True)
    scene.until(lambda: is_caught_up(scene))

    interrupt(scene)
    scene.finish()
    assert scene.prove()["received"] == 2000
