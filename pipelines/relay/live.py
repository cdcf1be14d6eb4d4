"""Layer 4's WebSocket: each text message is one report. Nothing can be asked for again there."""

import asyncio
import random
import ssl
import time
from collections.abc import Callable
from typing import Literal

import aiohttp

from pipelines.relay.errors import Layer4Refused, Layer4Unavailable
from pipelines.relay.export import PEER, as_layer4_error
from pipelines.relay.tls import Tls
from transforms.core.process_stats import count_attempt
from transforms.core.retry import FIRST_PAUSE, retry_without_end

QUEUE = 2000
"""Reports that wait to be added. While so many do, the socket is not read, and Layer 4 has to wait."""
PING_SECONDS = 10.0
"""From one ping to the next; a pong must come within half of that."""
LARGEST_MESSAGE = 64 << 20
_STABLE_SECONDS = 5.0
"""A connection that ended sooner is not made again at once."""
_CONNECT_SECONDS = 10.0
_CHECK_SECONDS = 2.0
"""From one look at the files of TLS to the next: a connection ends when they change."""

_QUEUED_BYTES = 64 << 20
"""The same for the bytes of these reports."""

Received = tuple[float, bytes]
"""When a report was received, by `time.time`, and its bytes."""


class _Queue(asyncio.Queue[Received]):
    """A queue that is also full when its reports have too many bytes."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._bytes = 0

    def _put(self, item: Received) -> None:
        super()._put(item)
        self._bytes += len(item[1])

    def _get(self) -> Received:
        item = super()._get()
        self._bytes -= len(item[1])
        return item

    def full(self) -> bool:
        return super().full() or self._bytes >= _QUEUED_BYTES


class LiveReader:
    """Reads the socket into a queue, and connects again whenever that ends.

    `notice` is called with what is wrong, `connected` with whether the socket is open.
    """

    def __init__(
        self,
        url: str,
        tls: Tls,
        session: aiohttp.ClientSession,
        notice: Callable[[str | None], None],
        connected: Callable[[bool], None],
    ) -> None:
        self._url, self._tls, self._session = url, tls, session
        self._notice, self._connected = notice, connected
        self._has_answered = False
        self.queue = _Queue(QUEUE)

    async def run(self) -> None:
        """Read until cancelled.

        Raises:
            Layer4Refused: it refuses this client, or TLS does, at the first connection.
        """
        while True:
            async for attempt in retry_without_end(self._notice):
                with attempt:
                    await self._follow()
            await asyncio.sleep(random.uniform(0, FIRST_PAUSE))

    async def _follow(self) -> None:
        """Read one connection to its end.

        Raises:
            Layer4Unavailable: there was none, or it ended at once.
        """
        context = self._tls.current()
        began = time.monotonic()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                socket = await self._session.ws_connect(
                    self._url, ssl=context or True, heartbeat=PING_SECONDS, max_msg_size=LARGEST_MESSAGE,
                    decode_text=False,
                )  # fmt: skip
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            count_attempt(PEER, failed=True)
            found = await as_layer4_error(error, self._url, self._tls)
            if isinstance(found, Layer4Refused) and self._has_answered:
                raise Layer4Unavailable(str(found)) from error
            raise found from error
        count_attempt(PEER)
        self._has_answered = True
        self._notice(None)
        self._connected(True)
        watch = asyncio.create_task(self._close_for_new_files(socket, context))
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    await self.queue.put((time.time(), message.data))
        finally:
            watch.cancel()
            self._connected(False)
            await socket.close()
        if time.monotonic() - began < _STABLE_SECONDS:
            raise Layer4Unavailable("the socket was closed at once; it is connected again")

    async def _close_for_new_files(
        self, socket: aiohttp.ClientWebSocketResponse[Literal[False]], context: ssl.SSLContext | None
    ) -> None:
        """Close a socket that was opened with a context once there is another one."""
        while self._tls.current() is context:
            await asyncio.sleep(_CHECK_SECONDS)
        await socket.close()
