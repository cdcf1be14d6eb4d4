"""What consumers of the live streams learn of a report."""

import json
from datetime import timedelta
from typing import Any

import pyarrow as pa

from schemas.registry import load
from schemas.tables import REPORTS
from tests.builders import NOON, agent, messages, report
from transforms.enrich import EnrichOptions, enrich
from transforms.history.batch_history import apply_history
from transforms.history.blocks import LOOKBACK
from transforms.outliers import flag_outliers
from transforms.sinks.publish import format_outliers, format_reports
from transforms.validation.validate import MessageRules, judge_block


def enriched() -> pa.RecordBatch:
    """Forty ordinary reports, a minute apart, and then one that took too long."""
    documents: list[dict[str, Any]] = [
        report(i, NOON + timedelta(minutes=i), latency_ms=100.0 + i % 5) for i in range(40)
    ]
    documents.append(
        report(40, NOON + timedelta(minutes=40), latency_ms=9000.0, custom_metrics={"queue": 3.0})
    )
    reports, refused = judge_block(messages(documents, None), load("kpi_report"), MessageRules())
    assert not refused.num_rows
    none = pa.Table.from_batches([], LOOKBACK)
    (judged,) = apply_history([reports], none, min_samples=30)[0]
    return enrich(flag_outliers(judged, 3.0, 0.1), EnrichOptions(1000.0, "UTC", 9, 17))


def test_an_entry_is_a_whole_row_of_kpi_reports() -> None:
    rows = enriched()
    entries = list(format_reports(rows))
    assert len(entries) == 41
    last = json.loads(entries[-1]["data"])
    assert set(last) == set(REPORTS.schema.names) == set(rows.schema.names)
    assert (last["report_id"].encode(), last["latency_ms"]) == (entries[-1]["report_id"], 9000.0)
    assert (last["recorded_at"], last["custom_metrics"]) == ("2025-10-22T12:40:00Z", {"queue": 3.0})


def test_an_outlier_event_explains_itself() -> None:
    (entry,) = format_outliers(enriched())
    event = json.loads(entry["data"])
    assert (event["agent_id"], event["metric"], event["value"]) == (agent(), "latency", 9000.0)
    assert event["q1"] <= event["q3"] < event["high_fence"] < event["value"]
    assert event["baseline_n"] == 38
    assert event["baseline_state"] == "ready"
