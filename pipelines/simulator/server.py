"""A Layer 4 to test against: /kpi/export, /kpi/stream and /metrics."""

import asyncio
import signal
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from aiohttp import web

from pipelines.failures import WrongUse
from pipelines.rate_limit import RateLimit
from pipelines.simulator.export import Export
from pipelines.simulator.faults import Faults
from pipelines.simulator.metrics import Layer4Metrics
from pipelines.simulator.offers import MOST_BEHIND, Offers
from pipelines.simulator.outages import Outages
from pipelines.simulator.sockets import Sockets
from transforms.core.counts import format_count

TICK_SECONDS = 0.01
"""Seconds between two looks at the clock."""


@dataclass
class Layer4:
    """The server of what is offered."""

    offers: Offers
    faults: Faults = field(default_factory=Faults)
    outages: Outages = field(default_factory=Outages)
    most_behind: int = MOST_BEHIND

    def __post_init__(self) -> None:
        self.export = Export(self.offers, self.faults, RateLimit())
        self.sockets = Sockets(self.offers, self.faults, self.outages, self.most_behind)
        self._metrics = Layer4Metrics()

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> tuple[web.AppRunner, int]:
        """Listen until the runner is cleaned up. Returns it and the port.

        Raises:
            OSError: the address cannot be used.
        """
        app = web.Application()
        app.router.add_get("/kpi/export", self.export.serve)
        app.router.add_get("/kpi/stream", self.sockets.serve)
        app.router.add_get("/metrics", self._write_metrics)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        return runner, runner.addresses[0][1]

    async def offer(self) -> None:
        """Offer reports when they are due, without end.

        Raises:
            OSError: the record cannot be written.
        """
        before = 0.0
        while True:
            now = self.offers.clock.elapsed()
            new = self.offers.advance()
            self._metrics.count(self.offers.read(new.start, new.stop))
            if self.outages.drops_between(before, now):
                self.sockets.drop()
            self.sockets.offer(new)
            before = now
            await asyncio.sleep(TICK_SECONDS)

    def describe(self) -> str:
        """What was offered and answered, as one line."""
        sockets, answers = self.sockets, self.export.answers
        parts = [
            f"offered {format_count(self.offers.end, 'report')}",
            f"answers of the export: {_list(answers)}",
            f"sockets: {sockets.opened:,} opened, {sockets.refused:,} refused, {sockets.dropped:,} dropped, "
            f"{sockets.slow:,} of them slow",
            f"faults: {_list(self.faults.given)}",
        ]
        return "; ".join(parts)

    async def _write_metrics(self, _: web.Request) -> web.Response:
        page = self._metrics.write(self.offers.clock.elapsed())
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items())) or "none"


async def serve(
    layer4: Layer4, host: str, port: int, tls: ssl.SSLContext | None, on_listening: Callable[[str], object]
) -> None:
    """Serve until SIGINT or SIGTERM; SIGUSR1 drops the sockets. `on_listening` gets the address as a URL.

    Raises:
        WrongUse: the address cannot be used.
        OSError: the record cannot be written.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, layer4.sockets.drop)
    layer4.offers.advance()  # the history, which is not counted as new
    try:
        runner, port = await layer4.listen(host, port, tls)
    except OSError as error:
        raise WrongUse(
            f"cannot listen on {host}:{port}: {error.strerror}", "give another --listen"
        ) from error
    on_listening(f"{'https' if tls else 'http'}://{host}:{port}")
    offering, stopping = (asyncio.ensure_future(each) for each in (layer4.offer(), stop.wait()))
    try:
        await asyncio.wait({offering, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        offering.cancel()
        stopping.cancel()
        layer4.sockets.end()
        await runner.cleanup()
    with suppress(asyncio.CancelledError):
        await offering
