"""Two outputs of one stream, one of which becomes unavailable: the source stays safe, and afterwards all
of them have everything."""

import json
import os
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.integration.streaming import KEY, Scene, kill
from tests.patience import PATIENCE
from tests.servers import free_port
from tests.victoriametrics import VictoriaMetricsServer

pytestmark = pytest.mark.slow
HOUR_MS = 3_600_000
TENS_OF_SECONDS = int(os.environ.get("OUTAGE_SECONDS", "10")) // 10
"""How long the output is unavailable; 100 messages a second arrive meanwhile."""


def shown(store: VictoriaMetricsServer) -> int:
    """Reports that the store's hours count."""
    newest: dict[Any, float] = defaultdict(float)
    for labels, samples in store.samples('kpi_tasks{granularity="1h"}').items():
        for at, value in samples.items():
            newest[labels, at // HOUR_MS] = max(newest[labels, at // HOUR_MS], value)
    return int(sum(newest.values()))


def stored(scene: Scene) -> int:
    """Reports that the folder has."""
    ((count,),) = duckdb.sql(
        f"select count(*) from read_parquet('{scene.output}/kpi_reports/**/*.parquet')"
    ).fetchall()
    return int(count)


def committed(scene: Scene) -> int:
    """Entries up to the group's place."""
    with scene.server.client() as client:
        return sum(int(group["entries-read"] or 0) for group in client.xinfo_groups(KEY))


def sink(scene: Scene, place: int) -> dict[str, Any]:
    """What status says of an output."""
    said: dict[str, Any] = json.loads(scene.ask("status", scene.output, "--json"))["sinks"][place]
    return said


def parse_page(text: str) -> dict[str, float]:
    """The samples of a page of metrics, as it writes them."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def scrape(port: int) -> dict[str, float]:
    """The metrics that a job serves."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as reply:
        return parse_page(reply.read().decode())


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE) as reply:
            return bool(reply.status == 200)
    except urllib.error.HTTPError:
        return False


def count_messages(found: dict[str, float]) -> dict[str, float]:
    """Messages that are read, and those that have an outcome."""
    prefixes = {"read": "kpiflow_messages_read_total", "stored": "kpiflow_outcomes_total"}
    return {
        word: sum(value for name, value in found.items() if name.startswith(prefix))
        for word, prefix in prefixes.items()
    }


def test_an_output_that_goes_away_holds_the_source_back_and_gets_everything_in_the_end(
    scene: Scene, tmp_path: Path
) -> None:
    with VictoriaMetricsServer(tmp_path / "victoria") as store:
        both, port = ("--output", f"victoriametrics+{store.url}"), free_port()
        run = scene.start(*both, "--metrics", port)
        scene.add(1000)
        scene.until(lambda: committed(scene) == 1000)
        scene.until(lambda: sink(scene, 1)["waiting_since"] is None and shown(store) > 0)
        scene.until(lambda: is_ready(port))
        assert count_messages(scrape(port)) == {"read": 1000, "stored": 1000}

        store.kill()
        scene.add(1000, seed=2)
        scene.until(lambda: sink(scene, 1)["waiting_since"] is not None)
        assert store.url.rpartition("/")[2] in sink(scene, 1)["error"]
        assert not is_ready(port)
        errors = f'kpiflow_errors_total{{peer="victoriametrics+{store.url}"}}'
        scene.until(lambda: scrape(port)[errors] > 0)
        for part in range(TENS_OF_SECONDS):
            scene.add(1000, seed=3 + part, rate=6000)
            assert committed(scene) <= 2000  # no checkpoint of this time is complete: a write waits
        before = count_messages(scrape(port))
        kill(run, "all")
        after = count_messages(parse_page(scene.ask("metrics", scene.output)))
        assert all(after[name] >= before[name] for name in before)

        store.start()
        scene.finish(*both)
        assert shown(store) == stored(scene) > 2000
    found = parse_page(scene.ask("metrics", scene.output))
    verdict = scene.prove()
    assert count_messages(found) == {"read": verdict["received"], "stored": verdict["received"]}
    assert found['kpiflow_outcomes_total{outcome="report",reason=""}'] == verdict["reports"]
    assert (found["kpiflow_starts_total"], found["kpiflow_running"]) == (2, 0)
    assert (verdict["received"], verdict["reports"]) == (2000 + 1000 * TENS_OF_SECONDS, stored(scene))
