"""A Layer 4 to test against: /kpi/export, /kpi/stream and /metrics."""

import asyncio
import ssl
from collections import Counter

from aiohttp import web

from pipelines.simulator.metrics import Layer4Metrics
from pipelines.simulator.offers import Offers
from pipelines.simulator.pages import USUAL_PAGE, Request, format_page
from pipelines.simulator.sockets import Sockets

TICK_SECONDS = 0.01
"""Seconds between two looks at the clock."""


class Layer4:
    """The server. `answers` counts the answers of the export by status."""

    def __init__(self, offers: Offers) -> None:
        self.offers = offers
        self.sockets = Sockets(offers)
        self.answers: Counter[int] = Counter()
        self._metrics = Layer4Metrics()
        offers.advance()  # the history, which is not counted as new

    async def serve(self, host: str, port: int, tls: ssl.SSLContext | None) -> tuple[web.AppRunner, int]:
        """Listen, and offer reports until the runner is cleaned up. Returns it and the port.

        Raises:
            OSError: the address cannot be used.
        """
        app = web.Application()
        app.router.add_get("/kpi/export", self._export)
        app.router.add_get("/kpi/stream", self.sockets.serve)
        app.router.add_get("/metrics", self._write_metrics)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        return runner, runner.addresses[0][1]

    async def offer(self) -> None:
        """Offer reports when they are due, without end."""
        while True:
            new = self.offers.advance()
            if new:
                self._metrics.count(self.offers.read(new.start, new.stop))
                self.sockets.wake()
            await asyncio.sleep(TICK_SECONDS)

    async def _export(self, request: web.Request) -> web.StreamResponse:
        answer = self._answer(request)
        self.answers[answer.status] += 1
        return answer

    def _answer(self, request: web.Request) -> web.Response:
        try:
            asked = Request.parse(
                request.query.get("page", "1"), request.query.get("per_page", str(USUAL_PAGE))
            )
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        offers = self.offers
        found = asked.find(offers.first, offers.end)
        body = format_page(
            offers.read(found.start, found.stop), asked, offers.end - offers.first, offers.clock.now()
        )
        return web.Response(body=body, content_type="application/json")

    async def _write_metrics(self, _: web.Request) -> web.Response:
        page = self._metrics.write(self.offers.clock.elapsed())
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
