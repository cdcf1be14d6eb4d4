"""A Layer 4 in a thread: an export and a socket over a list of reports, with the faults that a test asks
for."""

import asyncio
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import WSMsgType, web

from tests.patience import PATIENCE


class Layer4:
    """`faults` holds what happens to the next requests, one each; "none" is no fault."""

    def __init__(
        self, reports: list[bytes] | None = None, context: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.reports = list(reports or [])
        self.faults: deque[str] = deque()
        self.dropped = 0
        self.requests: list[tuple[int, int]] = []
        self.times: list[float] = []
        self.largest = 1000
        self.on_request: Callable[[], None] = lambda: None
        self._context = context
        self._before: dict[str, Any] = {}
        self._sockets: set[web.WebSocketResponse] = set()
        self._ready = threading.Event()
        self.port = port
        self.answers_pings = True

    def __enter__(self) -> "Layer4":
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(PATIENCE)

    @property
    def export(self) -> str:
        return f"{'https' if self._context else 'http'}://localhost:{self.port}/kpi/export"

    @property
    def live(self) -> str:
        return f"{'wss' if self._context else 'ws'}://localhost:{self.port}/kpi/stream"

    @property
    def is_followed(self) -> bool:
        return bool(self._sockets)

    def offer(self, *reports: bytes, silently: bool = False) -> None:
        """Take reports, and send them to the sockets."""
        self.reports += reports
        if not silently:
            asyncio.run_coroutine_threadsafe(self._send(reports), self._loop).result(10)

    def drop_sockets(self) -> None:
        """Break the connections of all sockets."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(10)

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.add_routes([web.get("/kpi/export", self._export), web.get("/kpi/stream", self._stream)])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self._context)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._ended.wait()
        await runner.cleanup()

    async def _send(self, reports: tuple[bytes, ...]) -> None:
        for socket in list(self._sockets):
            for report in reports:
                await socket.send_str(report.decode())

    async def _drop(self) -> None:
        for socket in list(self._sockets):
            if socket._req is not None and socket._req.transport is not None:
                socket._req.transport.abort()

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=self.answers_pings)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            async for message in socket:
                if message.type is WSMsgType.ERROR:
                    break
        finally:
            self._sockets.discard(socket)
        return socket

    async def _export(self, request: web.Request) -> web.StreamResponse:
        self.on_request()
        self.times.append(self._loop.time())
        page, per_page = int(request.query["page"]), int(request.query.get("per_page", 100))
        per_page = min(per_page, self.largest)
        self.requests.append((page, per_page))
        fault = self.faults.popleft() if self.faults else "none"
        if fault == "429":
            return web.Response(status=429, headers={"Retry-After": "0.2"})
        if fault == "500":
            return web.Response(status=500)
        body = self._make_body(page, per_page, fault)
        if fault == "cut":
            text = json.dumps(body).encode()
            response = web.StreamResponse(headers={"Content-Length": str(len(text))})
            await response.prepare(request)
            await response.write(text[: len(text) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response
        if fault == "garbage":
            return web.Response(body=json.dumps(body).encode()[:-20])
        reports = b",".join(body.pop("kpi_reports"))
        text = b'{"kpi_reports": [%b], %b' % (reports, json.dumps(body).encode()[1:])
        return web.Response(body=text, content_type="application/json")

    def _make_body(self, page: int, per_page: int, fault: str) -> dict[str, Any]:
        if fault == "repeated" and self._before:
            return dict(self._before)
        kept = self.reports[self.dropped :]
        found, total = kept[(page - 1) * per_page : page * per_page], len(kept)
        pages = -(-total // per_page)
        if fault == "short":
            found = found[: len(found) // 2]
        elif fault == "empty":
            found = []
        elif fault == "false-last":
            found, pages, total = found[: len(found) // 3], page, (page - 1) * per_page + len(found) // 3
        elif fault == "count":
            total = total * 2 + 7
        if fault in ("cut", "garbage"):
            found = []
        body = {
            "timestamp": datetime.now(UTC).isoformat(),
            "kpi_reports": found,
            "pagination": {
                "page": page, "per_page": per_page, "total_pages": pages, "total_count": total,
            },
        }  # fmt: skip
        self._before = dict(body)
        return body


def make_report(number: int, recorded_at: str | None = None) -> bytes:
    """A report with spaces of its own, so that a changed byte shows."""
    moment = recorded_at or datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return b'{"task_id" : "%d",  "latency_ms": 1.50, "recorded_at": "%b"}' % (number, moment.encode())
