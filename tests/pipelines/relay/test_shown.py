"""What a relay shows of itself: metrics with frozen names, status, and what doctor finds."""

import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pipelines.cli import run
from pipelines.metrics.server import Address, serve_pages
from pipelines.relay.check import check_layer4, judge_clock, judge_expiry
from pipelines.relay.export import ExportPage
from pipelines.relay.metrics import make_relay_page, make_relay_pages
from pipelines.relay.tls import TlsFiles
from tests.certificates import make_ca, make_certificate
from tests.pipelines.relay.layer4 import Layer4, make_report
from tests.pipelines.relay.running import STREAM, run_relay, shorten_pauses
from tests.pipelines.relay.test_tls import serve
from tests.servers import RedisServer

NAMES = {
    "kpiflow_attempts_total": {"peer"},
    "kpiflow_build_info": {"version"},
    "kpiflow_cpu_seconds_total": {"role"},
    "kpiflow_errors_total": {"peer"},
    "kpiflow_memory_bytes": {"role"},
    "kpiflow_relay_active": set(),
    "kpiflow_relay_archived_total": set(),
    "kpiflow_relay_behind_reports": set(),
    "kpiflow_relay_certificate_seconds": set(),
    "kpiflow_relay_clock_ahead_seconds": set(),
    "kpiflow_relay_connected": set(),
    "kpiflow_relay_connections_total": set(),
    "kpiflow_relay_export_age_seconds": set(),
    "kpiflow_relay_healed_total": set(),
    "kpiflow_relay_lost_total": set(),
    "kpiflow_relay_malformed_total": set(),
    "kpiflow_relay_ready": set(),
    "kpiflow_relay_reports_total": {"way"},
    "kpiflow_relay_running": set(),
    "kpiflow_stage_latency_seconds_bucket": {"stage", "le"},
    "kpiflow_stage_latency_seconds_count": {"stage"},
    "kpiflow_stage_latency_seconds_sum": {"stage"},
    "kpiflow_starts_total": set(),
}
"""All metrics of a relay with their labels. Dashboards and alerts use these names: none may change."""
PAGE = Path(__file__).parents[3] / "docs" / "monitoring.md"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch)
    monkeypatch.setattr("transforms.core.process_stats._SECONDS", 0.05)


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[Layer4, TlsFiles]]:
    ca = make_ca(tmp_path)
    own = make_certificate(ca, "client")
    with Layer4([make_report(0)], serve(ca, make_certificate(ca, "server"))) as layer4:
        yield layer4, TlsFiles(own.certificate, own.key, ca.certificate)


def test_the_names_of_a_relays_metrics_are_frozen_and_its_status_says_the_same(
    server: RedisServer, client: redis.Redis, tmp_path: Path, tls: tuple[Layer4, TlsFiles],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (layer4, files), home = tls, tmp_path / "relay"
    with run_relay(layer4, server, home, tls=files) as running:
        running.wait(lambda status: status.situation.connected and status.totals.get("exported", 0) == 1)
        layer4.offer(make_report(1))
        running.wait(lambda status: status.totals.get("live", 0) == 1)
        found: dict[str, set[str]] = {}
        while "kpiflow_stage_latency_seconds_bucket" not in found:
            families = list(text_string_to_metric_families(make_relay_page(home).decode()))
            found = {each.name: set(each.labels) for family in families for each in family.samples}
        assert found == NAMES
        with serve_pages(Address("127.0.0.1", 0), make_relay_pages(home)) as port:
            ready = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz"))
            assert ready == {"ready": True, "reasons": []}
            assert json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz"))["alive"]
        assert run(["status", str(home), "--json"]) == 0
        status = json.loads(capsys.readouterr().out)
        assert (status["running"], status["totals"]["live"], status["stream"]) == (True, 1, STREAM)
        assert run(["metrics", str(home)]) == 0
        assert 'kpiflow_relay_reports_total{way="socket"} 1.0' in capsys.readouterr().out
    assert run(["status", str(home)]) == 0
    assert "not running" in capsys.readouterr().out


def test_the_page_about_monitoring_lists_every_metric_of_a_relay() -> None:
    text = PAGE.read_text(encoding="utf-8")
    own = {name for name in NAMES if name.startswith("kpiflow_relay_")}
    assert {name for name in own if f"`{name}" not in text} == set()


def test_doctor_checks_certificate_reachability_and_clock(
    tls: tuple[Layer4, TlsFiles], capsys: pytest.CaptureFixture[str]
) -> None:
    layer4, files = tls
    findings = list(check_layer4(layer4.export, layer4.live, files, 5))
    problems = {each.what: each.problem for each in findings if each.problem}
    assert len(findings) == 5
    (problem,) = problems.values()  # certificates of tests last a day
    assert "expires in" in problem
    words = ["--certificate", str(files.certificate), "--key", str(files.key), "--ca", str(files.ca)]
    assert run(["doctor", "--export", layer4.export.replace("https", "http"), *words]) == 1
    assert "cannot be reached" in capsys.readouterr().out
    assert run(["doctor", "--export", layer4.export, "--ca", str(files.ca)]) == 2


def test_a_clock_or_a_certificate_that_is_wrong_is_named() -> None:
    now = datetime.now(UTC)
    assert not judge_expiry(now + timedelta(days=8), now).problem
    assert "has expired" in judge_expiry(now - timedelta(days=1), now).problem
    page = ExportPage([], [], 1, 0, 100.0)
    assert not judge_clock(page, 103.0, 5).problem
    assert judge_clock(page, 90.0, 5).problem == "it is 10 s ahead"
