"""A real stream, and a real Prometheus that scrapes it: each fault fires its alert and no other, and recovery
resolves it. A minute of the rules is four seconds here."""

import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from deploy.monitoring.render import TEMPLATE, render
from tests.builders import agent, payload, report
from tests.integration.streaming import KEY, Scene
from tests.integration.test_outputs import is_ready
from tests.prometheus import PrometheusServer
from tests.servers import RedisServer, free_port
from tests.victoriametrics import VictoriaMetricsServer

pytestmark = pytest.mark.chaos
MINUTE = 4.0
ANY_TIME = {"KpiResourcesScarce", "KpiUptimeBudgetBurns"}
"""The one depends on this machine, the other sums up all faults of the test."""


def configure(folder: Path, target: int) -> PrometheusServer:
    """A Prometheus that scrapes a port of this machine, and evaluates the rules with short minutes."""
    folder.mkdir()
    (folder / "rules.yaml").write_text(render(TEMPLATE.read_text(encoding="utf-8"), MINUTE))
    configuration = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "kpiflow", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
    }
    return PrometheusServer(folder, configuration)


class Producer:
    """Sends a hundred messages a second; some of ten are invalid."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.invalid_of_ten, self.is_sending = 0, True

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send for as long as the block lasts; while Redis is down, nothing."""
        ended = threading.Event()
        thread = threading.Thread(target=self._send, args=(ended,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _send(self, ended: threading.Event) -> None:
        numbers = count()
        while not ended.wait(0.1):
            if not self.is_sending:
                continue
            at = datetime.now(UTC)
            good = [
                payload(report(number, at, agent_id=agent(number % 20)))
                for number in (next(numbers) for _ in range(10 - self.invalid_of_ten))
            ]
            try:
                with self._server.client() as client, client.pipeline(transaction=False) as pipeline:
                    for data in (*good, *[b"{"] * self.invalid_of_ten):
                        pipeline.xadd(KEY, {"data": data})
                    pipeline.execute()
            except OSError:
                continue
            except Exception as error:
                if "onnection" not in type(error).__name__:
                    raise


class Watch:
    """Waits for alerts, and notes every one that fires meanwhile."""

    def __init__(self, scene: Scene, prometheus: PrometheusServer) -> None:
        self._scene, self._prometheus = scene, prometheus

    def until(self, alerts: set[str], allowed: Set[str] = frozenset()) -> None:
        """Wait until exactly these fire. Only these, and `allowed` ones, may fire before."""
        seen: set[str] = set()

        def is_reached() -> bool:
            now = self._prometheus.list_firing() - ANY_TIME
            seen.update(now)
            assert seen <= alerts | allowed, f"{seen - alerts - allowed} fired beside {alerts}"
            return now == alerts

        self._scene.until(is_reached)

    def stay(self, alerts: set[str], seconds: float) -> None:
        """See that exactly these fire for some seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self._prometheus.list_firing() - ANY_TIME == alerts
            time.sleep(0.5)


def test_each_fault_fires_its_alert_and_no_other_and_recovery_resolves_it(
    scene: Scene, tmp_path: Path
) -> None:
    port, producer = free_port(), Producer(scene.server)
    with VictoriaMetricsServer(tmp_path / "victoria") as store, producer.sending():
        also = ("--output", f"victoriametrics+{store.url}")
        scene.start(*also, "--metrics", port, "--checkpoint-seconds", 5)
        scene.until(lambda: is_listening(port) and is_ready(port))
        with configure(tmp_path / "prometheus", port) as prometheus:
            watch = Watch(scene, prometheus)
            watch.stay(set(), 6 * MINUTE)

            producer.is_sending = False
            watch.until({"KpiNoData"})
            producer.is_sending = True
            watch.until(set(), {"KpiNoData"})

            scene.server.kill()
            watch.until({"KpiIntegrationFailure"})
            watch.stay({"KpiIntegrationFailure"}, 3 * MINUTE)
            scene.server.start()
            watch.until(set(), {"KpiIntegrationFailure"})

            store.kill()
            watch.until({"KpiIntegrationFailure"})
            watch.stay({"KpiIntegrationFailure"}, 3 * MINUTE)
            store.start()
            watch.until(set(), {"KpiIntegrationFailure"})

            producer.invalid_of_ten = 1
            watch.until({"KpiQualityDegraded"}, {"KpiInvalidMessages"})
            producer.invalid_of_ten = 0
            watch.until(set(), {"KpiQualityDegraded", "KpiInvalidMessages"})
            watch.stay(set(), 2 * MINUTE)


def is_listening(port: int) -> bool:
    try:
        is_ready(port)
    except OSError:
        return False
    return True
