"""The service with TLS: every way round the rules of access is tried, and each answer is in the audit."""

import base64
import csv
import http.client
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pipelines.cli import run
from pipelines.queries.registry import QUERIES
from pipelines.rate_limit import REQUESTS
from pipelines.service import query_answers
from pipelines.service.access import connections
from pipelines.service.access.counts import REFUSALS, RefusalLimit
from pipelines.service.access.masks import Masks
from pipelines.service.access.policy import Policy
from pipelines.service.access.roles import ROLES
from pipelines.service.access.tls import ServiceFiles, ServiceTls
from pipelines.service.audit.log import AuditLog
from pipelines.service.audit.verify import verify_audit
from pipelines.service.audit.writer import AuditUnavailable, ChainWriter
from pipelines.service.guards import make_guards
from pipelines.service.routes import ROUTES, Route
from schemas.access import CLASSES, AccessClass
from tests.certificates import Pair, make_ca, make_certificate, make_crl
from tests.patience import PATIENCE
from tests.pipelines.queries.small_output import AGENTS, make_output
from tests.service import HOST, Reply, make_service, run_service

NAMES = {"monitoring": "m.example", "kpi-consumer": "c.example", "optimization-admin": "a.example"}
ROLES_FILE = "".join(
    f'[[subject]]\nname = "{role}"\nissuer = "CN=ca"\nsan = "DNS:{name}"\nrole = "{role}"\n'
    for role, name in NAMES.items()
) + (
    '[[subject]]\nname = "granted"\nissuer = "CN=ca"\nsan = "DNS:g.example"\nrole = "kpi-consumer"\n'
    'restricted = ["kpi_reports"]\n'
    '[[subject]]\nname = "marker"\nissuer = "CN=ca"\nsan = "DNS:k.example"\nrole = "optimization-admin"\n'
    'restricted = ["kpi_reports", "marks"]\n'
)


@dataclass
class House:
    """A service with TLS, its files, and the time that it takes certificates by."""

    folder: Path
    ca: Pair
    clients: dict[str, Pair]
    port: int = 0
    now: list[datetime] = field(default_factory=lambda: [datetime.now(UTC)])

    @property
    def client_ca(self) -> Path:
        return self.folder / "clients.pem"

    @property
    def crl(self) -> Path:
        return self.folder / "crl.pem"

    @property
    def roles(self) -> Path:
        return self.folder / "roles.toml"

    def connect(self, client: str = "", **options: Any) -> http.client.HTTPSConnection:
        """A connection with the certificate of a client; of nobody if it has no name."""
        context = self.make_context(client)
        for name, value in options.items():
            setattr(context, name, value)
        return http.client.HTTPSConnection("localhost", self.port, timeout=PATIENCE, context=context)

    def make_context(self, client: str = "") -> ssl.SSLContext:
        """The TLS of a client; of nobody if it has no name."""
        context = ssl.create_default_context(cafile=str(self.ca.certificate))
        if client:
            context.load_cert_chain(self.clients[client].certificate, self.clients[client].key)
        return context

    def get(self, client: str, target: str, **headers: str) -> Reply:
        """Ask once."""
        with self.open(client) as connection:
            return ask(connection, target, **headers)

    def post(self, client: str, target: str, content: Any, **headers: str) -> Reply:
        """Send JSON once."""
        with self.open(client) as connection:
            body, headers = json.dumps(content), {"Content-Type": "application/json", **headers}
            return ask(connection, target, "POST", body, **headers)

    @contextmanager
    def open(self, client: str) -> Iterator[http.client.HTTPSConnection]:
        connection = self.connect(client)
        try:
            yield connection
        finally:
            connection.close()

    def read_audit(self) -> list[dict[str, Any]]:
        """The lines of the audit."""
        text = "".join(path.read_text() for path in sorted((self.folder / "audit/one").glob("*.jsonl")))
        return [json.loads(line) for line in text.splitlines()]


def ask(
    connection: http.client.HTTPSConnection,
    target: str,
    method: str = "GET",
    body: str | None = None,
    **headers: str,
) -> Reply:
    """Ask on a connection that stays open."""
    connection.request(method, target, body, headers)
    response = connection.getresponse()
    return Reply(response.status, dict(response.getheaders()), response.read())


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_output(tmp_path_factory.mktemp("access") / "out")


