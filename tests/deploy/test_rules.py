"""The rules for Prometheus: each alert fires when it should, alone, and is silent otherwise."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.render import TEMPLATE, render
from tests.pipelines.metrics.test_exposition import FROZEN
from tests.pipelines.relay.test_shown import NAMES
from tests.pipelines.service.test_access import METRICS

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "monitoring" / "kpiflow.rules.yaml"
PAGE = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
JOB = 'job="kpiflow",instance="a"'
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")

Series = dict[str, str]


def of(name: str, labels: str = "") -> str:
    """A series of the job."""
    return f"kpiflow_{name}{{{JOB}{labels and ',' + labels}}}"


def flat(value: float, minutes: int) -> str:
    return f"{value}x{minutes}"


def rate(each: float, minutes: int) -> str:
    """A counter that grows by so much a minute."""
    return f"0+{each}x{minutes}"


def then(each: float, first: int, later: float, minutes: int) -> str:
    """A counter that grows by `each` for the first minutes and by `later` from then on."""
    return f"0+{each}x{first} {each * first + later}+{later}x{minutes}"


ARRIVED, READ = of("messages_arrived_total", 'source="s"'), of("messages_read_total", 'source="s"')
REPORTS = of("outcomes_total", 'outcome="report",reason=""')
BAD = of("outcomes_total", 'outcome="quarantined",reason="json"')
REDIS, REDIS_ERRORS = of("attempts_total", 'peer="redis"'), of("errors_total", 'peer="redis"')
OUT, OUT_ERRORS = of("attempts_total", 'peer="out"'), of("errors_total", 'peer="out"')
TASKS, FAILED, HEALTH = (
    f"layer4_{name}" for name in ("tasks_processed_total", "tasks_failed_total", "health_status")
)


ACTIVE, AGE, LOST, LATE, CERTIFICATE = (
    f'kpiflow_relay_{name}{{job="relay",instance="r"}}'
    for name in ("active", "export_age_seconds", "lost_total", "archived_total", "certificate_seconds")
)
WAITING, WAITING_AGE = (each.replace('"r"', '"w"') for each in (ACTIVE, AGE))
TIMELINESS = 'source="s",score="timeliness"'
SCORE = of("quality_score", TIMELINESS)


WRITTEN, ROLES = of("service_audit_written"), of("service_roles_used")
REFUSED = of("service_refusals_total", 'status="403"')
ROWS = of("service_rows_total", 'role="kpi-consumer",action="export"')
SERVER = of("service_certificate_seconds", 'certificate="server"')


def bucket(stage: str, le: str) -> str:
    return of("stage_latency_seconds_bucket", f'stage="{stage}",le="{le}"')


def healthy(minutes: int) -> Series:
    """1,000 messages a minute, 1 % of them invalid, and all is well."""
    return {
        f"up{{{JOB}}}": flat(1, minutes),
        of("running"): flat(1, minutes),
        of("ready"): flat(1, minutes),
        of("source_up"): flat(1, minutes),
        ARRIVED: rate(1000, minutes),
        READ: rate(1000, minutes),
        REPORTS: rate(990, minutes),
        BAD: rate(10, minutes),
        of("trimmed_total"): flat(0, minutes),
        of("lag_entries", 'source="s"'): flat(5, minutes),
        of("checkpoint_age_seconds"): flat(5, minutes),
        of("checkpoint_interval_seconds"): flat(10, minutes),
        of("renewal_age_seconds"): flat(1700, minutes),
        of("renewal_interval_seconds"): flat(1800, minutes),
        of("restarts_total"): flat(1, minutes),
        of("sink_waiting_seconds", 'sink="out"'): flat(0, minutes),
        REDIS: rate(600, minutes),
        REDIS_ERRORS: rate(1, minutes),
        OUT: rate(12, minutes),
        OUT_ERRORS: flat(0, minutes),
        bucket("validated", "0.1"): rate(990, minutes),
        bucket("validated", "1.0"): rate(1000, minutes),
        bucket("validated", "2.5"): rate(1000, minutes),
        bucket("validated", "+Inf"): rate(1000, minutes),
        bucket("written", "15.0"): rate(1000, minutes),
        bucket("written", "30.0"): rate(1000, minutes),
        bucket("written", "+Inf"): rate(1000, minutes),
        of("memory_bytes", 'role="worker"'): flat(1e9, minutes),
        of("memory_limit_bytes"): flat(8e9, minutes),
        of("cpu_seconds_total", 'role="worker"'): rate(60, minutes),
        of("cpu_limit_cores"): flat(2, minutes),
        SCORE: flat(0.995, minutes),
        of("quality_threshold", TIMELINESS): flat(0.99, minutes),
        of("quality_messages", TIMELINESS): flat(15000, minutes),
        of("quality_age_seconds", 'source="s"'): flat(90, minutes),
        TASKS: rate(1000, minutes),
        FAILED: rate(10, minutes),
        HEALTH: flat(1, minutes),
        ACTIVE: flat(1, minutes),
        WAITING: flat(0, minutes),
        AGE: flat(3, minutes),
        LOST: flat(0, minutes),
        LATE: flat(7, minutes),
        CERTIFICATE: flat(2e6, minutes),
        WRITTEN: flat(1, minutes),
        ROLES: flat(1, minutes),
        REFUSED: rate(5, minutes),
        ROWS: rate(1000, minutes),
        SERVER: flat(2e6, minutes),
    }


HOUR = 60
DAY = 1500
BROKEN = {OUT_ERRORS: then(0, 50, 12, 30)}

FIRES: dict[str, tuple[int, Series]] = {
    "KpiNoData": (60, {ARRIVED: then(1000, 50, 0, 30), READ: then(1000, 50, 0, 30)}),
    "KpiReaderStopped": (60, {READ: then(1000, 50, 0, 30)}),
    "KpiTargetDown": (60, {of("running"): "1x50 0x30"}),
    "KpiRestartLoop": (60, {of("restarts_total"): "1x50 1+1x30"}),
    "KpiQualityDegraded": (70, {BAD: then(10, 40, 100, 60), REPORTS: then(990, 40, 900, 60)}),
    "KpiBacklog": (60, {of("lag_entries", 'source="s"'): "5x50 10001x30"}),
    "KpiIntegrationFailure": (60, {REDIS_ERRORS: then(1, 50, 7, 30)}),
    "KpiMessagesLost": (60, {of("trimmed_total"): then(0, 58, 0.01, 30)}),
    "KpiInvalidMessages": (60, {BAD: then(10, 50, 60, 30), REPORTS: then(990, 50, 940, 30)}),
    "KpiQualityScoreLow": (60, {SCORE: "0.99x50 0.97x30"}),
    "KpiLatencyHigh": (
        70,
        {bucket("validated", "1.0"): then(1000, 50, 980, 40), bucket("validated", "0.1"): rate(980, 90)},
    ),
    "KpiResourcesScarce": (60, {of("memory_bytes", 'role="worker"'): "1e9x50 6.5e9x30"}),
    "KpiVolumeSpike": (DAY, {ARRIVED: then(1000, 1440, 1800, 90), READ: then(1000, 1440, 1800, 90)}),
    "KpiCheckpointMissed": (60, {of("checkpoint_age_seconds"): "5x50 95x30"}),
    "KpiRenewalMissed": (60, {of("renewal_age_seconds"): "1700x50 2800x30"}),
    "KpiUpstreamLoss": (90, {TASKS: rate(1003, 120)}),
    "KpiLayer4TasksFail": (60, {FAILED: then(10, 30, 80, 60)}),
    "KpiLayer4Unhealthy": (60, {HEALTH: "1x50 0x30"}),
    "KpiRelayInactive": (60, {ACTIVE: "1x50 _x30"}),
    "KpiRelayExportUnread": (60, {AGE: "3x50 60+60x30"}),
    "KpiRelayLost": (60, {LOST: then(0, 58, 1, 30)}),
    "KpiRelayLate": (60, {LATE: then(0, 50, 3, 30)}),
    "KpiKeysOverdue": (130, {of("key_age_seconds", 'sink="out"'): "8.206e6+60x200"}),
    "KpiRelayCertificateExpires": (60, {CERTIFICATE: "6.1e5x50 6e5x30"}),
    "KpiAuditUnavailable": (60, {WRITTEN: "1x50 0x30"}),
    "KpiAccessRefused": (60, {REFUSED: then(5, 50, 15, 30)}),
    "KpiAccessVolume": (110, {ROWS: then(1000, 50, 30_000, 80)}),
    "KpiServiceFilesNotUsed": (60, {ROLES: "1x50 0x30"}),
    "KpiServiceCertificateExpires": (60, {SERVER: "1.3e6x50 1.2e6x30"}),
    "KpiUptimeBudgetBurns": (90, {of("ready"): "1x80 0x30"}),
    "KpiLossBudgetBurns": (90, {of("trimmed_total"): "0x60 200x40"}),
}
"""What makes each alert fire, and when it does, in minutes."""

SILENT: dict[str, tuple[int, Series]] = {
    "all is well": (90, {}),
    "Layer 4 rests": (60, {each: then(1000, 50, 0, 30) for each in (ARRIVED, READ, TASKS)}),
    "a short pause": (55, {ARRIVED: then(1000, 52, 0, 30), READ: then(1000, 52, 0, 30)}),
    "a renewal, during which nothing is ready": (60, {of("ready"): "1x58 0x1 1x60"}),
    "some restarts": (60, {of("restarts_total"): "1x50 4x60"}),
    "few messages, all of them invalid": (
        60,
        {BAD: then(10, 10, 1, 80), REPORTS: then(990, 10, 0, 80)} | {
            each: then(1000, 10, 1, 80) for each in (ARRIVED, READ, TASKS)},
    ),
    "a burst that is read at once": (60, {of("lag_entries", 'source="s"'): "5x58 20000x1 5x60"}),
    "a low score of few messages": (
        60, {SCORE: "0.5x90", of("quality_messages", TIMELINESS): flat(900, 90)},
    ),
    "a low score of the past": (
        60, {SCORE: "0.5x90", of("quality_age_seconds", 'source="s"'): flat(1000, 90)},
    ),
    "few errors": (60, {REDIS_ERRORS: then(1, 50, 5, 30)}),
    "an output that writes nothing": (60, {OUT: then(12, 30, 0, 60)}),
    "slow rows for a while": (53, {bucket("validated", "1.0"): then(1000, 50, 980, 40)}),
    "another relay takes over": (60, {ACTIVE: "1x50 0x30", WAITING: "0x51 1x30", WAITING_AGE: flat(3, 90)}),
    "no relay, and none before": (60, dict.fromkeys((ACTIVE, WAITING, AGE, LOST, LATE, CERTIFICATE), "_x90")),
    "an export that is away for a while": (54, {AGE: "3x50 60+60x30"}),
    "an age that a relay had before it waited": (60, {WAITING_AGE: "3+60x90"}),
    "reports that were archived once": (60, {LATE: "7x30 9x60"}),
    "as much as is usual": (DAY, {}),
    "much that is read every day": (DAY, {ROWS: rate(30_000, DAY + 10)}),
    "a few requests that are refused": (60, {REFUSED: then(5, 50, 9, 30)}),
    "more than is usual, on the first day": (60, {each: then(1000, 40, 3000, 40) for each in (ARRIVED, READ)}
     | {TASKS: then(1000, 40, 3000, 40)}),
}  # fmt: skip
"""What must make no alert fire."""

ONE_CAUSE: dict[str, tuple[int, Series]] = {
    "Redis is killed": (
        60,
        {
            ARRIVED: "0+1000x50", READ: then(1000, 50, 0, 30), REDIS: then(600, 50, 30, 30),
            REDIS_ERRORS: then(1, 50, 30, 30), of("source_up"): "1x50 0x30",
            of("restarts_total"): "1x50 1+1x30", of("checkpoint_age_seconds"): "5x50 60+60x30",
        },
    ),
    "an output is lost": (
        60,
        {
            READ: then(1000, 51, 0, 30), OUT: then(12, 50, 6, 30), OUT_ERRORS: then(0, 50, 6, 30),
            of("sink_waiting_seconds", 'sink="out"'): "0x50 60+60x30",
            of("checkpoint_age_seconds"): "5x50 60+60x30",
        },
    ),
}  # fmt: skip
"""Faults that stop everything: what cannot be used has an alert, and what follows from it has none."""


def make_test(name: str, minutes: int, changed: Series, alerts: set[str]) -> dict[str, Any]:
    """A test of promtool: exactly these alerts fire at that minute."""
    series = healthy(minutes + 10) | changed
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (count by (alertname, instance) (ALERTS{alertstate="firing"}))',
                "eval_time": f"{minutes}m",
                "exp_samples": [
                    {"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)
                ],
            }
        ],
    }


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


@needs_promtool
def test_each_alert_fires_alone_and_is_silent_otherwise(tmp_path: Path) -> None:
    check(tmp_path, "1m", [case for case in list_cases() if case[1] < DAY])
    check(tmp_path, "10m", [case for case in list_cases() if case[1] >= DAY])


def list_cases() -> list[tuple[str, int, Series, set[str]]]:
    """All cases, with the alerts that fire."""
    return [
        *((alert, *case, {alert}) for alert, case in FIRES.items()),
        *((name, *case, set()) for name, case in SILENT.items()),
        *((name, *case, {"KpiIntegrationFailure"}) for name, case in ONE_CAUSE.items()),
    ]


def check(folder: Path, interval: str, cases: list[tuple[str, int, Series, set[str]]]) -> None:
    """Let promtool run the cases, with the rules evaluated at an interval."""
    tests = [make_test(*case) for case in cases]
    shutil.copy(RULES, folder)
    file = folder / "tests.yaml"
    content = {"rule_files": [RULES.name], "evaluation_interval": interval, "tests": tests}
    file.write_text(json.dumps(content))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case() -> None:
    assert set(FIRES) == set(alerts())


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_says_what_it_means_and_what_to_do(alert: str) -> None:
    rule = alerts()[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/monitoring.md#{alert.lower()}"
    assert re.search(rf"^### {alert}$", PAGE, flags=re.MULTILINE)
    assert "for" in rule or alert in ("KpiIntegrationFailure", "KpiMessagesLost", "KpiRelayLost")


def test_no_runbook_is_of_an_alert_that_is_gone() -> None:
    assert set(re.findall(r"^### (Kpi\w+)$", PAGE, flags=re.MULTILINE)) == set(alerts())


def test_the_rules_are_the_template_with_minutes_of_60_seconds() -> None:
    assert RULES.read_text(encoding="utf-8") == render(TEMPLATE.read_text(encoding="utf-8"))


@needs_promtool
def test_the_alerts_of_the_relay_fire_when_each_of_its_causes_is_real(tmp_path: Path) -> None:
    cases = {
        "all relays wait": ("KpiRelayInactive", {ACTIVE: "1x50 0x30"}),
        "the export was never read": ("KpiRelayExportUnread", {AGE: "_x90"}),
    }
    check(tmp_path, "1m", [(name, 60, series, {alert}) for name, (alert, series) in cases.items()])


def test_one_parameter_changes_every_duration() -> None:
    text = render(TEMPLATE.read_text(encoding="utf-8"), 2.0)
    durations = re.findall(r"\[(\w+)\]|for: (\w+)|offset (\w+)", text)
    assert len(durations) > 40
    assert {each for found in durations for each in found if each and not each.endswith("ms")} == set()
    assert "kpiflow_sink_waiting_seconds > 2)" in text


@needs_promtool
def test_a_case_that_does_not_hold_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="KpiBacklog"):
        check(tmp_path, "1m", [("none", *FIRES["KpiBacklog"], set())])


def test_rules_ask_for_metrics_that_exist() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    named = {name for rule in rules for name in re.findall(r"\bkpiflow[_:][\w:]+", rule["expr"])}
    assert named - set(FROZEN) - set(NAMES) - METRICS - recorded == set()
