"""The streaming job around its engine: what it takes it gives back, and it ends by itself only when it knows that all is read."""

import json
import time
from pathlib import Path

import pytest

from pipelines.health import FOLDER, JOB, READERS
from pipelines.stream import Job, Progress, _Idle, _leased
from tests.servers import RedisServer
from transforms.redis import Connection


def test_an_end_while_redis_is_away_is_told_as_what_it_is(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        job = Job(server.url, ("s",), "g", (str(tmp_path / "out"),), tmp_path / "out")
        with pytest.raises(KeyboardInterrupt):
            interrupted_without(server, job)


def interrupted_without(server: RedisServer, job: Job) -> None:
    with _leased(Connection(server.url), job, "me"):
        server.kill()
        raise KeyboardInterrupt


def test_nobody_knows_that_all_is_read_while_redis_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = tmp_path / FOLDER / READERS
    readers.mkdir(parents=True)
    (tmp_path / FOLDER / JOB).write_text(json.dumps({"redis": "", "depends": {"group": "g", "outputs": []}}))
    place = {"position": "1-0", "index": 1, "added": 1, "lost": 0}
    (readers / "reader-0.json").write_text(json.dumps({"streams": {"s": place}, "read": 1, "watermark": None, "time": None}))

    def idle(connection: Connection) -> bool:
        told = _Idle(tmp_path, connection, 0.01)
        told.reached(Progress("running"))
        time.sleep(0.05)
        return told.reached(Progress("running"))

    with RedisServer(tmp_path) as server:
        with server.client() as client:
            client.xadd("s", {"data": "{}"}, id="1-0")
        assert idle(Connection(server.url))
        server.kill()
        assert not idle(Connection(server.url))
