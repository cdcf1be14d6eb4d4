"""The page of metrics over HTTP and TLS, and as a command."""

import json
import socket
import ssl
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from deploy.monitoring.probe import probe
from pipelines.cli import run
from pipelines.failures import WrongUse
from pipelines.metrics import server
from pipelines.metrics.numbers import SourceWatch
from pipelines.metrics.server import Address, serve_metrics
from pipelines.settings import Settings
from runners.progress import Progress
from tests.certificates import Certificates, make_certificates
from tests.patience import PATIENCE
from tests.pipelines.metrics.jobs import Home, Source

LOOPBACK = Address("127.0.0.1", 0)


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("pems"))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.stop()


def ask(url: str, context: ssl.SSLContext | None = None) -> tuple[int, str, str]:
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE, context=context) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def ask_json(port: int, page: str) -> tuple[int, dict[str, Any]]:
    status, _, body = ask(f"http://127.0.0.1:{port}{page}")
    return status, json.loads(body)


def test_the_page_is_openmetrics_text(home: Home) -> None:
    with serve_metrics(LOOPBACK, home.path, SourceWatch(Source())) as port:
        status, kind, body = ask(f"http://127.0.0.1:{port}/metrics")
        assert (status, kind) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        assert len(list(text_string_to_metric_families(body))) > 20
        assert ask(f"http://127.0.0.1:{port}/nonsense")[0] == 404


def test_clients_that_are_silent_or_drop_leave_no_line_and_harm_nobody(
    home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server._Handler, "timeout", 0.2)
    with serve_metrics(LOOPBACK, home.path, SourceWatch(Source())) as port:
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
        for client in clients[:20]:
            client.sendall(b"GET /met")
        for client in clients[20:]:  # closed with a reset
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert ask(f"http://127.0.0.1:{port}/metrics")[0] == 200
        for client in clients[:20]:
            client.settimeout(5)
            assert client.recv(1) == b""  # the server has ended it
            client.close()
    assert capfd.readouterr().err == ""


def test_a_job_that_restarts_in_a_loop_is_alive_and_not_ready(home: Home) -> None:
    with serve_metrics(LOOPBACK, home.path, SourceWatch(Source()), home.keeper.is_alive) as port:
        assert ask_json(port, "/healthz")[0] == 200
        assert ask_json(port, "/readyz") == (200, {"ready": True, "reasons": []})
        home.complete_checkpoint(seconds_ago=30)
        home.keeper.follow(Progress("restarting", restarts=7, failure="ValueError: poison"))
        status, body = ask_json(port, "/healthz")
        assert (status, body["restarts"], body["failure"]) == (200, 7, "ValueError: poison")
        status, body = ask_json(port, "/readyz")
        assert (status, body["reasons"]) == (
            503,
            [
                "the job is restarting: ValueError: poison",
                "no checkpoint is complete since the job was started, restarted or renewed",
            ],
        )


def test_what_keeps_a_job_from_its_work_is_named(home: Home) -> None:
    with serve_metrics(LOOPBACK, home.path, SourceWatch(Source())) as port:
        home.write_sink(waiting_seconds=40)
        home.place_reader(80, 100, seconds_ago=50)
        home.keeper.record.begun -= 1000
        home.keeper.save([])
        home.complete_checkpoint(seconds_ago=90)
        assert ask_json(port, "/readyz")[1]["reasons"] == [
            "no reader has reported for 50 s",
            "the newest checkpoint is 90 s old",
            f"{home.path} is unavailable: the disk is gone",
        ]
        home.stop()
        assert ask_json(port, "/readyz") == (503, {"ready": False, "reasons": ["the job does not run"]})
        assert ask_json(port, "/healthz")[0] == 503


@pytest.mark.parametrize("text", ["0.0.0.0:9464", "10.0.0.1:1", "example.org:1", ":::9464"])
def test_other_addresses_than_the_loopback_need_tls(text: str) -> None:
    with pytest.raises(WrongUse, match="need TLS"):
        Address.parse(text, Settings())


@pytest.mark.parametrize("text", ["nonsense", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(WrongUse, match="no address"):
        Address.parse(text, Settings())


@pytest.mark.parametrize(
    ("text", "host"), [("9464", "127.0.0.1"), ("localhost:9464", "localhost"), ("[::1]:9464", "::1")]
)
def test_the_loopback_needs_none(text: str, host: str) -> None:
    assert Address.parse(text, Settings()) == Address(host, 9464)


def test_tls_serves_only_clients_with_a_certificate_of_the_authority(
    home: Home, pems: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(metrics_certificate=pems.server, metrics_key=pems.server_key, metrics_ca=pems.ca)
    address = Address.parse("0.0.0.0:0", settings)
    context = ssl.create_default_context(cafile=str(pems.ca))
    with serve_metrics(address, home.path, SourceWatch(Source())) as port:
        with pytest.raises((ssl.SSLError, OSError)):
            ask(f"https://localhost:{port}/metrics", context)
        with pytest.raises(OSError):  # noqa: PT011 (how a server hangs up differs)
            ask(f"http://localhost:{port}/metrics")
        assert not probe(port, "/readyz")
        for name, pem in (("CERTIFICATE", pems.client), ("KEY", pems.client_key), ("CA", pems.ca)):
            monkeypatch.setenv(f"KPIFLOW_METRICS_{name}", str(pem))
        assert probe(port, "/readyz")
        assert not probe(port, "/nonsense")
        context.load_cert_chain(pems.client, pems.client_key)
        assert ask(f"https://localhost:{port}/metrics", context)[0] == 200


def test_a_port_that_is_taken_is_refused(home: Home) -> None:
    with (
        serve_metrics(LOOPBACK, home.path, SourceWatch(Source())) as port,
        pytest.raises(WrongUse, match="Address already in use"),
        serve_metrics(Address("127.0.0.1", port), home.path, SourceWatch(Source())),
    ):
        pass


def test_the_command_prints_the_page_though_the_source_is_gone(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["metrics", str(home.path)]) == 0
    out = capsys.readouterr().out
    assert out.endswith("# EOF\n")
    assert "kpiflow_source_up 0.0" in out
    assert run(["metrics", str(home.path / "nowhere")]) == 2
