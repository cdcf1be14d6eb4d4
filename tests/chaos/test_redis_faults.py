"""Redis that restarts, hangs up, is unavailable, or lost what it had: whatever it keeps is in the tables
once, the rest is counted."""

import time

import pytest

from tests.chaos.faults import interrupt, is_caught_up, read_offset, start_producer, stop_workers
from tests.integration.streaming import KEY, Scene
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow


def test_restarts_cut_connections_strange_consumers_and_a_destroyed_group_lose_nothing(scene: Scene) -> None:
    producer = start_producer(scene, reports=8000, rate=12_000)
    run = scene.start("--until-idle")
    scene.until(lambda: scene.read() > 0)
    for number in range(5):
        with scene.server.client() as client:
            for name in range(100):
                client.xreadgroup("kpiflow", f"stranger {number} {name}", {KEY: ">"}, count=1)
            client.client_kill_filter(_type="normal", skipme=True)
            time.sleep(2)
            client.client_kill_filter(_type="normal", skipme=True)
        (scene.server.kill if number % 2 else scene.server.stop)()
        scene.server.start()
    with scene.server.client() as client:
        assert len(client.xinfo_consumers(KEY, "kpiflow")) == 500
        assert client.xgroup_destroy(KEY, "kpiflow")
        scene.until(lambda: client.xinfo_groups(KEY))
        assert client.xinfo_groups(KEY)[0]["pending"] == 0
    assert producer.wait(PATIENCE) == 0
    assert run.wait(PATIENCE) == 0, scene.said()
    with scene.server.client() as client:
        assert scene.prove()["received"] == client.xlen(KEY) >= 8000


@pytest.mark.chaos
def test_what_left_a_stream_unread_is_counted_and_a_new_stream_under_its_key_is_read(scene: Scene) -> None:
    scene.add(1000)
    run = scene.start()
    scene.until(lambda: scene.read() == 1000)
    with scene.server.client() as client:
        with stop_workers(run):
            scene.add(1500, seed=2)
            client.xtrim(KEY, maxlen=400, approximate=False)
        scene.until(lambda: scene.read() == 1400)
        client.delete(KEY)
    scene.add(500, seed=3)
    scene.until(lambda: scene.read() == 1900)
    interrupt(scene)
    scene.finish()
    verdict = scene.prove()
    assert (verdict["received"], verdict["trimmed"]) == (1900, 1100)


@pytest.mark.chaos
def test_redis_may_be_away_at_the_start_at_the_end_and_for_longer_than_a_command_is_tried(
    scene: Scene,
) -> None:
    scene.add(1000)
    scene.server.stop()
    assert scene.start().wait(PATIENCE) == 2
    assert "cannot be reached" in scene.said()
    scene.server.start()
    scene.start()
    scene.until(lambda: scene.read() == 1000)
    scene.server.stop()
    scene.until(lambda: "state restarting" in scene.said() or "1 restart" in scene.said())
    scene.server.start()
    scene.add(1000, seed=2)
    scene.until(lambda: is_caught_up(scene))
    place = read_offset(scene)
    scene.server.stop()
    interrupt(scene)
    scene.server.start()
    assert read_offset(scene) == place
    scene.finish()
    assert scene.prove()["received"] == 2000
