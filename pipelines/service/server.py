"""The server: each request passes the guards, in one order, and then reaches its handler."""

import asyncio
import signal
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from pipelines.console import escape_line
from pipelines.failures import WrongUse
from pipelines.listening import is_loopback
from pipelines.queries.registry import QUERIES
from pipelines.service.acceptor import Acceptor
from pipelines.service.access.connections import watch_connection
from pipelines.service.access.lineage import trace
from pipelines.service.access.masks import Masks
from pipelines.service.access.roles import UNKNOWN
from pipelines.service.access.subject import STRANGER
from pipelines.service.errors import HttpError, make_error_response
from pipelines.service.exchange import Exchange
from pipelines.service.guards import AuditUnavailable, Forbidden, Rights, Subject, Unidentified, record
from pipelines.service.http_connection import HttpConnection
from pipelines.service.notices import keep_notifying
from pipelines.service.routes import ROUTES, Route
from pipelines.service.service import Service
from schemas.access import AccessClass
from transforms.core.events import REQUEST_FAILED, log_event

SERVICE = web.AppKey("service", Service)
IDLE_SECONDS = 75.0
"""A connection without a whole request for so long is closed: anybody can open one."""
LARGEST_BODY = 16_384
BODY_SECONDS, LINGER_SECONDS = 10.0, 1.0
"""So long a body is waited for; the rest of one that was refused is read and dropped."""
_ROUTE = "route"
_EXCHANGE = web.RequestKey("exchange", Exchange)
_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Of every answer, unless it has others."""


def make_application(service: Service) -> web.Application:
    """The application of a service. What each query is made of is found now: no request waits for it."""
    for query in QUERIES.values():
        trace(query)
    app = web.Application(middlewares=[_explain_errors, _check_host, _guard], client_max_size=LARGEST_BODY)
    app[SERVICE] = service
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _attach(route))
    app.on_response_prepare.append(_add_headers)
    return app


def _attach(route: Route) -> _Next:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await route.handler(request, request[_EXCHANGE])

    handle.__dict__[_ROUTE] = route
    return handle


async def _add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


@web.middleware
async def _explain_errors(request: web.Request, handler: _Next) -> web.StreamResponse:
    """Every error is JSON. One that nobody expected is logged, and says nothing of the inside."""
    try:
        return await handler(request)
    except HttpError as error:
        return make_error_response(error)
    except web.HTTPException as error:
        fix = "GET /openapi.json lists the routes"
        return make_error_response(HttpError(error.status, error.reason.lower(), fix))
    except Exception as error:
        text = escape_line(f"{type(error).__name__}: {error}")
        log_event(REQUEST_FAILED, path=request.rel_url.raw_path, error=text)
        return make_error_response(HttpError(500, "the service failed", "its log says why"))


@web.middleware
async def _check_host(request: web.Request, handler: _Next) -> web.StreamResponse:
    """Refuse a request without TLS that names another host: a page of another site, whose name was made to
    lead here, must read nothing."""
    if request.app[SERVICE].is_local and not is_loopback(_find_host(request)):
        raise HttpError(HTTPStatus.MISDIRECTED_REQUEST, "this host is not served", "ask 127.0.0.1")
    return await handler(request)


def _find_host(request: web.Request) -> str:
    """The host that a request names, without its port; empty if it names none."""
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return ""


@web.middleware
async def _guard(request: web.Request, handler: _Next) -> web.StreamResponse:
    """Identify, count, authorise and record a request; then its handler; then record how it ended."""
    service = request.app[SERVICE]
    route: Route | None = request.match_info.handler.__dict__.get(_ROUTE)
    if route is not None and route.is_open:
        request[_EXCHANGE] = Exchange(service, STRANGER, _NO_RIGHTS)
        return await handler(request)
    action = route.action if route else UNKNOWN
    with _explain_unrecorded():
        exchange = request[_EXCHANGE] = await _admit(request, service, route, action)
        subject, is_needed = exchange.subject, route is None or not route.says_audit
        asked = _describe(request, exchange)
        entry = await record(service.guards.audit, subject, action, asked, is_needed=is_needed)
    outcome = "cancelled"
    try:
        with watch_connection(request.transport, subject, service.guards.identify, entry, exchange):
            response = await handler(request)
        outcome = str(response.status)
        return response
    except Forbidden as error:
        outcome = "403"
        raise _forbid(error) from error
    except (HttpError, web.HTTPException) as error:
        outcome = str(int(error.status))
        raise
    except Exception:
        outcome = "500"
        raise
    finally:
        entry.end(exchange.rows, outcome)
        service.guards.counts.count_answer(subject.role, action, exchange.rows, outcome)


_NO_RIGHTS = Rights(STRANGER, AccessClass.PUBLIC, Masks(b""))


def _describe(request: web.Request, exchange: Exchange) -> Any:
    """What the audit says of a request: its path, and what it sends."""
    if not exchange.body:
        return request.path_qs
    return {"path": request.path_qs, "body": exchange.body.decode(errors="replace")}


async def _admit(request: web.Request, service: Service, route: Route | None, action: str) -> Exchange:
    """Who asks, with which rights, and what it sends; a refusal is recorded.

    Raises:
        HttpError: it may not ask.
        AuditUnavailable: a refusal cannot be recorded.
    """
    guards, subject = service.guards, STRANGER
    try:
        subject = _identify(request, service)
        _count(subject, service)
        _check_origin(request)
        rights = _authorise(subject, action, service)
        body = await _read_body(request) if route is not None and route.takes else b""
        return Exchange(service, subject, rights, body)
    except HttpError as error:
        guards.counts.refusals[str(int(error.status))] += 1
        if (skipped := guards.refusals.count(subject.name, request.remote or "", error.status)) is not None:
            asked = {"path": request.path_qs, "from": request.remote, "not_recorded_before": skipped}
            await guards.audit.refuse(subject, action, asked, error.status, str(error))
        raise


@contextmanager
def _explain_unrecorded() -> Iterator[None]:
    try:
        yield
    except AuditUnavailable as error:
        problem = "the request cannot be recorded, so it is not answered"
        raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, problem, "make room for the audit") from error


def _identify(request: web.Request, service: Service) -> Subject:
    try:
        return service.guards.identify(request.transport)
    except Unidentified as error:
        fix = "give the certificate of a client that is known"
        raise HttpError(HTTPStatus.UNAUTHORIZED, str(error), fix, {"Connection": "close"}) from error


def _check_origin(request: web.Request) -> None:
    """Refuse a request of a page of another site: its browser would give it what its user may read."""
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"{request.scheme}://{request.host}":
        raise HttpError(HTTPStatus.FORBIDDEN, "a page of another site asks", "ask without Origin")


def _count(subject: Subject, service: Service) -> None:
    if wait := service.guards.admit(subject):
        headers = {"Retry-After": str(wait)}
        raise HttpError(HTTPStatus.TOO_MANY_REQUESTS, "too many requests", "ask later", headers)


async def _read_body(request: web.Request) -> bytes:
    """What a request sends.

    Raises:
        HttpError: it is too large, or does not come.
    """
    try:
        return await asyncio.wait_for(request.read(), BODY_SECONDS)
    except web.HTTPRequestEntityTooLarge as error:
        fix = f"send at most {LARGEST_BODY} bytes"
        raise HttpError(error.status, "the body is too large", fix, {"Connection": "close"}) from error
    except web.RequestPayloadError as error:
        fix = "send it as Content-Encoding and Transfer-Encoding say"
        raise HttpError(400, "the body cannot be read", fix, {"Connection": "close"}) from error
    except TimeoutError as error:
        problem = f"the body did not come within {BODY_SECONDS:g} s"
        raise HttpError(408, problem, "send it at once", {"Connection": "close"}) from error


def _authorise(subject: Subject, action: str, service: Service) -> Rights:
    try:
        return service.guards.policy.decide(subject, action)
    except Forbidden as error:
        raise _forbid(error) from error


def _forbid(error: Forbidden) -> HttpError:
    return HttpError(HTTPStatus.FORBIDDEN, str(error), "ask for a role or a grant that allows it")


class Listener:
    """A service that listens on `port`, until it is cleaned up."""

    def __init__(self, runner: web.AppRunner, acceptor: Acceptor, port: int) -> None:
        self._runner, self._acceptor, self.port = runner, acceptor, port

    async def cleanup(self) -> None:
        """Accept no more, end what is open."""
        await self._acceptor.stop()
        await self._runner.cleanup()
        await self._acceptor.close()


async def listen(service: Service, host: str, port: int, tls: ssl.SSLContext | None) -> Listener:
    """Listen.

    Raises:
        WrongUse: the address cannot be used.
    """
    # A client that leaves cancels the handler, which stops its query.
    runner = web.AppRunner(make_application(service), shutdown_timeout=2.0, handler_cancellation=True)
    await runner.setup()
    manager = runner.server
    assert manager is not None
    refusals = service.guards.counts.refusals

    def connect(lost: asyncio.Future[None]) -> HttpConnection:
        times = {"keepalive_timeout": IDLE_SECONDS, "lingering_time": LINGER_SECONDS}
        return HttpConnection(manager, _HEADERS, refusals, lost, access_log=None, **times)

    acceptor = Acceptor(connect, service.connections, tls, refusals)
    try:
        listening = await acceptor.start(host, port)
    except OSError as error:
        await runner.cleanup()
        problem = f"cannot listen on {host}:{port}: {error.strerror}"
        raise WrongUse(problem, "give another --listen") from error
    service.start()
    return Listener(runner, acceptor, listening)


async def serve(
    service: Service, host: str, port: int, tls: ssl.SSLContext | None, on_listening: Callable[[int], object]
) -> None:
    """Serve until SIGINT or SIGTERM. `on_listening` gets the port.

    Raises:
        WrongUse: the address cannot be used.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listener = await listen(service, host, port, tls)
    try:
        on_listening(listener.port)
        notices = asyncio.create_task(keep_notifying())
        await stop.wait()
        notices.cancel()
    finally:
        await listener.cleanup()
        service.close()
