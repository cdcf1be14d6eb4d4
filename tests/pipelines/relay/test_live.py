"""The socket: fast, and what it misses comes from the export."""

import asyncio
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
from aiohttp import web
from aiohttp.test_utils import TestServer as HttpServer

from pipelines.relay.cursor import RelayedStream, Superseded
from pipelines.relay.live import LiveReader
from pipelines.relay.session import open_session
from pipelines.relay.tls import Tls
from tests.pipelines.relay.layer4 import Layer4, make_report
from tests.pipelines.relay.running import STREAM, read, run_relay, shorten_pauses, wait_for
from tests.servers import RedisServer
from transforms.redis.connection import Connection


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch)


def make_reports(first: int, end: int) -> list[bytes]:
    return [make_report(number) for number in range(first, end)]


def test_reports_come_once_by_the_socket_or_the_export_and_gaps_are_healed(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    with Layer4(make_reports(0, 30)) as layer4, run_relay(layer4, server, tmp_path) as running:
        running.wait(lambda status: status.situation.connected and status.totals.get("exported", 0) == 30)
        wait_for(lambda: client.xlen(STREAM) == 30)
        layer4.offer(*make_reports(30, 60))
        wait_for(lambda: client.xlen(STREAM) == 60)
        running.wait(lambda status: status.situation.behind == 0 and status.totals.get("live", 0) == 30)
        layer4.drop_sockets()
        layer4.offer(*make_reports(60, 80), silently=True)
        running.wait(lambda status: status.totals.get("healed", 0) == 20)
        wait_for(lambda: layer4.is_followed)
        layer4.offer(*make_reports(80, 90))
        running.wait(lambda status: status.totals.get("live", 0) == 40 and status.situation.behind == 0)
        running.wait(lambda status: status.totals.get("connections", 0) == 2)
        assert sorted(read(client)) == sorted(layer4.reports)  # each once


def test_a_socket_that_stops_to_answer_pings_is_opened_again(
    server: RedisServer, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.relay.live.PING_SECONDS", 0.2)
    with Layer4() as layer4:
        layer4.answers_pings = False
        with run_relay(layer4, server, tmp_path) as running:
            running.wait(lambda status: status.situation.connections >= 2)


@pytest.mark.parametrize(("name", "most"), [("QUEUE", 10), ("_QUEUED_BYTES", 500_000)])
def test_while_nobody_takes_reports_the_socket_is_not_read(
    monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    monkeypatch.setattr(f"pipelines.relay.live.{name}", most)
    payload = b"x" * 50_000
    sent = 0

    async def follow(layer4: Layer4) -> None:
        async with aiohttp.ClientSession() as session:
            reader = LiveReader(layer4.live, Tls(None), session, lambda _: None, lambda _: None)
            task = asyncio.create_task(reader.run())
            while not layer4.is_followed:
                await asyncio.sleep(0.01)

            def offer() -> None:
                nonlocal sent
                for _ in range(400):
                    layer4.offer(payload)
                    sent += 1

            threading.Thread(target=offer, daemon=True).start()
            await asyncio.sleep(1)
            assert reader.queue.qsize() == 10
            assert sent < 400  # Layer 4 has to wait
            for _ in range(400):
                assert (await asyncio.wait_for(reader.queue.get(), 30))[1] == payload
            task.cancel()

    with Layer4() as layer4:
        asyncio.run(follow(layer4))


def test_a_socket_that_is_sent_elsewhere_is_not_followed() -> None:
    """Elsewhere may be without TLS."""
    visited: list[str] = []

    async def redirect(request: web.Request) -> web.Response:
        visited.append(request.path)
        raise web.HTTPFound("/elsewhere")

    async def follow() -> None:
        app = web.Application()
        app.add_routes([web.get("/{path:.*}", redirect)])
        async with HttpServer(app) as server, open_session() as session:
            url = str(server.make_url("/kpi/stream")).replace("http", "ws")
            with pytest.raises(aiohttp.ClientError, match="another address"):
                await session.ws_connect(url)

    asyncio.run(follow())
    assert visited == ["/kpi/stream"]


def test_a_relay_that_was_replaced_adds_nothing(server: RedisServer, client: redis.Redis) -> None:
    first, second = (RelayedStream(Connection(server.url), STREAM) for _ in range(2))
    first.claim()
    first.move([b"1"])
    second.claim()
    with pytest.raises(Superseded):
        first.move([b"2"])
    second.move([b"3"])
    assert read(client) == [b"1", b"3"]


def test_a_second_relay_waits_and_takes_over(
    server: RedisServer, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.jobs.run_record.record_process", lambda *_: nullcontext())
    with Layer4() as layer4, run_relay(layer4, server, tmp_path / "b") as waiting:
        waiting.wait(lambda status: status.situation.state == "relaying")
        with run_relay(layer4, server, tmp_path / "a") as other:
            other.wait(lambda status: status.situation.state == "waiting")
            waiting.ended.set()
            other.wait(lambda status: status.situation.state == "relaying" and status.situation.connected)
            layer4.offer(make_report(0))
            wait_for(lambda: client.xlen(STREAM) == 1)


def test_a_redis_that_went_back_gets_the_reports_again(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    key = f"kpiflow:{{{STREAM}}}:relay"
    with Layer4(make_reports(0, 10)) as layer4, run_relay(layer4, server, tmp_path) as running:
        running.wait(lambda status: status.situation.connected and status.totals.get("exported", 0) == 10)
        before: Any = client.dump(key), client.dump(STREAM)
        layer4.offer(*make_reports(10, 20))
        wait_for(lambda: client.xlen(STREAM) == 20)
        running.wait(lambda status: status.situation.behind == 0)
        for name, state in zip((key, STREAM), before):
            client.restore(name, 0, state, replace=True)
        layer4.offer(make_report(20))
        wait_for(lambda: set(read(client)) == set(layer4.reports))
