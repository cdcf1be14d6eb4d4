"""The service over HTTP: queries, formats, cursors, limits, guards, errors, and requests that mean harm."""

import asyncio
import http.client
import io
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from pipelines.cli import run
from pipelines.queries.formats import FORMATS
from pipelines.queries.limits import QueryLimits
from pipelines.queries.registry import QUERIES
from pipelines.service import http_connection, query_answers
from pipelines.service.access.masks import Masks
from pipelines.service.access.policy import decide
from pipelines.service.content_types import CONTENT_TYPES
from pipelines.service.guards import AuditUnavailable, Forbidden, Guards, Rights, Subject, Unidentified
from pipelines.service.http_connection import HttpConnection
from pipelines.service.query_answers import OF_ALL
from pipelines.service.query_pool import WAITING
from pipelines.service.routes import ROUTES
from tests.patience import PATIENCE
from tests.pipelines.queries.small_output import AGENTS, START, ask, make_output
from tests.service import HOST, RunningService, make_service, run_service


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_output(tmp_path_factory.mktemp("service") / "out")


@pytest.fixture(scope="module")
def service(output: Path) -> Iterator[RunningService]:
    with run_service(make_service(output)) as running:
        yield running


def test_every_query_is_listed(service: RunningService) -> None:
    listed = service.get("/queries").json["queries"]
    assert [each["name"] for each in listed] == list(QUERIES)
    assert all(each["columns"] == QUERIES[each["name"]].columns.names for each in listed)


def test_an_answer_is_that_of_the_command(service: RunningService, output: Path) -> None:
    expected = ask(output, "reports-by-task", 2, task_id="task 100")
    reply = service.get("/query/reports-by-task", task_id="task 100", limit=2)
    assert reply.status == 200
    assert reply.body == FORMATS["json"](expected)


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_is_chosen_by_name_or_by_accept(form: str, service: RunningService) -> None:
    named = service.get("/query/agent-summary", format=form)
    accepted = service.get("/query/agent-summary", {"Accept": f"{CONTENT_TYPES[form]}, */*;q=0.1"})
    for reply in (named, accepted):
        assert reply.headers["Content-Type"].partition(";")[0] == CONTENT_TYPES[form]
    assert _read(form, named.body) == _read(form, accepted.body)
    assert _read(form, named.body) == len(AGENTS)


def _read(form: str, body: bytes) -> int:
    """The number of rows in a body."""
    if form == "json":
        return int(json.loads(body)["row_count"])
    if form == "parquet":
        return int(pq.read_table(io.BytesIO(body)).num_rows)
    if form == "arrow":
        return int(pa.ipc.open_stream(body).read_all().num_rows)
    return body.count(b"\n") - (form == "csv")


