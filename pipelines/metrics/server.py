"""HTTP for a job's metrics: /metrics (OpenMetrics text), /healthz (is it alive), /readyz (does it work).

On the loopback it is plain HTTP. On other addresses it is TLS 1.3, and clients need a certificate.
"""

import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST

from pipelines.failures import WrongUse
from pipelines.listening import is_loopback, make_server_context, parse_address
from pipelines.metrics.exposition import make_page
from pipelines.metrics.numbers import SourceWatch, read_numbers
from pipelines.metrics.readiness import find_reasons
from pipelines.settings import Settings

Page = Callable[[], tuple[HTTPStatus, str, bytes]]
"""Makes an answer: its status, the type of its content, and its body."""
_JSON = "application/json"
_SECONDS = 10.0
"""How long a client may be silent."""


@dataclass(frozen=True)
class Address:
    """Where to listen, and the PEM files of TLS: this server's certificate and key, and whom to trust."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @classmethod
    def parse(cls, text: str, settings: Settings) -> "Address":
        """HOST:PORT, or only PORT for the loopback.

        Raises:
            WrongUse: it has another form, or is not the loopback and TLS is not set.
        """
        host, port = parse_address(text, 9464)
        files = (settings.metrics_certificate, settings.metrics_key, settings.metrics_ca)
        if any(files) != all(files) or not (all(files) or is_loopback(host)):
            raise WrongUse(
                f"metrics on {host} need TLS with certificates of clients",
                "set metrics_certificate, metrics_key and metrics_ca, or listen on 127.0.0.1",
            )
        return cls(host, port, *files)

    def make_context(self) -> ssl.SSLContext | None:
        """The context of TLS; None for plain HTTP.

        Raises:
            WrongUse: a file cannot be used.
        """
        if self.certificate is None:
            return None
        assert self.key is not None
        assert self.ca is not None
        try:
            return make_server_context(self.certificate, self.key, self.ca)
        except OSError as error:
            raise WrongUse(f"TLS of the metrics: {error}", "name PEM files that belong together") from error


@contextmanager
def serve_metrics(
    address: Address, home: Path, watch: SourceWatch, is_alive: Callable[[], bool] | None = None
) -> Iterator[int]:
    """Serve the metrics of a job in threads of this process; yields the port (a free one for port 0).

    `is_alive` says whether the job is; without it, it is if it runs.

    Raises:
        WrongUse: the address or a file of TLS cannot be used.
    """
    pages = _JobPages(home, watch, is_alive)
    paths = {"/metrics": pages.make_metrics, "/healthz": pages.judge_health, "/readyz": pages.judge_readiness}
    with watch.keep_asking(), serve_pages(address, paths) as port:
        yield port


@contextmanager
def serve_pages(address: Address, pages: Mapping[str, Page]) -> Iterator[int]:
    """Serve pages by their paths in threads of this process; yields the port (a free one for port 0).

    Raises:
        WrongUse: the address or a file of TLS cannot be used.
    """
    context = address.make_context()
    application = _Application(pages)
    try:
        server = make_server(address.host, address.port, application, _choose_class(address.host), _Handler)
    except OSError as error:
        raise WrongUse(
            f"metrics cannot be served on {address.host}:{address.port}: {error.strerror}",
            "give another port",
        ) from error
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    with server:
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


class _Application:
    """The WSGI application."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        page = self._pages.get(environ["PATH_INFO"])
        if page is None:
            status, kind, body = HTTPStatus.NOT_FOUND, "text/plain", " ".join(self._pages).encode()
        elif environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, kind, body = HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b""
        else:
            status, kind, body = page()
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        start_response(f"{status.value} {status.phrase}", headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]


class _JobPages:
    """The pages of a streaming job."""

    def __init__(self, home: Path, watch: SourceWatch, is_alive: Callable[[], bool] | None) -> None:
        self._home, self._watch, self._is_alive = home, watch, is_alive

    def make_metrics(self) -> tuple[HTTPStatus, str, bytes]:
        return HTTPStatus.OK, CONTENT_TYPE_LATEST, make_page(self._home, self._watch)

    def judge_health(self) -> tuple[HTTPStatus, str, bytes]:
        numbers = read_numbers(self._home, self._watch)
        is_alive = numbers.health.running if self._is_alive is None else self._is_alive()
        facts = {"alive": is_alive, "state": numbers.run.state, "failure": numbers.run.failure}
        counts = {"starts": numbers.run.starts, "restarts": numbers.run.restarts}
        return make_answer(is_alive, facts | counts)

    def judge_readiness(self) -> tuple[HTTPStatus, str, bytes]:
        reasons = list(find_reasons(read_numbers(self._home, self._watch)))
        return make_answer(not reasons, {"ready": not reasons, "reasons": reasons})


def make_answer(is_well: bool, facts: dict[str, Any]) -> tuple[HTTPStatus, str, bytes]:
    """The answer that says whether all is well, with facts as JSON."""
    status = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
    return status, _JSON, json.dumps(facts).encode() + b"\n"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong, unless the client did: one that is silent or gone is not worth a line."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: a scrape is not worth a line."""


def _choose_class(host: str) -> type[WSGIServer]:
    return _Server6 if ":" in host else _Server
