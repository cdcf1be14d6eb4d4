"""The WebSocket of the simulator: each consumer gets every report from its connect on."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

from pipelines.simulator.faults import DROP, SILENCE, Faults
from pipelines.simulator.offers import Offers
from pipelines.simulator.outages import Outages

PING_SECONDS = 20.0
"""Seconds between two pings of the server."""
_LOOK_SECONDS = 0.05


@dataclass(eq=False)
class Socket:
    """A consumer. `position` is the number of the next report it gets; nothing is kept for it but that."""

    response: web.WebSocketResponse
    transport: asyncio.Transport
    position: int
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    def start(self, *work: Awaitable[None]) -> None:
        """Work for this consumer until it leaves, or the socket becomes silent."""
        self.tasks = [asyncio.ensure_future(each) for each in work]

    def silence(self) -> None:
        """Send nothing and answer no ping, but keep the connection open."""
        for task in self.tasks:
            task.cancel()


class Sockets:
    """All sockets. `opened`, `dropped`, `slow` and `refused` count them since the start."""

    def __init__(self, offers: Offers, faults: Faults, outages: Outages, most_behind: int) -> None:
        self._offers, self._faults, self._outages = offers, faults, outages
        self._most_behind = most_behind
        self._open: set[Socket] = set()
        self.opened = self.dropped = self.slow = self.refused = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one consumer until it leaves or is dropped."""
        if self._outages.is_down(self._offers.clock.elapsed()):
            self.refused += 1
            return web.json_response({"error": "the stream is down"}, status=503)
        response = web.WebSocketResponse(compress=False)
        await response.prepare(request)
        assert isinstance(request.transport, asyncio.Transport)
        socket = Socket(response, request.transport, self._offers.end)
        self._open.add(socket)
        self.opened += 1
        socket.start(self._send(socket), _ping(socket), _read(socket))
        try:
            await _wait_for_end(socket)
        finally:
            self._open.discard(socket)
            socket.silence()
            await asyncio.gather(*socket.tasks, return_exceptions=True)
        return response

    def offer(self, new: range) -> None:
        """Send new reports, give the faults that are due with them, and drop who is too far behind."""
        for number in new:
            if self._faults.has_at(DROP, number):
                self._faults.given[DROP] += 1
                self.drop()
            if self._faults.has_at(SILENCE, number):
                self._faults.given[SILENCE] += 1
                for socket in self._open:
                    socket.silence()
        for socket in list(self._open):
            if self._offers.end - socket.position > self._most_behind:
                self.slow += 1
                self._drop(socket)
            socket.wake.set()

    def drop(self) -> None:
        """Drop every socket, without a close frame, as a crash does."""
        for socket in list(self._open):
            self._drop(socket)

    def end(self) -> None:
        """End every socket, because the server ends."""
        for socket in self._open:
            socket.transport.abort()

    def _drop(self, socket: Socket) -> None:
        self._open.discard(socket)
        self.dropped += 1
        socket.transport.abort()

    async def _send(self, socket: Socket) -> None:
        with suppress(ConnectionError):
            while await socket.wake.wait():
                socket.wake.clear()
                # One at a time: each waits if the consumer does not read.
                while socket.position < self._offers.end:
                    (report,) = self._offers.read(socket.position, socket.position + 1)
                    await socket.response.send_frame(report, WSMsgType.TEXT)
                    socket.position += 1


async def _ping(socket: Socket) -> None:
    with suppress(ConnectionError):
        while True:
            await asyncio.sleep(PING_SECONDS)
            await socket.response.ping()


async def _read(socket: Socket) -> None:
    """Answer pings and the close of the consumer; what else it sends is ignored."""
    async for _ in socket.response:
        pass


async def _wait_for_end(socket: Socket) -> None:
    """Wait until the consumer closed the connection, or the connection is lost.

    A socket that is silent reads nothing, so only a lost connection ends it.
    """
    while not (socket.response.closed or socket.transport.is_closing()):
        await asyncio.sleep(_LOOK_SECONDS)