@pytest.mark.parametrize("form", ["json", "csv"])
def test_cursors_lead_through_the_whole_result(form: str, service: RunningService, output: Path) -> None:
    whole = ask(output, "agent-over-time", agent_id=AGENTS[0]).rows
    path, pages, rows = "/query/agent-over-time", 0, 0
    target = f"{path}?agent_id=agent+0&limit=70&format={form}"
    while target:
        reply = service.request("GET", target)
        rows, pages = rows + _read(form, reply.body), pages + 1
        assert reply.headers["Kpiflow-Cut"] == str("Link" in reply.headers).lower()
        target = reply.headers.get("Link", "").partition(">")[0].lstrip("<")
    assert rows == whole.num_rows
    assert pages == -(-rows // 70)


def test_a_span_bounds_the_rows(service: RunningService) -> None:
    asked = {"from_": START.isoformat(), "to": "2025-10-20T20:30:00Z"}
    times = [
        row["recorded_at"]
        for row in service.get("/query/reports-by-type", agent_type="gpu", **asked).json["rows"]
    ]
    assert times
    assert all("2025-10-20T20:00" <= each < "2025-10-20T20:30" for each in times)


@pytest.mark.parametrize(
    ("target", "status", "fix"),
    [
        ("/query/agent-sumary", 404, "give agent-summary"),
        ("/query/agent-summary?agent=x", 400, "give agent_id"),
        ("/query/agent-over-time", 400, "add agent_id=VALUE"),
        ("/query/agent-summary?agent_id=a&agent_id=b", 400, "give it once"),
        ("/query/agent-summary?limit=0", 400, "give 1 to 10000"),
        ("/query/agent-summary?limit=10001", 400, "give 1 to 10000"),
        ("/query/agent-summary?limit=ten", 400, ""),
        ("/query/agent-summary?seconds=nan", 400, ""),
        ("/query/agent-summary?memory_mb=999999999999999999999", 400, ""),
        ("/query/agent-summary?from=yesterday", 400, ""),
        ("/query/agent-summary?from=2025-10-21T00:00:00Z&to=2025-10-20T00:00:00Z", 400, ""),
        ("/query/agent-summary?cursor=x", 400, "copy it whole from the page before"),
        ("/query/agent-summary?cursor=" + "A" * 7000, 400, "copy it whole from the page before"),
        ("/query/agent-summary?format=xml", 400, "give one of json, ndjson, csv, arrow, parquet"),
        ("/query/agent-over-time?agent_id=" + "x" * 1001, 400, "give at most 1,000"),
        ("/nowhere", 404, "GET /openapi.json lists the routes"),
        ("/query/", 404, "GET /openapi.json lists the routes"),
        ("/query/../../etc/passwd", 404, "GET /openapi.json lists the routes"),
        ("/query/%2e%2e%2f_kpiflow.json", 404, "give one of"),
    ],
)
def test_a_wrong_request_is_refused_with_a_fix(
    target: str, status: int, fix: str, service: RunningService
) -> None:
    reply = service.request("GET", target)
    assert (reply.status, set(reply.json)) == (status, {"error", "fix"})
    assert fix in reply.json["fix"]
    assert "--" not in reply.body.decode()


def test_other_methods_are_refused(service: RunningService) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        reply = service.request(method, "/query/agent-summary")
        assert (reply.status, reply.json["error"]) == (405, "method not allowed")


def test_a_format_that_nobody_can_give_is_406(service: RunningService) -> None:
    assert service.get("/query/agent-summary", {"Accept": "image/png"}).status == 406
    assert service.get("/query/agent-summary", {"Accept": "application/json;q=0"}).status == 406


INJECTIONS = (
    "'; DROP TABLE reports; --",
    "' OR '1'='1",
    "$agent_id",
    "{{7*7}}${7*7}<%= 7 %>",
    "%s%n%x",
    "\r\nSet-Cookie: a=b",
    "../../_kpiflow.json",
    "read_text('/etc/passwd')",
    "<script>alert(1)</script>",
    "\u202e\x1b[31m",
)


@pytest.mark.parametrize("text", INJECTIONS)
def test_a_value_is_a_value_wherever_it_is_given(text: str, service: RunningService) -> None:
    reply = service.get("/query/agent-over-time", agent_id=text)
    assert reply.json["rows"] == []
    assert reply.json["asked"]["agent_id"] == text
    assert "Set-Cookie" not in reply.headers
    for name in ("granularity", "limit", "from_", "format", "cursor"):
        wrong = service.get("/query/aggregates", **{name: text})
        assert wrong.status == 400
        assert not {"Set-Cookie", "a"} & set(wrong.headers)
    assert service.get("/query/agent-summary", **{text: "1"}).status == 400


def test_a_hostile_link_stays_within_its_header(service: RunningService) -> None:
    reply = service.get(
        "/query/agent-over-time", agent_id=AGENTS[0], limit=1, from_="2000-01-01T00:00:00+00:00"
    )
    assert reply.headers["Link"].startswith("</query/agent-over-time?agent_id=agent+0&")
    assert not set('<>"\r\n ') & set(reply.headers["Link"][1:].partition(">")[0])


def test_an_enormous_request_is_refused_and_the_next_one_answered(service: RunningService) -> None:
    assert service.get("/query/agent-summary", agent_id="x" * 100_000).status in (400, 414)
    assert service.get("/queries", {"X": "y" * 100_000}).status in (400, 431)
    assert service.get("/queries", {f"X{n}": "y" for n in range(50)}).status == 200
    many = "&".join(f"p{number}=1" for number in range(900))
    assert service.request("GET", f"/query/agent-summary?{many}").status == 400
    assert service.get("/healthz").json == {"alive": True}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "a@evil.example:80"])
def test_a_page_of_another_site_reads_nothing_under_its_own_name(host: str, service: RunningService) -> None:
    assert service.get("/queries", {"Host": host}).status in (400, 421)


def test_answers_carry_the_headers_that_browsers_obey(service: RunningService) -> None:
    for reply in (service.get("/queries"), service.get("/nowhere"), service.get("/query/agent-summary")):
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_a_query_that_takes_too_long_or_too_much_says_so(service: RunningService) -> None:
    slow = service.get("/query/anomalies", seconds=0.001)
    assert slow.status == 422
    assert "was stopped after 0.001 s" in slow.json["error"]
    assert slow.json["fix"] == "ask for a shorter span with from and to, or give seconds more"


def test_no_query_has_a_parameter_that_every_query_has() -> None:
    of_all = {each.name for each in OF_ALL}
    assert not any(of_all & {each.name for each in query.parameters} for query in QUERIES.values())


