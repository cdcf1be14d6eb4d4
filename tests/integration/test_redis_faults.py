"""Redis becomes unavailable, forgets, hangs up: whatever it keeps is read exactly once, in order."""

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from tests.patience import PATIENCE
from tests.servers import Network, RedisServer
from transforms.redis.connection import Connection
from transforms.sources.redis.lease import RedisLease
from transforms.sources.redis.positions import Position
from transforms.sources.redis.reader import Reader
from transforms.sources.source import GroupTaken


class Reading:
    """A reader, and what it has read and lost."""

    def __init__(self, server: RedisServer, connection: Connection | None = None) -> None:
        self.reader = Reader((connection or Connection(server.url)).client(patience=20), "g", ["s"])
        self.positions: dict[str, Position] = self.reader.offsets.start(0)
        self.ids: list[str] = []
        self.lost: list[int] = []

    def once(self, block_ms: int = 20) -> None:
        read = self.reader.read(self.positions, 1000, block_ms)
        self.positions = read.positions
        self.ids += [entry_id for batch in read.messages for entry_id in batch["message_id"].to_pylist()]
        self.lost += [entries for batch in read.gaps for entries in batch["entries"].to_pylist()]

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not reached():
            assert time.monotonic() < end, f"read {len(self.ids)} only"
            self.once()


def add(client: redis.Redis, number: int) -> list[str]:
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(number):
            pipeline.xadd("s", {"data": "{}"})
        return [entry_id.decode() for entry_id in pipeline.execute()]


