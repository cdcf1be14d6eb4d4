"""A private BigQuery emulator, and faults on the way to it."""

import fcntl
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import grpc
import httpx

from tests.patience import PATIENCE
from tests.servers import Server, free_port
from transforms.sinks.bigquery.bigquery_store import BigQuery

HOME = Path(__file__).parents[1] / ".bqemulator"
"""Its own environment, made at the first use: it needs another duckdb than kpiflow's tests."""

_DUCKDB = "1.5.5"
_PACKAGES = ["bqemulator==1.4.0", f"duckdb=={_DUCKDB}", "numpy", "duckdb-extensions",
             f"duckdb-extension-spatial=={_DUCKDB}", f"duckdb-extension-avro=={_DUCKDB}"]  # fmt: skip


def installed() -> Path:
    """The emulator's program; two test runs do not install it at once."""
    HOME.mkdir(exist_ok=True)
    ready = HOME / ".ready"
    with (HOME / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists() or ready.read_text() != str(_PACKAGES):
            subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
            python = str(HOME / "bin" / "python")
            subprocess.run(
                [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_PACKAGES],
                check=True,
            )
            take = "from duckdb_extensions import import_extension as take; take('spatial'); take('avro')"
            subprocess.run([python, "-c", take], check=True)
            ready.write_text(str(_PACKAGES))
    return HOME / "bin" / "bqemulator"


class Emulator(Server):
    """bqemulator with the project `demo`; `port` is that of REST."""

    def __init__(self) -> None:
        super().__init__()
        self.rest, self.grpc = self.port, free_port()

    def command(self) -> Sequence[str]:
        """Its command line; the first call installs it."""
        ports = ["--rest-port", str(self.rest), "--grpc-port", str(self.grpc)]
        return [str(installed()), "start", "--project", "demo", *ports, "--log-level", "error"]

    def answers(self) -> bool:
        """Whether it is ready."""
        try:
            with grpc.insecure_channel(f"localhost:{self.grpc}") as channel:
                grpc.channel_ready_future(channel).result(timeout=1)
            return httpx.get(f"http://localhost:{self.rest}/bigquery/v2/projects/demo/datasets").is_success
        except (httpx.HTTPError, grpc.FutureTimeoutError):
            return False


def store(dataset: str, server: "Emulator | Faulty", location: str = "") -> BigQuery:
    """The store of a dataset of a server's."""
    return BigQuery("demo", dataset, location, f"http://localhost:{server.rest}", f"localhost:{server.grpc}")


@dataclass
class Faults:
    """What is to go wrong: the next requests of a name each meet the first fault that is left for it."""

    left: list[tuple[str, Any]] = field(default_factory=list)

    def add(self, where: str, *faults: Any) -> None:
        self.left += [(where, fault) for fault in faults]

    def take(self, where: str) -> Any:
        """The next fault of a request, which is no more; None where all is well."""
        place = next((place for place, (part, _) in enumerate(self.left) if part in where), None)
        return None if place is None else self.left.pop(place)[1]


class Faulty:
    """The ports of a server behind which all goes to an emulator, unless `faults` has something for it.

    Requests of REST are named as in `POST /bigquery/v2/...`, those of gRPC by their method. A fault is a
    Failure (REST) or a StatusCode (gRPC) as the answer, LOST (done, but the connection ends without the
    answer), CUT (it ends within the answer), or SLOW (it begins a second late).
    """

    def __init__(self, emulator: Emulator) -> None:
        self.faults, self.emulator = Faults(), emulator
        # The emulator can come to a standstill when two jobs reach it at the same moment.
        self.one_by_one = threading.Lock()
        self.seen: list[str] = []
        self.grpc = free_port()

    def __enter__(self) -> "Faulty":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.rest = self.server.server_address[1]
        self.client = httpx.Client(timeout=PATIENCE)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        self.channel = grpc.insecure_channel(f"localhost:{self.emulator.grpc}")
        self.rpc = grpc.server(ThreadPoolExecutor(8), handlers=[_Relay(self)])
        self.rpc.add_insecure_port(f"127.0.0.1:{self.grpc}")
        self.rpc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        self.client.close()
        self.rpc.stop(None).wait()
        self.channel.close()

    def take(self, where: str) -> Any:
        self.seen.append(where)
        return self.faults.take(where)


LOST, CUT, SLOW = "lost", "cut", "slow"
_PASSED = ("Host", "Content-Type", "Content-Encoding", "Content-Range", "X-Upload-Content-Type")
_RETURNED = ("location", "range")


class Failure(NamedTuple):
    """An error as REST tells it."""

    status: int
    reason: str = ""
    message: str = "injected"


def _handler(faulty: Faulty) -> type[BaseHTTPRequestHandler]:
    """Handles requests of REST."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", -1, True

        def relay(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = faulty.take(f"{self.command} {urlsplit(self.path).path}")
            if isinstance(fault, Failure):
                error = {"code": fault.status, "message": fault.message, "errors": [fault._asdict()]}
                self.answer(fault.status, json.dumps({"error": error}).encode())
                return
            time.sleep(1.0 if fault == SLOW else 0.0)
            # With the Host that the client gave, the emulator sends uploads here too.
            headers = {name: self.headers[name] for name in _PASSED if name in self.headers}
            url = f"http://localhost:{faulty.emulator.rest}{self.path}"
            with faulty.one_by_one:
                answer = faulty.client.request(self.command, url, content=body, headers=headers)
            if fault == LOST:
                self.close_connection = True
            else:
                self.answer(answer.status_code, answer.content, answer.headers, cut=fault == CUT)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = relay  # noqa: N815

        def answer(
            self, status: int, body: bytes, headers: Mapping[str, str] | None = None, cut: bool = False
        ) -> None:
            self.send_response(status)
            for name in set(_RETURNED) & set(headers or {}):
                self.send_header(name, (headers or {})[name])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = cut

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class _Relay(grpc.GenericRpcHandler):
    """Hands every method on, as it is."""

    def __init__(self, faulty: Faulty) -> None:
        self.faulty = faulty

    def service(self, details: Any) -> Any:
        method = details.method

        def relay(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            fault = self.faulty.take(method)
            if isinstance(fault, grpc.StatusCode):
                context.abort(fault, "injected")
            time.sleep(1.0 if fault == SLOW else 0.0)
            call = self.faulty.channel.stream_stream(method)
            held = list(requests)
            try:
                with self.faulty.one_by_one:
                    answers = list(call(iter(held)))
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
            if fault == LOST:
                context.abort(grpc.StatusCode.UNAVAILABLE, "injected")
            yield from answers

        return grpc.stream_stream_rpc_method_handler(relay)
