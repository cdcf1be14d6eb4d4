"""The HTTP of a connection, before there is a request that the guards could judge.

What is not HTTP, or expects what is not given, gets an answer as every other error: JSON, and closed. It is
counted, and neither the answer nor the log has a byte of the sender.
"""

import asyncio
import socket
from collections import Counter
from typing import Any

from aiohttp import web

from pipelines.service.errors import HttpError, make_error_response
from transforms.core.events import CONNECTION_FAILED, log_event

TAKE_SECONDS = 30.0
"""A client that takes nothing of its answer for so long is dropped: it holds the answer and a descriptor."""
_TAKE_OPTION: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
"""Linux has it; elsewhere such a client is kept."""
_FIXES = {
    400: HttpError(400, "this is not a request of HTTP/1.1", "send what `curl` sends"),
    417: HttpError(417, "this is not expected here", "send no header Expect, or 100-continue"),
}
_OTHER = HttpError(500, "the service failed", "its log says why")


class HttpConnection(web.RequestHandler):
    """aiohttp's handler of a connection. `headers`: of each answer that no application has made. `lost` is
    done once the connection is lost."""

    __slots__ = ("_headers", "_lost", "_refusals")

    def __init__(
        self,
        manager: web.Server,
        headers: dict[str, str],
        refusals: Counter[str],
        lost: asyncio.Future[None],
        **options: Any,
    ) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **options)
        self._headers, self._refusals, self._lost = headers, refusals, lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. The kernel watches what the client takes, also after the answer has ended here."""
        accepted = transport.get_extra_info("socket")
        if _TAKE_OPTION is not None:
            accepted.setsockopt(socket.IPPROTO_TCP, _TAKE_OPTION, int(TAKE_SECONDS * 1000))
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        super().connection_lost(exc)
        if not self._lost.done():
            self._lost.set_result(None)

    @property
    def is_idle(self) -> bool:
        """Whether there is no whole request, and no answer that is still being sent."""
        is_sent = self.transport is None or not self.transport.get_write_buffer_size()
        return is_sent and self._current_request is None and not self._messages

    def drop(self) -> bool:
        """Close at once; False if there is nothing to close, before a handshake has ended."""
        if self.transport is None:
            return False
        self.transport.abort()
        return True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what cannot be read as a request, or whose handling failed outside of its handler.

        Raises:
            ConnectionError: another answer has begun.
        """
        if status >= 500:
            self.log_exception(exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("another answer has begun")
        response = web.Response(status=status)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log a failure by its type: its text may have what was sent. A body that is none is not ours."""
        error = kw.get("exc_info")
        if not isinstance(error, web.RequestPayloadError):
            log_event(CONNECTION_FAILED, error=type(error).__name__)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer. An error that no application has made gets its text and headers here."""
        if resp.status >= 400 and not resp.prepared and resp.content_type != "application/json":
            error = _FIXES.get(resp.status, _OTHER)
            self._refusals[str(int(error.status))] += 1
            resp = make_error_response(error)
            resp.headers.update(self._headers)
            resp.force_close()
        return await super().finish_response(request, resp, start_time)
