"""A private server of the S3 API, and a connection to it that breaks as a test wants."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.patience import PATIENCE
from transforms.storage.object_storage import ObjectStorage

Fault = str | int | tuple[int, str] | None
"""What becomes of a request: None, it is answered; a number, it is not done and answered with this status
(and text); `lost`, it is done and then the connection ends; `silent`, it is not done and nothing is said
until the client hangs up; `cut`, it is done and the answer ends in its middle; `ignorant`, it is done without
its conditions."""
Faults = Callable[[str, str], Fault]
"""From method and path of a request to what becomes of it."""

_CONDITIONS = {"if-match", "if-none-match"}
_CODES = {403: "AccessDenied", 501: "NotImplemented", 503: "SlowDown"}


class S3Server:
    """A server without buckets, in this process; the environment has credentials for it while it runs."""

    def __enter__(self) -> "S3Server":
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._environment = pytest.MonkeyPatch()
        self._environment.setenv("AWS_ACCESS_KEY_ID", "id")
        self._environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.endpoint = "http://{}:{}".format(*self._server.get_host_and_port())
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._environment.undo()

    def make_bucket(self, name: str) -> None:
        boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1").create_bucket(Bucket=name)

    def storage(
        self, bucket: str, prefix: str = "", endpoint: str = "", conditions: bool = True
    ) -> ObjectStorage:
        return ObjectStorage("s3", bucket, prefix, endpoint or self.endpoint, "us-east-1", conditions)

    def url(self, bucket: str, prefix: str = "") -> str:
        """The URL for --output."""
        return self.storage(bucket, prefix).name


@contextmanager
def wire(endpoint: str, faults: Faults) -> Iterator[str]:
    """An endpoint that hands requests on to another one, or not."""

    class Handler(_Handler):
        far, ended = urlsplit(endpoint).netloc, threading.Event()

    Handler.faults = staticmethod(faults)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        Handler.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    far: str
    faults: Faults
    ended: threading.Event

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = self.faults(self.command, self.path)
        if fault == "silent":
            self.ended.wait(PATIENCE)
        elif isinstance(fault, int | tuple):
            status, text = (
                fault
                if isinstance(fault, tuple)
                else (fault, f"<Error><Code>{_CODES.get(fault, '')}</Code></Error>")
            )
            self._answer(status, {}, text.encode())
        else:
            status, headers, answer = self._far(body, fault == "ignorant")
            if fault != "lost":
                self._answer(status, headers, answer, len(answer) // 2 if fault == "cut" else len(answer))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 (as http.server calls them)

    def _far(self, body: bytes, ignorant: bool) -> tuple[int, dict[str, str], bytes]:
        headers = {
            name: value
            for name, value in self.headers.items()
            if not (ignorant and name.lower() in _CONDITIONS)
        }
        connection = HTTPConnection(self.far, timeout=PATIENCE)
        try:
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("content-length", length)
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, *_: object) -> None:
        """Say nothing."""
