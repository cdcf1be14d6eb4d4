"""The stream of the simulator: what a consumer gets, and how it loses it."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.request import urlopen

import aiohttp
import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, WSServerHandshakeError

from pipelines.simulator.outages import Outages
from tests.layer4 import RunningLayer4, run_layer4
from tests.patience import PATIENCE

FAST = 120_000.0
"""Reports a minute, so that tests are short."""


class SetClock:
    """A clock that a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def consume(
    layer4: RunningLayer4, work: Callable[[ClientWebSocketResponse], Coroutine[Any, Any, Any]]
) -> Any:
    """What `work` returns of a connection to the stream."""

    async def connect() -> Any:
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE))
        async with session, session.ws_connect(layer4.live, autoping=False) as connection:
            return await work(connection)

    return asyncio.run(asyncio.wait_for(connect(), PATIENCE))


async def read_reports(connection: ClientWebSocketResponse, most: int = 1 << 30) -> list[bytes]:
    """The reports until the connection ends, at most so many."""
    found: list[bytes] = []
    async for message in connection:
        assert message.type == WSMsgType.TEXT
        found.append(message.data.encode())
        if len(found) == most:
            break
    return found


def test_each_message_is_a_report_from_the_connect_on_in_the_order_of_the_export() -> None:
    with run_layer4(history=100, rate=FAST) as layer4:
        found = consume(layer4, lambda connection: read_reports(connection, 50))
        offered = layer4.offered()
    first = offered.index(found[0])
    assert first >= 100
    assert found == offered[first : first + 50]
    assert list(json.loads(found[0]))[:2] == ["task_id", "agent_id"]


def test_a_drop_loses_what_is_offered_until_the_next_connect() -> None:
    with run_layer4(rate=FAST) as layer4:

        async def lose(connection: ClientWebSocketResponse) -> list[bytes]:
            found = await read_reports(connection, 5)
            layer4.drop()
            return found + await read_reports(connection)

        assert len(consume(layer4, lose)) >= 5
        assert layer4.layer4.sockets.dropped == 1
        assert len(consume(layer4, lambda connection: read_reports(connection, 5))) == 5


def test_sockets_are_dropped_at_a_report_by_probability() -> None:
    with run_layer4(faults="drop=0.01") as layer4:

        async def lose(connection: ClientWebSocketResponse) -> None:
            layer4.loop.call_soon_threadsafe(layer4.layer4.sockets.offer, range(1000))
            assert await read_reports(connection) == []

        consume(layer4, lose)
        assert layer4.layer4.sockets.dropped == 1
        assert 2 <= layer4.layer4.faults.given["drop"] <= 20


def test_sockets_are_dropped_after_a_time_of_the_simulated_clock() -> None:
    time_now = SetClock()
    with run_layer4(rate=60.0, speed=10.0, monotonic=time_now, outages=Outages(every=20.0)) as layer4:

        async def lose(connection: ClientWebSocketResponse) -> None:
            time_now.seconds = 1.9
            assert len(await read_reports(connection, 19)) == 19
            time_now.seconds = 2.1
            assert await read_reports(connection) == []

        consume(layer4, lose)
        assert layer4.layer4.sockets.dropped == 1


def test_times_of_drops_and_of_the_stream_that_is_down() -> None:
    outages = Outages(every=23.0, begin=100.0, duration=60.0)
    assert sum(outages.drops_between(now / 10, now / 10 + 0.1) for now in range(6000)) == 27
    assert outages.drops_between(99.9, 100.1)
    assert [outages.is_down(now) for now in (99.9, 100.0, 159.9, 160.0)] == [False, True, True, False]
    assert not Outages().is_down(0.0)


def test_while_the_stream_is_down_the_export_goes_on() -> None:
    with run_layer4(rate=FAST, outages=Outages(begin=0.0, duration=3600.0)) as layer4:
        with pytest.raises(WSServerHandshakeError, match="503"):
            consume(layer4, read_reports)
        wait_for(lambda: layer4.layer4.offers.end > 0)
        with urlopen(layer4.export) as answer:
            assert json.load(answer)["pagination"]["total_count"] > 0
        assert layer4.layer4.sockets.refused == 1


async def ping(connection: ClientWebSocketResponse, patience: float) -> WSMsgType | None:
    """The type of the next message after a ping; None if there is none."""
    await connection.ping(b"there?")
    try:
        return (await connection.receive(timeout=patience)).type
    except TimeoutError:
        return None


def test_a_ping_is_answered() -> None:
    with run_layer4() as layer4:
        assert consume(layer4, lambda connection: ping(connection, 10.0)) == WSMsgType.PONG


def test_a_silent_socket_answers_no_ping_and_sends_no_report_but_stays_open() -> None:
    with run_layer4(history=5, faults="silence=1") as layer4:

        async def silence(connection: ClientWebSocketResponse) -> None:
            layer4.loop.call_soon_threadsafe(layer4.layer4.sockets.offer, range(1))
            await asyncio.sleep(0.2)
            assert await ping(connection, 0.5) is None
            assert not connection.closed

        consume(layer4, silence)
        assert layer4.layer4.faults.given["silence"] == 1
        assert layer4.layer4.sockets.dropped == 0


def test_a_consumer_that_does_not_read_is_dropped_and_delays_nobody() -> None:
    time_now = SetClock()
    running = run_layer4(rate=60_000.0, monotonic=time_now, most_behind=10_000)
    with running as layer4, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((layer4.host, layer4.port))
        slow.sendall(
            b"GET /kpi/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        wait_for(lambda: layer4.layer4.sockets.opened == 1)

        async def read(connection: ClientWebSocketResponse) -> int:
            """Read until the other one is dropped; never more than a thousand reports behind."""
            for second in range(1, 60):
                time_now.seconds = float(second)
                assert len(await read_reports(connection, 1000)) == 1000
                if layer4.layer4.sockets.slow:
                    return second
            raise AssertionError("the slow consumer is not dropped")

        assert consume(layer4, read) > 10
        assert (layer4.layer4.sockets.slow, layer4.layer4.sockets.opened) == (1, 2)


def test_metrics_have_the_names_of_layer_4_and_count_what_is_offered() -> None:
    names = {
        *("uptime_seconds", "agents_spawned_total", "tasks_processed_total", "health_status", "tasks_total"),
        *("tasks_succeeded_total", "tasks_failed_total", "task_latency_ms_bucket", "task_accuracy"),
        *("task_execution_time_ms_bucket", "cpu_usage", "memory_usage", "agent_cpu_usage", "agent_memory_mb"),
    }
    with run_layer4(history=50, rate=FAST, most=350) as layer4:

        def ask() -> dict[str, float]:
            with urlopen(layer4.export.replace("/kpi/export", "/metrics")) as answer:
                lines = [line.split() for line in answer.read().decode().splitlines() if line[0] != "#"]
            return {words[0].partition("{")[0]: float(words[1]) for words in lines}

        wait_for(lambda: ask()["layer4_tasks_processed_total"] >= 300)
        values = ask()
    own = {name for name in values if not name.endswith(("_ms_sum", "_ms_count"))}
    assert own == {f"layer4_{name}" for name in names}
    assert values["layer4_tasks_processed_total"] == 300
    assert values["layer4_tasks_failed_total"] + values["layer4_tasks_succeeded_total"] == 300
    assert values["layer4_tasks_failed_total"] > 0
    assert values["layer4_health_status"] == 1
