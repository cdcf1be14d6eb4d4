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

FAST = 120_000.0
"""Reports a minute, so that tests are short."""


def consume(
    layer4: RunningLayer4, work: Callable[[ClientWebSocketResponse], Coroutine[Any, Any, Any]]
) -> Any:
    """What `work` returns of a connection to the stream."""

    async def connect() -> Any:
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20))
        async with session, session.ws_connect(layer4.live, autoping=False) as connection:
            return await work(connection)

    return asyncio.run(asyncio.wait_for(connect(), 20))


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


def test_sockets_are_dropped_by_probability_and_by_time() -> None:
    with run_layer4(rate=FAST, faults="drop=0.01") as layer4:
        consume(layer4, read_reports)
        assert layer4.layer4.faults.given["drop"] >= 1
    with run_layer4(rate=FAST, speed=100.0, outages=Outages(every=20.0)) as layer4:
        consume(layer4, read_reports)
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
        time.sleep(0.1)
        with urlopen(layer4.export) as answer:
            assert json.load(answer)["pagination"]["total_count"] > 0
        assert layer4.layer4.sockets.refused == 1


def test_a_ping_is_answered_but_not_by_a_silent_socket() -> None:
    async def ping(connection: ClientWebSocketResponse) -> set[WSMsgType]:
        await asyncio.sleep(0.2)
        await connection.ping(b"there?")
        found: set[WSMsgType] = set()
        try:
            while True:
                found.add((await connection.receive(timeout=0.3)).type)
        except TimeoutError:
            return found

    with run_layer4() as layer4:
        assert consume(layer4, ping) == {WSMsgType.PONG}
    with run_layer4(rate=FAST, most=200, faults="silence=1") as layer4:
        assert WSMsgType.PONG not in consume(layer4, ping)
        assert layer4.layer4.sockets.opened == 1


def test_a_consumer_that_does_not_read_is_dropped_and_delays_nobody() -> None:
    with run_layer4(rate=600_000.0, most_behind=10_000) as layer4, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((layer4.host, layer4.port))
        slow.sendall(
            b"GET /kpi/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert len(consume(layer4, lambda connection: read_reports(connection, 4000))) == 4000
        end = time.monotonic() + 10
        while not layer4.layer4.sockets.slow and time.monotonic() < end:
            time.sleep(0.05)
        assert layer4.layer4.sockets.slow == 1


def test_metrics_have_the_names_of_layer_4_and_count_what_is_offered() -> None:
    names = {
        *("uptime_seconds", "agents_spawned_total", "tasks_processed_total", "health_status", "tasks_total"),
        *("tasks_succeeded_total", "tasks_failed_total", "task_latency_ms_bucket", "task_accuracy"),
        *("task_execution_time_ms_bucket", "cpu_usage", "memory_usage", "agent_cpu_usage", "agent_memory_mb"),
    }
    with run_layer4(history=50, rate=FAST, most=350) as layer4:
        while layer4.layer4.offers.end < 350:
            time.sleep(0.02)
        time.sleep(0.1)
        with urlopen(layer4.export.replace("/kpi/export", "/metrics")) as answer:
            lines = answer.read().decode().splitlines()
    values = {line.split()[0].partition("{")[0]: float(line.split()[1]) for line in lines if line[0] != "#"}
    own = {name for name in values if not name.endswith(("_ms_sum", "_ms_count"))}
    assert own == {f"layer4_{name}" for name in names}
    assert values["layer4_tasks_processed_total"] == 300
    assert values["layer4_tasks_failed_total"] + values["layer4_tasks_succeeded_total"] == 300
    assert values["layer4_tasks_failed_total"] > 0
    assert values["layer4_health_status"] == 1