@contextmanager
def meanwhile(act: Callable[[], None]):
    """Do something in a thread for as long as the block lasts; what it raises is raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield thread
    thread.join()
    if raised:
        raise raised[0]


def test_every_entry_is_read_once_through_restarts(tmp_path: Path):
    with RedisServer(tmp_path, "--appendfsync", "always", appendonly=True) as server:
        reading = Reading(server)
        sent: list[str] = []

        def restarts() -> None:
            for number in range(5):
                with server.client() as client:
                    sent.extend(add(client, 50))
                (server.kill if number % 2 else server.stop)()
                server.start()

        with meanwhile(restarts) as thread:
            while thread.is_alive():
                reading.once()
                reading.reader.offsets.commit(reading.positions)
        reading.until(lambda: len(reading.ids) >= len(sent))
        assert (reading.ids, reading.lost) == (sent, [])


def test_every_entry_is_read_once_while_connections_are_cut(tmp_path: Path):
    with RedisServer(tmp_path) as server:
        reading = Reading(server)
        sent: list[str] = []

        def cuts() -> None:
            with server.client() as client:
                for _ in range(40):
                    sent.extend(add(client, 10))
                    client.client_kill_filter(_type="normal", skipme=True)

        with meanwhile(cuts) as thread:
            while thread.is_alive():
                reading.once()
        reading.until(lambda: len(reading.ids) >= len(sent))
        assert (reading.ids, reading.lost) == (sent, [])


def test_every_entry_is_read_once_through_partitions_that_close_no_connection(tmp_path: Path):
    timeout = 0.3
    with RedisServer(tmp_path) as server, Network(server.port) as network, server.client() as client:
        reading = Reading(server, Connection(f"redis://127.0.0.1:{network.port}/0", timeout=timeout))
        sent = add(client, 10)
        reading.until(lambda: len(reading.ids) >= len(sent))

        def partitions() -> None:
            for _ in range(2):
                network.cut()
                sent.extend(add(client, 10))
                time.sleep(3 * timeout)
                network.heal()
                sent.extend(add(client, 10))
                time.sleep(timeout)

        with meanwhile(partitions) as thread:
            while thread.is_alive():
                reading.once()
                reading.reader.offsets.commit(reading.positions)
        reading.until(lambda: len(reading.ids) >= len(sent))
        reading.reader.offsets.commit(reading.positions)
        assert (reading.ids, reading.lost) == (sent, [])
        assert client.xinfo_groups("s")[0]["last-delivered-id"].decode() == sent[-1]


def test_a_stream_whose_ids_were_set_back_after_a_clock_jumped_ahead_is_read_on(tmp_path: Path):
    with RedisServer(tmp_path) as server, server.client() as client:
        reading = Reading(server)
        now = int(time.time() * 1000)
        sent = [client.xadd("s", {"data": "{}"}, id=f"{now + 7_200_000}-0").decode(), *add(client, 3)]
        reading.until(lambda: len(reading.ids) >= len(sent))
        reading.reader.offsets.commit(reading.positions)
        client.xtrim("s", maxlen=0, approximate=False)
        client.execute_command("XSETID", "s", f"{now}-0")
        sent += add(client, 3)
        reading.until(lambda: len(reading.ids) >= len(sent))
        reading.reader.offsets.commit(reading.positions)
        assert reading.ids == sent
        assert client.xinfo_groups("s")[0]["last-delivered-id"].decode() == sent[-1]


def test_a_server_that_hangs_is_waited_for(tmp_path: Path):
    with RedisServer(tmp_path) as server, server.client() as client:
        reading = Reading(server)
        sent = add(client, 10)
        client.execute_command("CLIENT", "PAUSE", 300, "ALL")
        reading.until(lambda: len(reading.ids) >= 10)
        assert reading.ids == sent


def test_a_redis_that_forgot_its_newest_entries_goes_on(tmp_path: Path):
    with RedisServer(tmp_path, "--appendfsync", "no", appendonly=True) as server:
        reading = Reading(server)
        with server.client() as client:
            first = add(client, 20)
            reading.until(lambda: len(reading.ids) >= 20)
            reading.reader.offsets.commit(reading.positions)
            second = add(client, 20)
        reading.until(lambda: len(reading.ids) >= 40)
        server.stop()
        _cut(tmp_path, second[5].encode())
        server.start()
        reading.once()
        with server.client() as client:
            assert client.xlen("s") == 25
            third = add(client, 20)
        reading.until(lambda: len(reading.ids) >= 60)
        assert (list(dict.fromkeys(reading.ids)), reading.lost) == (first + second + third, [None])
        assert reading.positions["s"].index == 45


@contextmanager
def full(folder: Path):
    """A Redis that takes no more entries, with some already in it, a client of it, and the ids of the
    entries."""
    with RedisServer(folder, "--maxmemory", "5mb") as server, server.client() as client:
        client.xgroup_create("s", "g", "0", mkstream=True)
        sent = list(until_full(client))
        with client.pipeline() as pipeline, pytest.raises(redis.exceptions.OutOfMemoryError):
            pipeline.time().execute()
        yield server, client, sent


def until_full(client: redis.Redis):
    """Add entries until no more fits; their ids."""
    with suppress(redis.exceptions.OutOfMemoryError):
        while True:
            yield client.xadd("s", {"data": "x" * 1000}).decode()


def test_a_full_redis_is_read_and_committed_until_a_producer_can_trim_it(tmp_path: Path):
    with full(tmp_path) as (server, client, sent):
        reading = Reading(server)
        reading.until(lambda: len(reading.ids) >= len(sent))
        reading.reader.offsets.commit(reading.positions)
        (group,) = client.xinfo_groups("s")
        assert (reading.ids, reading.lost, group["last-delivered-id"].decode(), group["lag"]) == (
            sent,
            [],
            sent[-1],
            0,
        )
        fresh = Reading(server)
        assert fresh.positions["s"].counted == sent[-1]
        client.xtrim("s", minid=group["last-delivered-id"], approximate=False)
        sent += add(client, 3)
        reading.until(lambda: len(reading.ids) >= len(sent))
        assert (reading.ids, reading.lost) == (sent, [])


def test_a_group_that_is_missing_in_a_full_redis_is_made(tmp_path: Path):
    with full(tmp_path) as (server, client, sent):
        client.xgroup_destroy("s", "g")
        reading = Reading(server)
        reading.until(lambda: len(reading.ids) >= len(sent))
        reading.reader.offsets.commit(reading.positions)
        assert client.xinfo_groups("s")[0]["last-delivered-id"].decode() == sent[-1]


def test_a_trim_in_a_full_redis_is_counted(tmp_path: Path):
    with full(tmp_path) as (server, client, sent):
        reading = Reading(server)
        reading.once()
        client.xdel("s", sent[-1])
        client.xtrim("s", maxlen=len(sent) - 300, approximate=False)  # and 299 of the front
        read = len(reading.ids)
        reading.until(lambda: sent[-2] in reading.ids)
        reading.once()
        assert (sum(reading.lost), reading.ids) == (299 - read + 1, sent[:read] + sent[299:-1])


def test_a_lease_is_taken_kept_and_given_back_in_a_full_redis(tmp_path: Path):
    with full(tmp_path) as (server, _, _):
        one, two = (RedisLease(Connection(server.url), "g", ["s"], owner) for owner in ("one", "two"))
        one.acquire()
        one.renew()
        with pytest.raises(GroupTaken):
            two.acquire()
        one.release()
        two.acquire()


def _cut(folder: Path, entry_id: bytes) -> None:
    """Lose the end of the append-only file, from the command that adds an entry on."""
    (file,) = folder.glob("appendonlydir/*.incr.aof")
    kept = file.read_bytes()
    file.write_bytes(kept[: kept.rindex(b"*5", 0, kept.index(entry_id))])


def test_an_outage_that_outlasts_the_patience_is_an_error_that_names_the_server(tmp_path: Path):
    with RedisServer(tmp_path) as server:
        reader = Reader(Connection(server.url).client(patience=0.2), "g", ["s"])
        positions = reader.offsets.start(0)
        server.kill()
        with pytest.raises(redis.ConnectionError, match=f"localhost:{server.port}"):
            reader.read(positions, 10, 10)
