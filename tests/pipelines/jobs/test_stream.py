"""The streaming job around its engine: it releases what it acquires and ends by itself when all is read."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.failures import WrongUse
from pipelines.jobs.job_description import FOLDER, JOB
from pipelines.jobs.job_status import BEFORE, READERS, SINKS, read_health
from pipelines.jobs.lock import lock_folders
from pipelines.jobs.stream import IdleWatch, LeaseRenewal, hold_lease
from pipelines.jobs.stream_job import StreamRequest, prepare_home
from pipelines.outputs import open_outputs
from pipelines.settings import Settings
from runners.progress import Progress
from tests.servers import RedisServer
from transforms.redis.connection import Connection
from transforms.sources.redis.lease import RedisLease
from transforms.sources.redis.redis_source import RedisStreams
from transforms.sources.source import GroupTaken


def test_an_interruption_while_redis_is_unavailable_is_an_interruption(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        job = StreamRequest(server.url, ("s",), "g", (str(tmp_path / "out"),), tmp_path / "out")
        with pytest.raises(KeyboardInterrupt):
            interrupt_without(server, job)


def interrupt_without(server: RedisServer, job: StreamRequest) -> None:
    with hold_lease(RedisStreams(Connection(server.url), job.streams, job.group).lease("me")):
        server.kill()
        raise KeyboardInterrupt


def write_all_read(home: Path, outputs: Sequence[str] = ()) -> None:
    """A job whose one message is read."""
    readers = home / FOLDER / READERS
    readers.mkdir(parents=True)
    depends = {"group": "g", "outputs": [*outputs], "streams": ["s"]}
    (home / FOLDER / JOB).write_text(json.dumps({"redis": "", "depends": depends}))
    place = {"position": "1-0", "index": 1, "added": 1, "lost": 0}
    (readers / "reader-0.json").write_text(
        json.dumps({"streams": {"s": place}, "read": 1, "watermark": None, "time": 0})
    )


def test_not_all_is_in_the_tables_while_an_output_still_writes(tmp_path: Path) -> None:
    write_all_read(tmp_path, ["out"])
    sinks = tmp_path / FOLDER / SINKS
    sinks.mkdir()
    with RedisServer(tmp_path) as server:
        with server.client() as client:
            client.xadd("s", {"data": "{}"}, id="1-0")
        idle = IdleWatch(tmp_path, RedisStreams(Connection(server.url), ("s",), "g"), 0.1)
        for rows in range(5):
            written = {"sink": "out", "table": "kpi_reports", "time": rows, "rows": rows, "newest": None}
            (sinks / "sink-1.json").write_text(json.dumps(written | {"waiting_since": None, "error": None}))
            assert not idle.is_reached(Progress("running", checkpoints=2 * rows))
            time.sleep(0.15)
        assert not idle.is_reached(Progress("running", checkpoints=9)), "a worker may still have rows"
        assert idle.is_reached(Progress("running", checkpoints=10))


def test_nobody_knows_that_all_is_read_while_redis_is_unavailable(tmp_path: Path) -> None:
    write_all_read(tmp_path)

    def watch(url: str) -> bool:
        idle = IdleWatch(tmp_path, RedisStreams(Connection(url), ("s",), "g"), 0.01)
        idle.is_reached(Progress("running"))
        time.sleep(0.05)
        return idle.is_reached(Progress("running", checkpoints=2))

    with RedisServer(tmp_path) as server:
        with server.client() as client:
            client.xadd("s", {"data": "{}"}, id="1-0")
        assert watch(server.url)
        server.kill()
        assert not watch(server.url)


def test_a_stream_that_no_reader_has_reported_yet_is_not_read(tmp_path: Path) -> None:
    write_status(tmp_path, streams=["a", "b"], readers={"reader-0": {"a": 3}})
    found = read_health(tmp_path)
    assert [(each.stream, each.lag) for each in found.streams] == [("a", 0), ("b", None)]
    assert found.lag is None


def test_a_stream_of_an_earlier_job_does_not_count(tmp_path: Path) -> None:
    write_status(tmp_path, streams=["a"], readers={"reader-0": {"a": 3}, "reader-1": {"b": 5}})
    found = read_health(tmp_path)
    assert ([each.stream for each in found.streams], found.lag) == (["a"], 0)


def test_what_readers_and_writers_of_the_run_before_said_does_not_count_but_stays_for_reconcile(
    tmp_path: Path,
) -> None:
    write_status(tmp_path, streams=["a", "b"], readers={"reader-0": {"a": 3}, "reader-1": {"b": 5}})
    (tmp_path / FOLDER / SINKS).mkdir()
    (tmp_path / FOLDER / SINKS / "sink-x.json").write_text("{}")
    prepare(tmp_path, "a", fresh=True)
    assert [path.name for path in (tmp_path / FOLDER).glob("*/*.json")] == []
    assert sorted(path.name for path in (tmp_path / FOLDER / READERS / BEFORE).iterdir()) == [
        "reader-0.json",
        "reader-1.json",
    ]


def test_a_fresh_start_leaves_no_checkpoint_that_its_description_would_vouch_for(tmp_path: Path) -> None:
    prepare(tmp_path, "a")
    checkpoint = leave_checkpoint(tmp_path)
    with pytest.raises(WrongUse, match="belong to another graph: streams"):
        prepare(tmp_path, "b")
    assert checkpoint.exists()
    prepare(tmp_path, "b", fresh=True)
    assert not checkpoint.exists()


def test_a_changed_flush_interval_is_another_graph(tmp_path: Path) -> None:
    prepare(tmp_path, "a")
    leave_checkpoint(tmp_path)
    with pytest.raises(WrongUse, match="flush_seconds is 7 now and was 5"):
        prepare(tmp_path, "a", flush_seconds=7)


def test_a_refused_start_changes_nothing(tmp_path: Path) -> None:
    prepare(tmp_path, "a")
    write_status(tmp_path, streams=["a"], readers={"reader-0": {"a": 3}})
    leave_checkpoint(tmp_path)
    with pytest.raises(WrongUse):
        prepare(tmp_path, "b")
    assert (tmp_path / FOLDER / READERS / "reader-0.json").exists()


def test_every_folder_of_a_job_is_locked(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with lock_folders(tmp_path / "one", tmp_path / "two", tmp_path / "one") as locks:
        assert len(locks) == 2
        for folder in ("one", "two"):
            with (
                pytest.raises(WrongUse, match=f"writing to .*{folder}"),
                lock_folders(tmp_path / folder, patience=0),
            ):
                pass


def test_the_command_renews_the_lease_while_no_reader_does(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        lease = RedisLease(Connection(server.url), "g", ["s"], "me", seconds=3)
        lease.acquire()
        renewal = LeaseRenewal(lease)
        with server.client() as client:
            client.pexpire("kpiflow:{g}:s:owner", 500)
            renewal.renew()
            assert client.pttl("kpiflow:{g}:s:owner") > 500
            client.set("kpiflow:{g}:s:owner", "another")
            renewal._due = 0.0
            with pytest.raises(GroupTaken):
                renewal.renew()
        server.kill()
        renewal._due = 0.0
        renewal.renew()


def leave_checkpoint(home: Path) -> Path:
    """A complete checkpoint that a job has left at home."""
    checkpoint = home / FOLDER / "checkpoints" / "job" / "chk-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "_metadata").touch()
    return checkpoint


def prepare(home: Path, *streams: str, fresh: bool = False, **settings: Any) -> None:
    """What a start of a job keeps at its home."""
    job = StreamRequest("redis://h", streams, "g", (str(home),), home, fresh=fresh)
    outputs, shaped = open_outputs(job.outputs, Settings(**settings), file_minutes=1)
    prepare_home(job, outputs, "redis://h", shaped)


def write_status(home: Path, streams: list[str], readers: dict[str, dict[str, int]]) -> None:
    """What a job leaves at home: its streams, and how many entries (all there are) each reader has read."""
    folder = home / FOLDER / READERS
    folder.mkdir(parents=True, exist_ok=True)
    depends = {"group": "g", "outputs": [], "streams": streams}
    (home / FOLDER / JOB).write_text(json.dumps({"redis": "redis://h", "depends": depends}))
    for name, read in readers.items():
        places = {
            key: {"position": f"{count}-0", "index": count, "added": count, "lost": 0}
            for key, count in read.items()
        }
        said = {"streams": places, "read": 1, "watermark": None, "time": 1000}
        (folder / f"{name}.json").write_text(json.dumps(said))
