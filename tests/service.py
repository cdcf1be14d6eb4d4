"""A service in a thread of the test: see `pipelines.service`."""

import asyncio
import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pipelines.queries.limits import QueryLimits
from pipelines.service.server import listen
from pipelines.service.service import Service
from pipelines.verify.output_description import read_row_settings
from tests.patience import PATIENCE

HOST = "127.0.0.1"
MOST = QueryLimits(rows=10_000, seconds=30, memory_mb=256)


@dataclass(frozen=True)
class Reply:
    """What a request got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class RunningService:
    """A service, and where it listens."""

    service: Service
    loop: asyncio.AbstractEventLoop
    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Reply:
        """Ask for a path; a parameter `from_` is `from`."""
        asked = urlencode({name.rstrip("_"): value for name, value in query.items()})
        return self.request("GET", f"{path}?{asked}" if asked else path, headers)

    def post(self, path: str, content: Any, **headers: str) -> Reply:
        """Send JSON to a path."""
        headers = {"Content-Type": "application/json", **headers}
        return self.request("POST", path, headers, json.dumps(content).encode())

    def request(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Reply:
        """Send a request."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE)
        try:
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()


def make_service(folder: Path, **options: Any) -> Service:
    """The service of an output."""
    minutes = read_row_settings(folder, "served")["file_minutes"]
    return Service(folder, minutes, options.pop("limits", MOST), **options)


@contextmanager
def run_service(
    service: Service, tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[RunningService]:
    """The service, listening on a port of the loopback; on a free one if it is 0."""
    loop = asyncio.new_event_loop()
    ready: Future[int] = Future()
    stop = asyncio.Event()

    async def run() -> None:
        listener = await listen(service, HOST, port, tls)
        ready.set_result(listener.port)
        await stop.wait()
        await listener.cleanup()
        service.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}  # such as those of sockets that were open
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    try:
        listening = ready.result(timeout=PATIENCE)
        assert service.has_index.wait(timeout=PATIENCE)
        yield RunningService(service, loop, listening)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=PATIENCE)
        loop.close()
