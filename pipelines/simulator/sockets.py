"""The WebSocket of the simulator: each consumer gets every report from its connect on."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

from pipelines.simulator.offers import Offers

MOST_BEHIND = 20_000
"""Reports by which a consumer may be behind before its socket is dropped."""
PING_SECONDS = 20.0
"""Seconds between two pings of the server."""


@dataclass(eq=False)
class Socket:
    """A consumer. `position` is the number of the next report it gets; nothing is kept for it but that."""

    response: web.WebSocketResponse
    transport: asyncio.Transport
    position: int
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def drop(self) -> None:
        """End the connection without a close frame, as a crash does."""
        self.transport.abort()


class Sockets:
    """All sockets. `opened`, `dropped` and `slow` count them since the start."""

    def __init__(self, offers: Offers) -> None:
        self._offers = offers
        self._open: set[Socket] = set()
        self.opened = self.dropped = self.slow = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one consumer until it leaves or is dropped."""
        response = web.WebSocketResponse(compress=False, autoclose=True, autoping=True)
        await response.prepare(request)
        assert isinstance(request.transport, asyncio.Transport)
        socket = Socket(response, request.transport, self._offers.end)
        self._open.add(socket)
        self.opened += 1
        tasks = [asyncio.create_task(work(socket)) for work in (self._send, self._ping)]
        try:
            await _read(socket)
        finally:
            self._open.discard(socket)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return response

    def wake(self) -> None:
        """Reports were offered: send them, and drop who is too far behind."""
        for socket in list(self._open):
            if self._offers.end - socket.position > MOST_BEHIND:
                self.slow += 1
                self._drop(socket)
            socket.wake.set()

    def drop(self) -> None:
        """Drop every socket."""
        for socket in list(self._open):
            self._drop(socket)

    def _drop(self, socket: Socket) -> None:
        self._open.discard(socket)
        self.dropped += 1
        socket.drop()

    async def _send(self, socket: Socket) -> None:
        with suppress(ConnectionError):
            while True:
                await socket.wake.wait()
                socket.wake.clear()
                # One at a time: each waits if the consumer does not read.
                while socket.position < self._offers.end:
                    (report,) = self._offers.read(socket.position, socket.position + 1)
                    await socket.response.send_frame(report, WSMsgType.TEXT)
                    socket.position += 1

    async def _ping(self, socket: Socket) -> None:
        with suppress(ConnectionError):
            while True:
                await asyncio.sleep(PING_SECONDS)
                await socket.response.ping()


async def _read(socket: Socket) -> None:
    """Answer pings and the close of the consumer; what else it sends is ignored."""
    async for _ in socket.response:
        pass
