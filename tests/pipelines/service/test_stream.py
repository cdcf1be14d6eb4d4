"""/kpi/stream: live reports over WebSockets, resumed by id, with gaps, and slow clients that are dropped."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import redis

from pipelines.relay.export import parse_page
from pipelines.service import stream
from pipelines.service.access import connections
from pipelines.service.guards import Guards, Subject
from pipelines.service.live import STREAM, LiveReports
from schemas.tables import REPORTS
from tests.builders import report
from tests.patience import PATIENCE
from tests.pipelines.service.test_access import ROLES_FILE, House, keep_house
from tests.pipelines.service.test_export import judge, make_output
from tests.servers import RedisServer
from tests.service import RunningService, make_service, run_service
from transforms.redis.connection import Connection
from transforms.sinks.publish import format_reports

Follow = Callable[[aiohttp.ClientSession], Awaitable[Any]]


def publish(client: redis.Redis, first: int, count: int, **fields: Any) -> list[str]:
    """Add reports as `kpiflow stream --live` does; their ids."""
    rows = judge([report(number, **fields) for number in range(first, first + count)])
    return [client.xadd(STREAM, entry).decode() for entry in format_reports(rows)]


@asynccontextmanager
async def connect(service: RunningService, query: str = "") -> AsyncIterator[Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{service.url}/kpi/stream{query}") as socket,
    ):
        yield socket


async def take(socket: Any, count: int) -> list[Any]:
    return [json.loads((await socket.receive(timeout=PATIENCE)).data) for _ in range(count)]


def serve(tmp_path: Path, server: RedisServer, **options: Any) -> Any:
    live = LiveReports(Connection(server.url), **options)
    service = make_service(make_output(tmp_path, [report(0)]), live=live)
    return run_service(service)


def wait_ready(service: RunningService | House) -> None:
    get = service.get if isinstance(service, RunningService) else partial(service.get, "")
    end = time.monotonic() + PATIENCE
    while (ready := get("/readyz")).status != 200:
        assert time.monotonic() < end, ready.body
        time.sleep(0.02)


def test_a_socket_gets_reports_as_layer_4_sends_them(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    publish(client, 0, 3)
    with serve(tmp_path, server) as service:
        wait_ready(service)
        exported = parse_page(service.get("/kpi/export").body).reports

        async def follow() -> None:
            async with connect(service) as socket:
                publish(client, 0, 2)
                assert (await socket.receive(timeout=PATIENCE)).data.encode() == exported[0]
                assert (await take(socket, 1))[0]["task_id"] == report(1)["task_id"]

        asyncio.run(follow())


def test_entries_have_ids_and_every_column(server: RedisServer, client: redis.Redis, tmp_path: Path) -> None:
    with serve(tmp_path, server) as service:
        wait_ready(service)

        async def follow() -> None:
            async with connect(service, "?entries=true") as socket:
                assert await take(socket, 1) == [{"type": "start", "after": "0-0"}]
                (name,) = publish(client, 0, 1)
                (message,) = await take(socket, 1)
                assert (message["type"], message["id"]) == ("report", name)
                assert set(message["report"]) == set(REPORTS.schema.names)

        asyncio.run(follow())


@pytest.mark.parametrize("kept", [100, 5])
def test_a_client_resumes_behind_any_entry(
    kept: int, server: RedisServer, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.service.live._BATCH", 7)
    before = publish(client, 0, 20)
    with serve(tmp_path, server, most_entries=kept) as service:
        wait_ready(service)
        ids = before + publish(client, 20, 20)

        async def follow(after: str) -> list[str]:
            async with connect(service, f"?entries=true&after={after}") as socket:
                rest = ids[ids.index(after) + 1 :]
                await take(socket, 1)
                return [each["id"] for each in await take(socket, len(rest))]

        for place in (0, 10, 19, 25, 36):
            assert asyncio.run(follow(ids[place])) == ids[place + 1 :]


def test_what_left_the_stream_is_a_gap(server: RedisServer, client: redis.Redis, tmp_path: Path) -> None:
    ids = publish(client, 0, 20)
    client.xtrim(STREAM, maxlen=8, approximate=False)
    with serve(tmp_path, server) as service:
        wait_ready(service)

        async def follow() -> None:
            async with connect(service, f"?entries=true&after={ids[3]}") as socket:
                _, gap, first = await take(socket, 3)
                assert gap == {"type": "gap", "after": ids[3], "before": ids[12]}
                assert first["id"] == ids[12]
                assert [each["id"] for each in await take(socket, 7)] == ids[13:]

        asyncio.run(follow())


def test_a_stream_that_begins_again_is_a_gap_and_sends_a_layer_4_client_to_the_export(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    publish(client, 0, 5)
    with serve(tmp_path, server) as service:
        wait_ready(service)

        async def follow() -> None:
            async with connect(service, "?entries=true") as socket, connect(service) as plain:
                await take(socket, 1)
                client.delete(STREAM)
                client.xadd(STREAM, {"report_id": "x", "data": "{}"}, id="1-1")
                gap, entry = await take(socket, 2)
                assert (gap["type"], gap["before"], entry["id"]) == ("gap", "0-0", "1-1")
                closed = await plain.receive(timeout=PATIENCE)
                assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1013)
                assert "read /kpi/export" in closed.extra

        asyncio.run(follow())


def test_a_slow_client_is_dropped_with_a_reason_and_the_others_are_not(
    server: RedisServer, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SLOW_SECONDS", 0.5)
    with serve(tmp_path, server, most_entries=40) as service:
        wait_ready(service)

        async def follow() -> None:
            async with connect(service, "?entries=true") as quick, connect(service, "?entries=true") as slow:
                await take(quick, 1)
                slow._conn.transport.pause_reading()
                for _ in range(40):
                    for _ in range(10):
                        client.xadd(STREAM, {"data": json.dumps({"extra": "x" * 100_000})})
                    await take(quick, 10)
                    if service.service.sockets == 1:
                        break
                end = time.monotonic() + PATIENCE
                while service.service.sockets > 1:
                    assert time.monotonic() < end
                    await asyncio.sleep(0.05)
                publish(client, 0, 1)
                await take(quick, 1)
                slow._conn.transport.abort()

        asyncio.run(follow())


def test_two_hundred_sockets_are_fed_by_one_reader_of_redis(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    with serve(tmp_path, server) as service:
        wait_ready(service)

        async def follow() -> None:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                sockets = [await session.ws_connect(f"{service.url}/kpi/stream") for _ in range(200)]
                while (readers := len(client.client_list())) > 2:  # those of the test before end soon
                    await asyncio.sleep(0.05)
                publish(client, 0, 10)
                found = await asyncio.gather(*(take(socket, 10) for socket in sockets))
                assert all(each == found[0] for each in found)
                assert len(client.client_list()) == readers == 2
                await asyncio.gather(*(socket.close() for socket in sockets))

        asyncio.run(follow())
        end = time.monotonic() + PATIENCE
        while service.service.sockets:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_socket_ends_with_the_certificate_of_its_client(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    until = datetime.now(UTC) + timedelta(seconds=1)
    guards = Guards(identify=lambda _: Subject("s", "kpi-consumer", until=until))
    live = LiveReports(Connection(server.url))
    service = make_service(make_output(tmp_path, [report(0)]), live=live, guards=guards)
    with run_service(service) as running:
        wait_ready(running)

        async def follow() -> None:
            async with connect(running) as socket:
                closed = await socket.receive(timeout=PATIENCE)
                assert (closed.data, closed.extra) == (1008, "the certificate has expired")

        asyncio.run(follow())


@pytest.mark.parametrize(
    ("before", "after"),
    [("c.example", "d.example"), ('c.example"\nrole = "kpi-consumer"', 'c.example"\nrole = "monitoring"')],
    ids=["removed", "lowered"],
)
def test_a_socket_over_tls_ends_when_its_role_has_changed(
    before: str,
    after: str,
    server: RedisServer,
    client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.1)
    output = make_output(tmp_path, [report(0)])
    with keep_house(tmp_path, output, live=LiveReports(Connection(server.url))) as house:
        wait_ready(house)
        url = f"https://localhost:{house.port}/kpi/stream"

        async def follow() -> None:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(url, ssl=house.make_context("kpi-consumer")) as changed,
                session.ws_connect(url, ssl=house.make_context("optimization-admin")) as other,
            ):
                publish(client, 0, 1)
                assert (await take(changed, 1))[0] == (await take(other, 1))[0]
                assert before in ROLES_FILE
                house.roles.write_text(ROLES_FILE.replace(before, after))
                assert (await changed.receive(timeout=PATIENCE)).type is aiohttp.WSMsgType.CLOSED
                publish(client, 1, 1)
                assert (await take(other, 1))[0]["task_id"] == report(1)["task_id"]

        asyncio.run(follow())
        assert house.get("kpi-consumer", "/kpi/stream").status == 403


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?after=1-1", 400),
        ("?entries=true&after=x", 400),
        ("?entries=true&after=1-" + "9" * 30, 400),
        ("?entries=maybe", 400),
        ("?else=1", 400),
        ("?entries=true&entries=true", 400),
        ("", 426),
    ],
)
def test_a_wrong_request_of_the_stream_is_refused(
    query: str, status: int, server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    with serve(tmp_path, server) as service:
        wait_ready(service)
        reply = service.request("GET", f"/kpi/stream{query}")
        assert (reply.status, set(reply.json)) == (status, {"error", "fix"})


def test_a_page_of_another_site_opens_no_socket(tmp_path: Path, server: RedisServer) -> None:
    with serve(tmp_path, server) as service:
        reply = service.get("/kpi/stream", {"Origin": "https://evil.example"})
        assert (reply.status, reply.json["error"]) == (403, "a page of another site asks")
        own = {"Origin": f"http://127.0.0.1:{service.port}"}
        assert service.get("/queries", own).status == 200


def test_without_redis_there_is_no_stream(tmp_path: Path) -> None:
    with run_service(make_service(make_output(tmp_path, [report(0)]))) as service:
        assert service.get("/kpi/stream").status == 404


def test_a_redis_that_is_away_makes_the_service_not_ready(tmp_path: Path) -> None:
    live = LiveReports(Connection("redis://127.0.0.1:1/0"))
    with run_service(make_service(make_output(tmp_path, [report(0)]), live=live)) as service:
        assert service.get("/readyz").status == 503
        assert service.get("/kpi/stream").status == 503
        assert orjson.loads(service.get("/healthz").body) == {"alive": True}


def test_counts_have_the_reports_of_each_second_and_resume(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    for at, fields in ((1000, {}), (1500, {"error_details": {"code": 1}}), (2001, {})):
        (entry,) = format_reports(judge([report(at, **fields)]))
        client.xadd(STREAM, entry, id=f"{at}-0")
    first = {"second": 1, "reports": 2, "flagged": 0, "failed": 1}
    second = {"second": 2, "reports": 1, "flagged": 0, "failed": 0}
    with serve(tmp_path, server) as service:
        wait_ready(service)

        async def follow(after: str) -> list[Any]:
            async with connect(service, f"?counts=true&after={after}") as socket:
                return (await take(socket, 2))[1:]

        assert asyncio.run(follow("1-0")) == [{"type": "counts", "id": "2001-0", "seconds": [first, second]}]
        assert asyncio.run(follow("1500-0")) == [{"type": "counts", "id": "2001-0", "seconds": [second]}]
        client.xtrim(STREAM, minid="2000-0", approximate=False)
        (gap,) = asyncio.run(follow("1000-0"))
        assert (gap["type"], gap["after"], gap["before"]) == ("gap", "1000-0", "2001-0")


def test_counts_and_entries_are_not_asked_for_together(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    with serve(tmp_path, server) as service:
        wait_ready(service)
        assert service.get("/kpi/stream", counts="true", entries="true").status == 400
        assert service.get("/kpi/stream", counts="maybe").status == 400