@contextmanager
def keep_house(folder: Path, output: Path, **options: Any) -> Iterator[House]:
    ca = make_ca(folder)
    hosts = {**NAMES, "granted": "g.example", "marker": "k.example", "stranger": "x.example"}
    clients = {name: make_certificate(ca, name, hosts=[host]) for name, host in hosts.items()}
    server = make_certificate(ca, "server")
    house = House(folder, ca, clients)
    house.client_ca.write_bytes(ca.certificate.read_bytes())
    make_crl(ca)
    house.roles.write_text(ROLES_FILE)
    files = ServiceFiles(server.certificate, server.key, house.client_ca, house.crl)
    tls = ServiceTls(files, lambda: house.now[0])
    audit, policy = AuditLog(folder / "audit", "one"), Policy(house.roles, Masks(bytes(32)))
    policy.load()
    context = tls.make_context()
    audit.open()
    guards = make_guards(tls, policy, audit)
    with run_service(make_service(output, guards=guards, is_local=False, **options), context) as service:
        house.port = service.port
        yield house
    audit.close()


@pytest.fixture
def house(tmp_path: Path, output: Path) -> Iterator[House]:
    with keep_house(tmp_path, output) as house:
        yield house


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, output: Path) -> Iterator[House]:
    """One whose files no test changes."""
    with keep_house(tmp_path_factory.mktemp("calm"), output) as house:
        yield house


QUERY_PATH = "/query/{name}"
PATHS = {
    QUERY_PATH: [f"/query/{name}" for name in QUERIES],
    "/kpi/compare": ["/kpi/compare?experiment=routing"],
}
GIVEN = {
    "reports-by-task": "?task_id=task+1",
    "agent-over-time": "?agent_id=agent+0",
    "reports-by-type": "?agent_type=gpu",
    "experiment": "?experiment=routing",
    "recommendations": "?state=all",
}
ONLY_GRANTED = ("/query/experiment", "/kpi/compare?experiment=routing", "/kpi/marks")
"""A query that joins tables by report_id, a route that asks it, and one that takes a report_id: no role sees
them without grants."""
CONFIDENTIAL = ("/query/experiments", "/query/recommendations")
"""Queries whose rows follow from confidential columns."""


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_each_route_answers_only_the_roles_that_may(route: Route, calm: House) -> None:
    assert route.is_open or any(route.action in role.actions for role in ROLES.values())
    for path in PATHS.get(route.path, [route.path]):
        name = path.rpartition("/")[2]
        target = path + (GIVEN.get(name, "") if path.startswith("/query/") else "")

        def send(client: str, target: str = target) -> int:
            return (calm.post(client, target, {}) if route.takes else calm.get(client, target)).status

        assert send("") == (200 if route.is_open else 401)
        assert send("stranger") == (200 if route.is_open else 403)
        for role, rights in ROLES.items():
            status = send(role)
            is_public = path not in PATHS[QUERY_PATH] or name in ("fleet", "totals")
            if route.is_open:
                assert status == 200
            elif path in ONLY_GRANTED or (path in CONFIDENTIAL and rights.level < AccessClass.CONFIDENTIAL):
                assert status == 403
            elif route.action in rights.actions and (is_public or rights.level > AccessClass.PUBLIC):
                assert status != 403
            else:
                assert status == 403


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("client", [*ROLES, "granted"])
def test_an_answer_has_no_column_without_right(query: str, client: str, calm: House) -> None:
    reply = calm.get(client, f"/query/{query}{GIVEN.get(query, '')}")
    if reply.status == 403:
        assert client == "monitoring" or query in ("experiments", "experiment", "recommendations")
        return
    granted = {"kpi_reports"} if client == "granted" else set()
    level = ROLES.get(client, ROLES["kpi-consumer"]).level
    seen = {name for row in reply.json["rows"] for name in row}
    for source in QUERIES[query].inputs:
        for name in seen & set(source.table.schema.names):
            found = CLASSES[source.table.name][name]
            assert found <= level or (found == AccessClass.RESTRICTED and source.table.name in granted)
    assert set(reply.json.get("withheld", [])) == set(QUERIES[query].columns.names) - seen


def test_paths_that_no_route_has_are_refused_to_everybody(calm: House) -> None:
    for client in (*ROLES, "granted"):
        for path in (
            "/page/../server.py",
            "/nowhere",
            "/query",
            "/audit",
            "/%2e%2e/etc/passwd",
            "/kpi/export/../../roles",
        ):
            assert calm.get(client, path).status in (403, 404)


