"""Accepts the connections of a service, at most so many at once.

A connection counts from before its handshake of TLS, when anybody can have opened it, until it is lost. So
where there are too many, one that has no request makes room: who only holds connections keeps nobody out.
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable

from pipelines.service.http_connection import HttpConnection
from transforms.core.events import CONNECTION_FAILED, log_event

HANDSHAKE_SECONDS = 10.0
"""So long a handshake of TLS is waited for: until then a connection takes 0.3 MB."""
_BACKLOG = 128
_PAUSE_SECONDS = 1.0
"""So long is waited where a connection cannot be accepted, as when no descriptor is left."""


class Acceptor:
    """Accepts connections, of which `connect` makes the protocol.

    `most`: so many are open at once. For a further one the oldest of those that have no request is closed; if
    all have one, the new one is. Either counts in `refusals` as 503.
    """

    def __init__(
        self,
        connect: Callable[[asyncio.Future[None]], HttpConnection],
        most: int,
        tls: ssl.SSLContext | None,
        refusals: Counter[str],
    ) -> None:
        self._connect, self._most, self._tls, self._refusals = connect, most, tls, refusals
        self._listening: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._open: dict[asyncio.Task[None], HttpConnection | None] = {}
        """Oldest first; without a connection until one is made."""
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen on all addresses of a host; the port.

        Raises:
            OSError: an address cannot be used.
        """
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            for family, address in dict.fromkeys((each[0], each[4]) for each in found):
                self._listening.append(socket.create_server(address, family=family, backlog=_BACKLOG))
        except OSError:
            self._close_sockets()
            raise
        for each in self._listening:
            each.setblocking(False)
            self._accepting.append(asyncio.create_task(self._accept(each)))
        return int(self._listening[0].getsockname()[1])

    async def stop(self) -> None:
        """Accept no more."""
        await _cancel(self._accepting)
        self._close_sockets()

    async def close(self) -> None:
        """End what is still open."""
        await _cancel([*self._open, *self._closing])

    def _close_sockets(self) -> None:
        for each in self._listening:
            each.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                log_event(CONNECTION_FAILED, error=type(error).__name__)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if len(self._open) < self._most or self._make_room():
                task = loop.create_task(self._serve(accepted))
                self._open[task] = None
                task.add_done_callback(self._forget)
            else:
                accepted.close()
            await asyncio.sleep(0)  # connections without end must not keep the others waiting

    def _make_room(self) -> bool:
        """Close the oldest connection that has no request; False if there is none."""
        self._refusals["503"] += 1
        for task, connection in self._open.items():
            if connection is None or connection.is_idle:
                del self._open[task]
                self._closing.add(task)
                if connection is None or not connection.drop():
                    task.cancel()  # its handshake has not ended
                return True
        return False

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task, None)
        self._closing.discard(task)

    async def _serve(self, accepted: socket.socket) -> None:
        """Serve a connection until it is lost."""
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()
        patience = None if self._tls is None else HANDSHAKE_SECONDS
        connection = self._connect(lost)
        if (task := asyncio.current_task()) in self._open:
            self._open[task] = connection
        try:
            await loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=patience
            )
        except OSError:
            return  # the handshake failed, or did not come
        await lost


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
