"""The streaming job around its engine: what it takes it gives back, and it ends by itself only when it knows that all is read."""

import json
import time
from pathlib import Path

import pytest

from pipelines.health import FOLDER, JOB, READERS, SINKS, health
from pipelines.outputs import open_outputs
from pipelines.settings import Settings
from pipelines.stream import Job, Progress, _described, _Idle, _leased
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
    (tmp_path / FOLDER / JOB).write_text(json.dumps({"redis": "", "depends": {"group": "g", "outputs": [], "streams": ["s"]}}))
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


def test_a_stream_that_no_reader_has_reported_yet_is_not_read(tmp_path: Path) -> None:
    described(tmp_path, streams=["a", "b"], readers={"reader-0": {"a": 3}})
    found = health(tmp_path)
    assert [(place.stream, place.lag) for place in found.places] == [("a", 0), ("b", None)]
    assert found.lag is None


def test_a_stream_of_an_earlier_job_does_not_count(tmp_path: Path) -> None:
    described(tmp_path, streams=["a"], readers={"reader-0": {"a": 3}, "reader-1": {"b": 5}})
    assert ([place.stream for place in health(tmp_path).places], health(tmp_path).lag) == (["a"], 0)


def test_a_start_removes_what_the_readers_and_writers_of_the_run_before_have_left(tmp_path: Path) -> None:
    described(tmp_path, streams=["a", "b"], readers={"reader-0": {"a": 3}, "reader-1": {"b": 5}})
    (tmp_path / FOLDER / SINKS).mkdir()
    (tmp_path / FOLDER / SINKS / "sink-x.json").write_text("{}")
    job = Job("redis://h", ("a",), "g", (str(tmp_path),), tmp_path, fresh=True)
    outputs, settings = open_outputs(job.outputs, Settings(), file_minutes=1)
    _described(job, outputs, Connection("redis://h"), settings)
    assert sorted((tmp_path / FOLDER).rglob("*.json")) == [tmp_path / FOLDER / JOB]


def described(home: Path, streams: list[str], readers: dict[str, dict[str, int]]) -> None:
    """What a job leaves at home: the streams it reads, and which entries (all there are) each reader has read of which stream."""
    folder = home / FOLDER / READERS
    folder.mkdir(parents=True)
    depends = {"group": "g", "outputs": [], "streams": streams}
    (home / FOLDER / JOB).write_text(json.dumps({"redis": "redis://h", "depends": depends}))
    for name, read in readers.items():
        places = {key: {"position": f"{count}-0", "index": count, "added": count, "lost": 0} for key, count in read.items()}
        said = {"streams": places, "read": 1, "watermark": None, "time": 1000}
        (folder / f"{name}.json").write_text(json.dumps(said))
