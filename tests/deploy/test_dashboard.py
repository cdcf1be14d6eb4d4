"""Dashboard, scrape configuration and manifests name metrics, ports and pages that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.make_dashboard import make_dashboard
from tests.pipelines.metrics.test_exposition import FROZEN

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def queries() -> list[str]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def recorded() -> set[str]:
    groups = yaml.safe_load((MONITORING / "kpiflow.rules.yaml").read_text(encoding="utf-8"))["groups"]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def test_the_dashboard_is_what_its_program_writes() -> None:
    assert json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8")) == make_dashboard()


def test_its_queries_name_metrics_and_labels_that_exist() -> None:
    named = {name for query in queries() for name in re.findall(r"\b(kpi(?:flow)?_\w+)", query)}
    assert named - set(FROZEN) - recorded() == set()
    labels = {name for query in queries() for group in re.findall(r"by \(([^)]*)\)", query)
              for name in group.split(", ")}  # fmt: skip
    assert labels - set().union(*FROZEN.values()) == {"alertname"}


def test_every_metric_is_in_the_dashboard_or_in_a_rule() -> None:
    text = " ".join(queries()) + (MONITORING / "kpiflow.rules.yaml").read_text(encoding="utf-8")
    unused = {name for name in FROZEN if name not in text}
    assert unused <= {
        "kpiflow_build_info", "kpiflow_run_age_seconds",
        "kpiflow_stage_latency_seconds_count", "kpiflow_stage_latency_seconds_sum",
    }  # fmt: skip


@needs_promtool
def test_every_query_and_the_configuration_can_be_read(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel{number}", "expr": re.sub(r"\$\w+", "x", query)}
        for number, query in enumerate(queries())
    ]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    for words in (
        ["rules", tmp_path / "rules.yaml"],
        ["config", "--syntax-only", MONITORING / "prometheus.yaml"],
    ):
        done = subprocess.run(["promtool", "check", *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "deploy/flink/kubernetes.yaml").read_text(encoding="utf-8")))


def test_the_stream_on_kubernetes_is_probed_and_scraped_where_it_listens() -> None:
    (pod,) = (each["spec"]["template"] for each in manifests() if each["kind"] == "Deployment")
    (container,) = pod["spec"]["containers"]
    arguments = container["args"]
    (port,) = (each["containerPort"] for each in container["ports"] if each["name"] == "metrics")
    assert arguments[arguments.index("--metrics") + 1] == f"0.0.0.0:{port}"
    assert pod["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true", "prometheus.io/scheme": "https",
        "prometheus.io/port": str(port), "prometheus.io/path": "/metrics",
    }  # fmt: skip
    pages = {
        name: " ".join(container[name]["exec"]["command"]) for name in ("livenessProbe", "readinessProbe")
    }
    assert f"{port} /healthz" in pages["livenessProbe"]
    assert f"{port} /readyz" in pages["readinessProbe"]
    paths = {each["mountPath"] for each in container["volumeMounts"]}
    files = [each["value"] for each in container["env"] if each["name"].startswith("KPIFLOW_METRICS_")]
    assert len(files) == 3
    assert {str(Path(each).parent) for each in files} <= paths
