"""Write the dashboard for Grafana.

python deploy/monitoring/make_dashboard.py > deploy/monitoring/dashboard.json
"""

import json
from typing import Any, NamedTuple

_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 3


class Panel(NamedTuple):
    """A panel: its title, its queries with their legends, and the unit of their values."""

    title: str
    queries: dict[str, str]
    unit: str = "short"


_OF = 'job="$job",instance=~"$instance"'
PANELS = (
    Panel("Arriving and read, a second", {
        f"sum by (source) (rate(kpiflow_messages_arrived_total{{{_OF}}}[1m]))": "arrived {{source}}",
        f"sum by (source) (rate(kpiflow_messages_read_total{{{_OF}}}[1m]))": "read {{source}}",
    }),
    Panel("Waiting to be read", {f"sum by (source) (kpiflow_lag_entries{{{_OF}}})": "{{source}}"}),
    Panel("Valid messages", {f"kpi_data_quality_score{{{_OF}}}": "valid"}, "percentunit"),
    Panel("Outcomes, a second", {
        f"sum by (outcome) (rate(kpiflow_outcomes_total{{{_OF}}}[1m]))": "{{outcome}}",
    }),
    Panel("Rejected by reason, a second", {
        f'sum by (reason) (rate(kpiflow_outcomes_total{{outcome="quarantined",{_OF}}}[5m]))': "{{reason}}",
    }),
    Panel("Lost before they were read, or of expired days", {
        f"kpiflow_trimmed_total{{{_OF}}}": "lost",
        f"sum by (kind) (kpiflow_expired_total{{{_OF}}})": "expired {{kind}}",
    }),
    Panel("Latency, 99 %", {f"kpi_processing_latency{{{_OF}}}": "{{stage}}"}, "s"),
    Panel("Delay of outputs and watermark", {
        f"kpiflow_sink_delay_seconds{{{_OF}}}": "{{sink}}",
        f"kpiflow_watermark_delay_seconds{{{_OF}}}": "watermark",
    }, "s"),
    Panel("Outputs that cannot be written", {f"kpiflow_sink_waiting_seconds{{{_OF}}}": "{{sink}}"}, "s"),
    Panel("Ready", {
        f"kpiflow_ready{{{_OF}}}": "ready",
        f"kpiflow_running{{{_OF}}}": "running",
        f"kpiflow_source_up{{{_OF}}}": "source",
    }),
    Panel("Restarts and renewals", {
        f"kpiflow_restarts_total{{{_OF}}}": "restarts",
        f"kpiflow_renewals_total{{{_OF}}}": "renewals",
        f"kpiflow_starts_total{{{_OF}}}": "starts",
    }),
    Panel("Failed uses", {
        f"sum by (peer) (rate(kpiflow_errors_total{{{_OF}}}[5m]))"
        f" / sum by (peer) (rate(kpiflow_attempts_total{{{_OF}}}[5m]))": "{{peer}}",
    }, "percentunit"),
    Panel("Checkpoints: age", {f"kpiflow_checkpoint_age_seconds{{{_OF}}}": "age"}, "s"),
    Panel("Checkpoints: size", {f"kpiflow_checkpoint_bytes{{{_OF}}}": "size"}, "bytes"),
    Panel("Uptime of a day", {f"kpi_integration_uptime{{{_OF}}}": "ready"}, "percentunit"),
    Panel("Memory", {
        f"sum by (role) (kpiflow_memory_bytes{{{_OF}}})": "{{role}}",
        f"kpiflow_memory_limit_bytes{{{_OF}}}": "limit",
    }, "bytes"),
    Panel("CPU, cores", {
        f"sum by (role) (rate(kpiflow_cpu_seconds_total{{{_OF}}}[1m]))": "{{role}}",
        f"kpiflow_cpu_limit_cores{{{_OF}}}": "limit",
    }),
    Panel("Quality scores", {f"kpiflow_quality_score{{{_OF}}}": "{{source}} {{score}}"}, "percentunit"),
    Panel("Rows analysed, a minute", {f"pattern_analysis_throughput{{{_OF}}}": "rows"}),
    Panel("From arrival to recommendation", {f"optimization_decision_latency{{{_OF}}}": "wait"}, "s"),
    Panel("Alerts", {'sum by (alertname) (ALERTS{alertstate="firing",alertname=~"Kpi.*"})': "{{alertname}}"}),
)  # fmt: skip


def make_dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "uid": "kpiflow",
        "title": "kpiflow: a stream",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "10s",
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                _make_variable("job", "label_values(kpiflow_running, job)", source),
                _make_variable("instance", 'label_values(kpiflow_running{job="$job"}, instance)', source),
            ]
        },
        "panels": [_make_panel(number, panel, source) for number, panel in enumerate(PANELS)],
    }


def _make_variable(name: str, query: str, source: dict[str, str]) -> dict[str, Any]:
    many = name == "instance"
    return {
        "name": name, "type": "query", "query": query, "datasource": source, "refresh": 2,
        "includeAll": many, "multi": many,
    }  # fmt: skip


def _make_panel(number: int, panel: Panel, source: dict[str, str]) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    targets = [
        {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend, "datasource": source}
        for place, (query, legend) in enumerate(panel.queries.items())
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


if __name__ == "__main__":
    print(json.dumps(make_dashboard(), indent=1))