def test_a_missing_certificate_gets_an_audited_401(house: House) -> None:
    reply = house.get("", "/queries")
    assert reply.status == 401
    assert set(reply.json) == {"error", "fix"}
    (line,) = [line for line in house.read_audit() if line["type"] == "refused"]
    assert (line["status"], line["subject"], line["object"]["path"]) == (401, "nobody", "/queries")


def test_an_answer_is_in_the_audit_with_its_rows(house: House) -> None:
    target = "/query/agent-summary?limit=3"
    fingerprint = house.clients["kpi-consumer"].load()[0].fingerprint(hashes.SHA256()).hex()
    assert house.get("kpi-consumer", target).status == 200
    deadline = time.monotonic() + PATIENCE
    while len(lines := [line for line in house.read_audit() if line["type"] in ("begin", "end")]) < 2:
        assert time.monotonic() < deadline, "the end is recorded after the answer, but was not"
        time.sleep(0.02)
    begin, end = lines
    assert (begin["subject"], begin["action"], begin["object"]) == ("kpi-consumer", "query", target)
    assert begin["certificate"] == fingerprint
    assert (end["of"], end["rows"], end["outcome"]) == (begin["seq"], 3, "200")


def test_a_certificate_of_another_authority_gets_no_connection(house: House, tmp_path: Path) -> None:
    other = make_ca(tmp_path / "audit", "ca")
    house.clients["kpi-consumer"] = make_certificate(other, "fake", hosts=["c.example"])
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        house.get("kpi-consumer", "/queries")


def test_an_older_version_of_tls_gets_no_connection(house: House) -> None:
    with pytest.raises(ssl.SSLError):
        house.connect("kpi-consumer", maximum_version=ssl.TLSVersion.TLSv1_2).request("GET", "/queries")


