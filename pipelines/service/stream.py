"""/kpi/stream: a WebSocket that gets each live report as it comes.

Each message is one report, as Layer 4 sends it. With `entries=true` it is an object with the entry's id and
all columns, and a client that comes again with `after=ID` goes on behind that entry. With `counts=true` it
has the numbers of reports by second, in place of each.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

import orjson
import redis
from aiohttp import WSCloseCode, WSMsgType, web

from pipelines.service.access.connections import CHECK_SECONDS
from pipelines.service.access.subject import Subject
from pipelines.service.errors import HttpError
from pipelines.service.exchange import Exchange
from pipelines.service.live import BEFORE_ALL, Id, LiveReports, StreamEntry, format_id, parse_id
from pipelines.service.live_counts import COUNT_SECONDS, write_counts
from schemas.tables import REPORTS
from transforms.core.events import CLIENT_DROPPED, log_event

PARAMETERS = {
    "entries": "true: objects with the id of the entry and all columns, in place of Layer 4's reports",
    "counts": "true: how many reports there were in each second, in place of the reports",
    "after": "with entries=true or counts=true: go on behind the entry with this id",
}
MOST_SOCKETS = 500
PING_SECONDS = 20.0
SLOW_SECONDS = 10.0
"""A client that takes nothing for so long is dropped."""
_CLOSE_SECONDS = 1.0
_RETRY_SECONDS = 1.0


class _Ended(Exception):  # noqa: N818
    """A socket is ended by the service: the code and the reason that the client gets."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Asked(NamedTuple):
    """What a client wants: messages with ids (entries or counts), counts, and after which entry."""

    has_ids: bool
    is_counted: bool
    after: Id | None


