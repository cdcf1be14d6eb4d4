"""A stream lives longer than any of its jobs: each renewal stops the job with a checkpoint and goes on from
it."""

import signal
from pathlib import Path

import pytest

from tests.chaos.faults import start_producer
from tests.integration.streaming import Scene
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow


def test_a_stream_goes_on_through_three_renewals_while_messages_come_in(scene: Scene) -> None:
    producer = start_producer(scene, reports=6000, rate=6000)
    run = scene.start("--renew-seconds", 10, "--live")
    jobs: set[Path] = set()

    def renewed_three_times() -> bool:
        jobs.update(
            path for path in (scene.output / "_stream" / "checkpoints").glob("*") if list(path.glob("chk-*"))
        )
        return len(jobs) == 4

    scene.until(renewed_three_times)
    assert producer.wait(PATIENCE) == 0
    run.send_signal(signal.SIGINT)
    assert run.wait(PATIENCE) == 130
    assert "restarts" not in scene.said()
    scene.finish("--live")
    assert scene.prove()["received"] == 6000
