"""Sending to a real Redis: every payload is in the stream once, whatever becomes of the connection."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pyarrow as pa
import pytest

from pipelines.synthetic.sending import Sender, Sent
from tests.servers import RedisServer
from transforms.redis.connection import Connection
from transforms.redis.errors import RedisUnavailable


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that has every confirmed entry again after a restart."""
    with RedisServer(tmp_path, "--appendfsync", "always", appendonly=True) as running:
        yield running


def held(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        return [fields[b"data"] for _, fields in client.xrange("kpi")]


def texts(start: int, count: int) -> pa.StringArray:
    return pa.array([f'{{"ü":{number}}}' for number in range(start, start + count)])


def sent_wholly(sender: Sender, payloads: pa.StringArray) -> list[Sent]:
    """Send until all has arrived."""
    parts = []
    while len(payloads):
        parts.append(sender.send(payloads))
        payloads = payloads.filter(pa.array(~parts[-1].arrived))
    return parts


def test_entries_hold_the_payloads_in_order_at_the_time_of_redis(server: RedisServer) -> None:
    sender = Sender(Connection(server.url), "kpi", Event())
    began = sender.now_us() // 1000
    assert sender.send(texts(0, 500)).arrived.all()
    with server.client() as client:
        entries = client.xrange("kpi")
    assert [fields for _, fields in entries] == [
        {b"data": text.encode()} for text in texts(0, 500).to_pylist()
    ]
    first, last = (int(entries[place][0].split(b"-")[0]) for place in (0, -1))
    assert began - 5 <= first <= last <= sender.now_us() // 1000 + 5
    sender.close()


def test_restarts_and_cut_connections_neither_lose_nor_repeat(server: RedisServer) -> None:
    sender, done, stop = Sender(Connection(server.url), "kpi", Event()), 0, Event()

    def disturb() -> None:
        while not stop.wait(0.05):
            with server.client() as client:
                client.client_kill_filter(_type="normal", skipme=True)

    thread = threading.Thread(target=disturb)
    thread.start()
    away = 0.0
    for number in range(60):
        if number in (20, 40):
            stop.set()
            thread.join()
            server.kill()
            threading.Timer(0.2, server.start).start()
        parts = sent_wholly(sender, texts(done, 200))
        away += sum(part.away for part in parts)
        done += 200
    sender.close()
    assert held(server) == [text.encode() for text in texts(0, done).to_pylist()]
    assert away > 0


def test_what_had_arrived_when_the_connection_broke_is_found_among_others(server: RedisServer) -> None:
    sender = Sender(Connection(server.url), "kpi", Event())
    sender.send(texts(0, 3))
    with server.client() as client:
        for text in ["other", *texts(3, 2).to_pylist(), "other", *texts(6, 1).to_pylist()]:
            client.xadd("kpi", {"data": text})
        client.xadd("kpi", {"more": "fields"})
        client.client_kill_filter(_type="normal", skipme=True)
    sent = sender.send(texts(3, 5))
    assert (sent.arrived.tolist(), sent.away > 0) == ([True, True, False, True, False], True)
    sender.close()


def test_a_redis_that_hung_takes_nothing_after_all(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.redis.connection.TIMEOUT_SECONDS", 0.3)
    sender = Sender(Connection(server.url), "kpi", Event())
    assert server.process
    server.process.send_signal(signal.SIGSTOP)
    threading.Timer(0.6, server.process.send_signal, [signal.SIGCONT]).start()
    sent_wholly(sender, texts(0, 100))
    time.sleep(0.2)
    assert held(server) == [text.encode() for text in texts(0, 100).to_pylist()]
    sender.close()


def test_a_full_redis_is_told_with_what_it_took(server: RedisServer) -> None:
    sender = Sender(Connection(server.url), "kpi", Event())
    sender.send(texts(0, 10))
    with server.client() as client:
        client.config_set("maxmemory", 1)
    sent = sender.send(texts(10, 10))
    assert (
        sent.arrived.any(),
        "does not accept entries for kpi: " in sent.problem,
        "memory" in sent.problem,
    ) == (False, True, True)
    assert len(held(server)) == 10
    sender.close()


def test_a_redis_that_stays_away_ends_the_patience_and_the_rest_is_unsure(server: RedisServer) -> None:
    sender = Sender(Connection(server.url), "kpi", Event(), patience=0.2)
    server.kill()
    sent = sender.send(texts(0, 10))
    assert (sent.arrived.any(), sent.unsure, "was unavailable for 0 s" in sent.problem) == (False, 10, True)


def test_a_stop_ends_the_wait_for_redis(server: RedisServer) -> None:
    stop = Event()
    sender = Sender(Connection(server.url), "kpi", stop)
    server.kill()
    threading.Timer(0.2, stop.set).start()
    sent = sender.send(texts(0, 10))
    assert (sent.unsure, sent.problem) == (10, "")


def test_a_key_of_another_type_is_refused(server: RedisServer) -> None:
    with server.client() as client:
        client.set("kpi", "text")
    with pytest.raises(RedisUnavailable, match="not a stream"):
        Sender(Connection(server.url), "kpi", Event())