async def stream(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """Follow the live reports until the client leaves or is dropped."""
    live = _require_live(exchange)
    socket = _Socket(live, exchange, _parse(request))
    if exchange.service.sockets >= MOST_SOCKETS:
        raise HttpError(
            HTTPStatus.SERVICE_UNAVAILABLE, "too many sockets are open", "come later", {"Retry-After": "10"}
        )
    response = web.WebSocketResponse(compress=False, heartbeat=PING_SECONDS, max_msg_size=4096)
    if not response.can_prepare(request):
        raise HttpError(
            HTTPStatus.UPGRADE_REQUIRED, "this is a WebSocket", "connect to it with ws:// or wss://"
        )
    await response.prepare(request)
    exchange.service.sockets += 1
    try:
        await _run(request, response, exchange, socket)
    finally:
        exchange.service.sockets -= 1
    return response


async def _run(
    request: web.Request, response: web.WebSocketResponse, exchange: Exchange, socket: "_Socket"
) -> None:
    """Work for a socket until one part of the work ends."""
    work = [
        asyncio.ensure_future(each)
        for each in (
            socket.send(partial(response.send_frame, opcode=WSMsgType.TEXT)),
            _watch_certificate(exchange.subject),
            _read(response),
        )
    ]
    try:
        done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    except _Ended as end:
        log_event(CLIENT_DROPPED, subject=exchange.subject.name, reason=str(end))
        with suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(response.close(code=end.code, message=str(end).encode()), _CLOSE_SECONDS)
        if request.transport is not None and not response.closed:
            request.transport.abort()
    except ConnectionError:
        pass
    finally:
        for each in work:
            each.cancel()
        await asyncio.gather(*work, return_exceptions=True)


class _Socket:
    """Sends entries; it keeps the id of the last one and nothing else."""

    def __init__(self, live: LiveReports, exchange: Exchange, asked: _Asked) -> None:
        self._live, self._exchange, self._asked, after = live, exchange, asked, asked.after
        columns = REPORTS.schema.names
        self._withheld = tuple(exchange.rights.split(REPORTS.name, columns)[1])
        self._resumes = after is not None
        self._after = live.last if after is None else after
        self._starts = live.starts

    async def send(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Send entries without end.

        Raises:
            _Ended: the client is too slow, or entries are gone, and it takes no gap.
        """
        if self._asked.has_ids:
            start = {"type": "start", "after": format_id(self._after)}
            listed = {"withheld": self._withheld} if self._withheld else {}
            await self._write(write, orjson.dumps(start | listed))
        while True:
            entries = await self._take()
            for message in self._write_messages(entries):
                await self._write(write, message)
            if self._asked.is_counted:
                self._move(entries)
                await asyncio.sleep(COUNT_SECONDS)

    def _write_messages(self, entries: Sequence[StreamEntry]) -> Iterable[bytes]:
        """The messages of some entries; the place moves on behind each report that was sent."""
        if self._asked.is_counted:
            yield from write_counts(entries, self._withheld)
            return
        for entry in entries:
            if entry.gap is not None and not self._asked.has_ids:
                raise _Ended(WSCloseCode.TRY_AGAIN_LATER, "reports are missing here; read /kpi/export")
            yield entry.write(self._asked.has_ids, self._withheld)
            self._move([entry])

    def _move(self, entries: Sequence[StreamEntry]) -> None:
        """Count entries that were sent, and go on behind them."""
        self._after = entries[-1].id
        self._exchange.rows += sum(entry.gap is None for entry in entries)

    async def _take(self) -> list[StreamEntry]:
        """The next entries, at least one."""
        while True:
            if self._starts != self._live.starts:
                self._starts, self._after = self._live.starts, BEFORE_ALL
            entries = self._live.list_after(self._after)
            if entries:
                self._resumes = False
                return entries
            if entries is not None:
                self._resumes = False
                await self._live.wait()
            elif not self._resumes:
                raise _Ended(
                    WSCloseCode.POLICY_VIOLATION, f"too slow: resume with after={format_id(self._after)}"
                )
            elif older := await self._read_older():
                return older

    async def _read_older(self) -> list[StreamEntry]:
        """Entries that are not kept any more, from Redis, while it is asked for them one socket at a time."""
        async with self._exchange.service.resuming:
            try:
                older = await asyncio.to_thread(self._live.read_older, self._after)
            except redis.RedisError:
                await asyncio.sleep(_RETRY_SECONDS)
                return []
        if not older and self._live.floor is not None:
            self._after = max(self._after, self._live.floor)
        return older

    async def _write(self, write: Callable[[bytes], Awaitable[None]], text: bytes) -> None:
        try:
            await asyncio.wait_for(write(text), SLOW_SECONDS)
        except TimeoutError:
            reason = f"too slow: resume with after={format_id(self._after)}"
            raise _Ended(WSCloseCode.POLICY_VIOLATION, reason) from None


async def _watch_certificate(subject: Subject) -> None:
    """Wait until the certificate of a subject has expired, so that the client gets the reason.

    What else may change of a subject, `watch_connection` checks for every route.

    Raises:
        _Ended: it has.
    """
    while (left := _count_seconds_left(subject)) > 0:
        await asyncio.sleep(min(left, CHECK_SECONDS))  # the clock may be set meanwhile
    raise _Ended(WSCloseCode.POLICY_VIOLATION, "the certificate has expired")


def _count_seconds_left(subject: Subject) -> float:
    return math.inf if subject.until is None else (subject.until - datetime.now(UTC)).total_seconds()


async def _read(response: web.WebSocketResponse) -> None:
    """Answer pings and the close of the client; what else it sends is ignored."""
    async for _ in response:
        pass


def _require_live(exchange: Exchange) -> LiveReports:
    live = exchange.service.live
    if live is None:
        raise HttpError(
            HTTPStatus.NOT_FOUND,
            "there are no live reports here",
            "start `kpiflow stream` with --live, and `kpiflow serve` with --redis",
        )
    if live.floor is None:
        raise HttpError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            live.problem or "Redis does not answer",
            "come later",
            {"Retry-After": "2"},
        )
    return live


def _parse(request: web.Request) -> _Asked:
    query = request.query
    for name in query:
        if name not in PARAMETERS or len(query.getall(name)) > 1:
            raise HttpError(
                HTTPStatus.BAD_REQUEST,
                f"the stream cannot use {name[:50]} so",
                f"give {', '.join(PARAMETERS)}, each once",
            )
    chosen = []
    for name in ("entries", "counts"):
        if query.get(name, "false") not in ("true", "false"):
            raise HttpError(HTTPStatus.BAD_REQUEST, f"{name} is true or false", f"give {name}=true")
        chosen += [name] * (query.get(name) == "true")
    if len(chosen) > 1:
        raise HttpError(HTTPStatus.BAD_REQUEST, "entries and counts are two things", "give one of them")
    after = None
    if "after" in query:
        if not chosen:
            raise HttpError(HTTPStatus.BAD_REQUEST, "after needs entries or counts", "give entries=true too")
        after = _parse_after(query["after"])
    return _Asked(bool(chosen), "counts" in chosen, after)


def _parse_after(text: str) -> Id:
    try:
        return parse_id(text)
    except ValueError as error:
        raise HttpError(
            HTTPStatus.BAD_REQUEST, "after is not the id of an entry", "give the id of a message before"
        ) from error