def test_too_many_queries_are_refused_and_told_when_to_come_again(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun = threading.Event(), threading.Event()

    def wait(*_: Any, **__: Any) -> Any:
        begun.set()
        go.wait(PATIENCE)
        raise query_answers.WrongUse("enough")

    monkeypatch.setattr(query_answers, "run_query", wait)
    with run_service(make_service(output, queries=1)) as service:
        threads = [
            threading.Thread(target=service.get, args=("/query/agent-summary",)) for _ in range(1 + WAITING)
        ]
        for thread in threads:
            thread.start()
        assert begun.wait(PATIENCE)
        _wait_until(lambda: service.service.pool.count == 1 + WAITING)
        reply = service.get("/query/agent-summary")
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        assert service.get("/healthz").status == 200
        go.set()
        for thread in threads:
            thread.join()
        assert service.get("/query/agent-summary").json["error"] == "enough"


def _wait_until(holds: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_client_that_leaves_stops_its_query(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, begun = threading.Event(), threading.Event()

    def wait(*arguments: Any, **_: Any) -> Any:
        stop = arguments[-1]
        begun.set()
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(0.02)
            try:
                stop.check()
            except query_answers.Failure:
                stopped.set()
                raise
        raise AssertionError

    monkeypatch.setattr(query_answers, "run_query", wait)
    with (
        run_service(make_service(output)) as service,
        socket.create_connection(("127.0.0.1", service.port)) as client,
    ):
        client.sendall(b"GET /query/agent-summary HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert begun.wait(PATIENCE)
        client.close()
        assert stopped.wait(PATIENCE)


@dataclass
class Recorder:
    """Guards that write down what passes them, and refuse at the step that is named."""

    refused: str = ""
    seen: list[str] = field(default_factory=list)

    def identify(self, transport: Any) -> Subject:
        self.steps("identify", Unidentified("no certificate"))
        return Subject("s", "kpi-consumer")

    def admit(self, subject: Subject) -> int:
        self.seen.append("admit")
        return 7 if self.refused == "admit" else 0

    def decide(self, subject: Subject, action: str) -> Rights:
        self.steps("decide", Forbidden("not for you"))
        return decide(subject, "query", Masks(b""))

    async def begin(self, subject: Subject, action: str, object: Any) -> "Recorder":
        self.steps("begin", AuditUnavailable("disk full"))
        return self

    async def refuse(self, subject: Subject, action: str, object: Any, status: int, reason: str) -> None:
        self.seen.append(f"refuse {status}")

    def note(self, rows: int) -> None:
        self.seen.append(f"note {rows}")

    def end(self, rows: int, outcome: str) -> None:
        self.seen.append(f"end {rows} {outcome}")

    def steps(self, step: str, error: Exception) -> None:
        self.seen.append(step)
        if self.refused == step:
            raise error

    def guards(self) -> Guards:
        return Guards(self.identify, self.admit, self, self)


@pytest.mark.parametrize(
    ("refuse", "status", "seen"),
    [
        ("identify", 401, ["identify", "refuse 401"]),
        ("admit", 429, ["identify", "admit", "refuse 429"]),
        ("decide", 403, ["identify", "admit", "decide", "refuse 403"]),
        ("begin", 503, ["identify", "admit", "decide", "begin"]),
        ("", 200, ["identify", "admit", "decide", "begin", f"end {len(AGENTS)} 200"]),
    ],
)
def test_every_request_passes_the_guards_in_order(
    refuse: str, status: int, seen: list[str], output: Path
) -> None:
    recorder = Recorder(refuse)
    with run_service(make_service(output, guards=recorder.guards())) as service:
        assert service.get("/query/agent-summary").status == status
        assert recorder.seen == seen
        recorder.seen.clear()
        assert service.get("/healthz").status == service.get("/readyz").status == 200
        assert recorder.seen == []
        assert service.get("/nowhere").status == (404 if refuse == "" else status)


def test_withheld_columns_are_left_out_and_listed(output: Path) -> None:
    with run_service(make_service(output, guards=Recorder().guards())) as service:
        reply = service.get("/query/reports-by-task", task_id="task 100")
        names = ["custom_metrics", "error_details", "extra"]
        assert reply.headers["Kpiflow-Withheld"] == ", ".join(names)
        assert reply.json["withheld"] == names
        assert all("error_details" not in row and "latency_ms" in row for row in reply.json["rows"])


def test_the_probes_say_what_is_wrong(tmp_path: Path) -> None:
    output = make_output(tmp_path / "out")
    with run_service(make_service(output)) as service:
        assert service.get("/readyz").json == {"ready": True, "reasons": []}
        (output / "_kpiflow.json").rename(tmp_path / "gone")
        assert service.get("/readyz").status == 503
        assert service.get("/healthz").status == 200


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ([], "or --insecure-loopback to try it out on 127.0.0.1"),
        (["--insecure-loopback", "--listen", "0.0.0.0:0"], "listen on 127.0.0.1"),
        (["--insecure-loopback", "--listen", "somewhere"], "give HOST:PORT"),
    ],
)
def test_without_tls_only_the_loopback_is_served(
    options: list[str], fix: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", str(output), *options]) == 2
    assert fix in capsys.readouterr().err


def test_an_address_in_use_has_a_fix(
    service: RunningService, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", str(output), "--insecure-loopback", "--listen", f"127.0.0.1:{service.port}"]) == 2
    assert "give another --listen" in capsys.readouterr().err


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "])
def test_a_connection_without_a_whole_request_is_closed(
    sent: bytes, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else anybody, known or not, could use up all connections that the process may have."""
    monkeypatch.setattr("pipelines.service.server.IDLE_SECONDS", 0.2)
    with (
        run_service(make_service(output)) as service,
        socket.create_connection((HOST, service.port), timeout=PATIENCE) as client,
    ):
        client.sendall(sent)
        assert client.recv(100) == b""
        assert service.get("/healthz").status == 200


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "])
def test_connections_without_a_request_keep_nobody_out(sent: bytes, output: Path) -> None:
    with run_service(make_service(output, connections=2)) as service, ExitStack() as held:
        for _ in range(20):
            client = held.enter_context(socket.create_connection((HOST, service.port), timeout=PATIENCE))
            client.sendall(sent)
            assert service.get("/healthz").status == 200
        assert 'service_refusals_total{status="503"}' in service.get("/metrics").body.decode()
        assert service.service.guards.counts.refusals["503"] >= 18


def test_connections_beyond_the_most_that_have_requests_are_closed_at_once_and_counted(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.service.server.BODY_SECONDS", 20)
    head = b"POST /kpi/marks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    with run_service(make_service(output, connections=2)) as service:
        where = (HOST, service.port)
        with ExitStack() as held:
            for _ in range(2):
                client = held.enter_context(socket.create_connection(where, timeout=PATIENCE))
                client.sendall(head)
                assert client.recv(100).startswith(b"HTTP/1.1 100 ")  # its request has begun
            for _ in range(3):
                with socket.create_connection(where, timeout=PATIENCE) as client:
                    assert client.recv(100) == b""
        wait_for(lambda: service.get("/healthz").status == 200)
        assert service.service.guards.counts.refusals["503"] >= 3


def test_a_connection_whose_answer_is_not_all_sent_makes_no_room() -> None:
    async def list_states() -> list[bool]:
        lost = asyncio.get_running_loop().create_future()
        connection, transport = HttpConnection(web.Server(MagicMock()), {}, Counter(), lost), MagicMock()
        connection.connection_made(transport)
        states = []
        for unsent in (1, 0):
            transport.get_write_buffer_size.return_value = unsent
            states.append(connection.is_idle)
        connection.connection_lost(None)
        return states

    assert asyncio.run(list_states()) == [False, True]


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, while connections fail."""
    end = time.monotonic() + PATIENCE
    while True:
        with suppress(OSError, http.client.HTTPException):
            assert is_so()
            return
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_client_that_takes_nothing_of_its_answer_is_dropped(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else anybody, known or not, could hold connections and answers without end."""
    monkeypatch.setattr(http_connection, "TAKE_SECONDS", 0.3)
    dropped = threading.Event()
    lose = http_connection.HttpConnection.connection_lost

    def note(self: http_connection.HttpConnection, error: BaseException | None) -> None:
        lose(self, error)
        if isinstance(error, TimeoutError):
            dropped.set()

    monkeypatch.setattr(http_connection.HttpConnection, "connection_lost", note)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((HOST, service.port))
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 400)
        assert dropped.wait(PATIENCE)
        assert service.get("/healthz").status == 200


def test_every_route_has_one_path_and_an_action() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    assert all(route.action and route.summary for route in ROUTES)
    assert [route.path for route in ROUTES if route.is_open] == ["/healthz", "/readyz"]


def test_limits_of_the_service_bound_those_of_a_request(output: Path) -> None:
    with run_service(make_service(output, limits=QueryLimits(3, 1, 64))) as service:
        assert service.get("/query/agent-summary").json["is_cut"]
        assert service.get("/query/agent-summary", limit=4).json["fix"] == "give 1 to 3"
        assert service.get("/query/agent-summary", seconds=2).status == 400