def test_a_handshake_that_does_not_go_on_is_ended(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.service.acceptor.HANDSHAKE_SECONDS", 2.0)
    with keep_house(tmp_path, output) as house:
        clients = [socket.create_connection((HOST, house.port), timeout=PATIENCE) for _ in range(20)]
        clients[0].sendall(b"\x16\x03\x01\x02\x00\x01\x00")  # the begin of one
        assert house.get("kpi-consumer", "/queries").status == 200
        for client in clients:
            with client:
                assert client.recv(100) == b""


def test_handshakes_that_do_not_go_on_and_idle_clients_keep_nobody_out(tmp_path: Path, output: Path) -> None:
    hello = bytes.fromhex("1603010200010001fc0303")  # the begin of a handshake
    with keep_house(tmp_path, output, connections=5) as house, ExitStack() as held:
        for number in range(30):
            client = held.enter_context(socket.create_connection((HOST, house.port), timeout=PATIENCE))
            client.sendall(hello * (number % 2))
            assert house.get("kpi-consumer", "/queries").status == 200


def test_a_session_is_not_resumed(house: House) -> None:
    with house.open("kpi-consumer") as connection:
        assert ask(connection, "/queries").status == 200
        assert isinstance(connection.sock, ssl.SSLSocket)
        assert connection.sock.session is None or not connection.sock.session.has_ticket


def test_an_expired_certificate_gets_no_connection(house: House) -> None:
    expired = make_certificate(house.ca, "kpi-consumer", hosts=["c.example"], expired=True, file="expired")
    house.clients["kpi-consumer"] = expired
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        house.get("kpi-consumer", "/queries")


@pytest.mark.parametrize("days", [2, -10], ids=["it has expired", "the clock was set back"])
def test_a_certificate_that_is_not_valid_now_counts_no_longer_on_an_open_connection(
    days: int, house: House
) -> None:
    with house.open("kpi-consumer") as connection:
        assert ask(connection, "/queries").status == 200
        house.now[0] += timedelta(days=days)
        reply = ask(connection, "/queries")
        assert reply.status == 401
        assert reply.headers["Connection"] == "close"


def test_a_removed_authority_counts_at_once(house: House, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with house.open("kpi-consumer") as connection:
        assert ask(connection, "/queries").status == 200
        house.client_ca.write_bytes(make_ca(tmp_path / "other", "new").certificate.read_bytes())
        assert ask(connection, "/queries").status == 401
    for name in ("localhost", HOST):  # with and without a name in the handshake
        connection = house.connect("kpi-consumer", check_hostname=False)
        connection.host = name
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            ask(connection, "/queries")


def test_an_authority_that_stays_keeps_its_connections(house: House, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with house.open("kpi-consumer") as connection:
        assert ask(connection, "/queries").status == 200
        more = make_ca(tmp_path / "other", "new").certificate.read_bytes()
        house.client_ca.write_bytes(house.client_ca.read_bytes() + more)
        assert ask(connection, "/queries").status == 200


def test_a_revoked_certificate_counts_at_once(house: House) -> None:
    with house.open("kpi-consumer") as connection:
        assert ask(connection, "/queries").status == 200
        make_crl(house.ca, [house.clients["kpi-consumer"]])
        assert ask(connection, "/queries").status == 401
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            house.get("kpi-consumer", "/queries")
        assert house.get("monitoring", "/queries").status == 200


def test_files_that_cannot_be_used_leave_the_old_ones_and_are_said(house: House) -> None:
    house.client_ca.write_text("nonsense")
    house.roles.write_text("nonsense")
    assert house.get("kpi-consumer", "/queries").status == 200
    ready = house.get("", "/readyz")
    assert ready.status == 200
    assert len(ready.json["warnings"]) == 2
    assert str(house.folder) not in json.dumps(ready.json)


def test_a_role_that_is_taken_away_counts_at_once(house: House) -> None:
    with house.open("kpi-consumer") as connection:
        assert ask(connection, "/query/agent-summary").status == 200
        house.roles.write_text(ROLES_FILE.replace("c.example", "d.example"))
        assert ask(connection, "/query/agent-summary").status == 403


@pytest.mark.parametrize("change", ["certificate", "role", "grant"])
def test_an_answer_that_goes_on_is_ended_when_its_subject_has_changed(
    change: str, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.1)
    begun = threading.Event()

    def wait(*arguments: Any, **_: Any) -> Any:
        begun.set()
        stop = arguments[-1]
        for _ in range(300):
            time.sleep(0.05)
            stop.check()

    monkeypatch.setattr(query_answers, "run_query", wait)
    connection = house.connect("granted")
    connection.request("GET", "/query/agent-summary")
    assert begun.wait(PATIENCE)
    time.sleep(0.3)
    if change == "certificate":
        house.now[0] += timedelta(days=2)
    else:
        old, new = ("g.example", "h.example") if change == "role" else ('["kpi_reports"]', "[]")
        house.roles.write_text(ROLES_FILE.replace(old, new))
    with pytest.raises((ConnectionError, ssl.SSLError, http.client.HTTPException)):
        connection.getresponse()
    assert any(line["type"] == "during" for line in house.read_audit())


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "x"])
def test_a_page_of_another_site_is_refused(origin: str, house: House) -> None:
    for target in ("/queries", "/kpi/stream", "/query/agent-summary"):
        assert house.get("kpi-consumer", target, Origin=origin).status == 403
    assert house.get("kpi-consumer", "/queries", Origin=f"https://localhost:{house.port}").status == 200


def test_a_report_id_is_never_shown_without_the_grant(calm: House) -> None:
    granted = calm.get("granted", "/query/agent-over-time?agent_id=agent+0")
    plain = {row["report_id"] for row in granted.json["rows"]}
    assert plain
    target = "/query/agent-over-time?agent_id=agent+0&limit=40"
    pages, cursor, seen = 0, "", set()
    while pages < 30:
        reply = calm.get("kpi-consumer", target + (f"&cursor={cursor}" if cursor else ""))
        text = reply.body.decode()
        cursor = reply.json["cursor"] or ""
        decoded = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("latin-1")
        assert not any(each in text or each in decoded for each in plain)
        seen |= {row["report_id"] for row in reply.json["rows"]}
        pages += 1
        if not cursor:
            break
    whole = calm.get("granted", "/query/agent-over-time?agent_id=agent+0&limit=10000").json["row_count"]
    assert len(seen) == whole
    assert pages > 2


def test_a_cursor_of_another_subject_or_made_by_hand_is_refused(calm: House) -> None:
    target = "/query/agent-over-time?agent_id=agent+0&limit=2&cursor="
    plain = calm.get("granted", target.removesuffix("&cursor=")).json["cursor"]
    sealed = calm.get("kpi-consumer", target.removesuffix("&cursor=")).json["cursor"]
    assert calm.get("kpi-consumer", target + sealed).status == 200
    assert calm.get("optimization-admin", target + sealed).status == 400
    assert calm.get("kpi-consumer", target + plain).status == 400


def test_a_filter_on_a_masked_column_is_not_possible(calm: House) -> None:
    for name in ("report_id", "extra", "error_details", "custom_metrics"):
        reply = calm.get("kpi-consumer", f"/query/agent-over-time?agent_id=agent+0&{name}=x")
        assert reply.status in (400, 403)


def test_a_window_with_fewer_than_ten_tasks_is_not_public(calm: House) -> None:
    target = "/query/fleet?granularity=5s&limit=1000"
    public = [row["task_count"] for row in calm.get("monitoring", target).json["rows"]]
    internal = [row["task_count"] for row in calm.get("kpi-consumer", target).json["rows"]]
    assert 1 in internal
    assert sorted(public) == sorted(count for count in internal if count >= 10)
    assert public
    totals = calm.get("monitoring", target.replace("fleet", "totals")).json["rows"]
    assert sum(row["task_count"] for row in totals) == sum(public)


def test_cells_of_csv_are_no_formulas(calm: House) -> None:
    reply = calm.get("granted", "/query/reports-by-task?task_id=task+1&format=csv")
    rows = list(csv.DictReader(io.StringIO(reply.body.decode())))
    assert {row["error_details"] for row in rows} == {"", "'=1+1"}


def test_too_many_requests_get_429_with_the_time_to_wait(house: House) -> None:
    with house.open("monitoring") as connection:
        for _ in range(REQUESTS):
            assert ask(connection, "/queries").status == 200
        reply = ask(connection, "/queries")
    assert reply.status == 429
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    assert house.get("kpi-consumer", "/queries").status == 200
    assert [line["status"] for line in house.read_audit() if line["type"] == "refused"] == [429]


def test_refusals_cannot_fill_the_audit() -> None:
    now = [0.0]
    limit = RefusalLimit(lambda: now[0])
    recorded = [limit.count("nobody", "host", 401) for _ in range(1000)]
    assert recorded == [0] * REFUSALS + [None] * (1000 - REFUSALS)
    now[0] = 61
    assert limit.count("nobody", "host", 401) == 1000 - REFUSALS


def test_nothing_but_metrics_is_answered_while_the_audit_cannot_be_written(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> int:
        raise AuditUnavailable("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ChainWriter, "write", fail)
        assert house.get("kpi-consumer", "/query/agent-summary").status == 503
        assert house.get("", "/query/agent-summary").status == 503
        assert house.get("", "/readyz").status == 503
        metrics = house.get("monitoring", "/metrics")
        assert house.get("kpi-consumer", "/metrics").status == 503  # a refusal needs its line
    assert "kpiflow_service_audit_written 0.0" in metrics.body.decode()  # else no alert could fire
    assert house.get("kpi-consumer", "/query/agent-summary").json["row_count"] == len(AGENTS)
    assert [each.problems for each in verify_audit(house.folder / "audit")] == [[]]


def test_denials_volume_and_certificates_are_metrics(house: House) -> None:
    house.get("", "/queries")
    house.get("kpi-consumer", "/query/agent-summary")
    house.get("kpi-consumer", "/metrics")
    text = house.get("monitoring", "/metrics").body.decode()
    assert 'kpiflow_service_refusals_total{status="401"} 1.0' in text
    assert 'kpiflow_service_refusals_total{status="403"} 1.0' in text
    assert f'kpiflow_service_rows_total{{action="query",role="kpi-consumer"}} {len(AGENTS)}.0' in text
    assert "kpiflow_service_audit_written 1.0" in text
    assert 'kpiflow_service_certificate_seconds{certificate="server"}' in text


METRICS = {
    "kpiflow_service_answers_total",
    "kpiflow_service_rows_total",
    "kpiflow_service_refusals_total",
    "kpiflow_service_audit_written",
    "kpiflow_service_roles_used",
    "kpiflow_service_certificate_seconds",
}


def test_the_metrics_have_these_names(calm: House) -> None:
    calm.get("monitoring", "/queries")
    text = calm.get("monitoring", "/metrics").body.decode()
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    assert {each.name for each in samples} == METRICS | {"kpiflow_build_info"}


def test_what_is_missing_to_serve_is_said(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", str(output), "--listen", "0.0.0.0:0"]) == 2
    assert "--roles" in capsys.readouterr().err
    assert run(["serve", str(output), "--insecure-loopback", "--roles", str(tmp_path / "roles")]) == 2
    assert "leave one of them out" in capsys.readouterr().err
