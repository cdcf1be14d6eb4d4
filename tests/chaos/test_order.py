"""The group is moved once a checkpoint holds what was read, and a job that moves it sooner is found out."""

import time

import pytest

from tests.chaos.faults import inject, read_offset
from tests.integration.streaming import Scene

pytestmark = pytest.mark.slow

READ = 2000


def assert_the_group_waits_for_a_checkpoint(scene: Scene, **variables: str) -> None:
    """A job that never makes a checkpoint reads all there is, and leaves the group where it was."""
    scene.start("--checkpoint-seconds", 3600, env=inject(**variables))
    scene.until(lambda: scene.read() >= READ)
    time.sleep(3)  # some sessions more, each of which may move the group
    assert list((scene.output / "_stream" / "checkpoints").glob("*/chk-*/_metadata")) == []
    assert read_offset(scene) == "0-0"


def test_nothing_is_committed_before_a_checkpoint(scene: Scene) -> None:
    scene.add(READ)
    assert_the_group_waits_for_a_checkpoint(scene)


@pytest.mark.chaos
def test_a_job_that_commits_what_it_has_read_is_found_out(scene: Scene) -> None:
    scene.add(READ)
    with pytest.raises(AssertionError, match="'0-0'"):
        assert_the_group_waits_for_a_checkpoint(scene, HASTY="1")
