"""A small output to ask: reports of 12 hours with ties in time, windows, features, quality, quarantine."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from pipelines.queries.limits import QueryLimits
from pipelines.queries.registry import QUERIES
from pipelines.queries.run import Answer, run_query
from pipelines.settings import Settings
from schemas.tables import AGGREGATIONS, FLEET, LAYOUT_VERSION, QUARANTINED, REPORTS
from tests.pipelines.summary.test_queries import store
from transforms.core.time_range import Span
from transforms.derived.data_quality import COUNTS
from transforms.derived.data_quality import TABLE as QUALITY
from transforms.derived.features import FEATURES
from transforms.derived.recommendations import RECOMMENDATIONS
from transforms.derived.trends import TRENDS
from transforms.sinks.parquet.mark_files import add_mark

START = datetime(2025, 10, 20, 20, tzinfo=UTC)
HOURS = 12
FILE_MINUTES = 10
EVER = Span()
NO_COUNTS = dict.fromkeys(COUNTS, 0)
TYPES = ("gpu", "cpu")
AGENTS = tuple(f"agent {number}" for number in range(5))


def make_output(folder: Path) -> Path:
    """Write the output: 900 reports, two with each recorded_at; a task has three."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings().row_settings() | {"file_minutes": FILE_MINUTES}
    description = {"layout": LAYOUT_VERSION, "schemas": {}, "settings": settings}
    (folder / "_kpiflow.json").write_text(json.dumps(description))
    chance = Random(7)
    reports = [make_report(number, chance) for number in range(900)]
    store(folder, REPORTS, reports)
    names = ("report_id", "task_id", "agent_id", "recorded_at")
    features = [{name: each[name] for name in names} | name_variant(each["task_id"]) for each in reports]
    store(folder, FEATURES, features)
    starts = [START + timedelta(minutes=30 * number) for number in range(2 * HOURS)]
    store(folder, AGGREGATIONS, [window for start in starts for window in make_windows(start)])
    store(folder, FLEET, [each for start in starts for each in make_fleet_windows(start)])
    quality = [
        {"granularity": size, "source": source, "time_window_start": start, "verdict": "met", **NO_COUNTS}
        for size in ("1m", "1h")
        for source in ("a", "b")
        for start in (None, *starts[::2])
    ]
    store(folder, QUALITY.table, quality)
    trends = [
        {"kind": kind, "level": level, "agent_id": agent, "target_agent_type": type_, "metric": "latency_ms",
         "time_window_start": START + timedelta(minutes=10 * number), "verdict": "steady"}
        for number in range(6 * HOURS)
        for kind, level, agent, type_ in (
            ("slope", "agent", AGENTS[0], None), ("change", "fleet", None, None),
            ("change", "agent_type", None, "gpu"),
        )
    ]  # fmt: skip
    store(folder, TRENDS, trends)
    decided = [START + timedelta(minutes=10 * number) for number in range(6 * HOURS)]
    store(folder, RECOMMENDATIONS, [make_recommendation(number, at) for number, at in enumerate(decided)])
    store(folder, QUARANTINED, [make_rejected(number) for number in range(60)])
    for number in range(0, 900, 100):
        for column, verdict in (("latency_ms", "false"), ("accuracy", "false"), ("latency_ms", "verified")):
            add_mark(folder, make_mark(reports[number], column, verdict), START)
    return folder


def make_mark(report: dict[str, Any], column: str, verdict: str, note: str | None = None) -> dict[str, Any]:
    """A mark of a value of a report."""
    known = {name: report[name] for name in ("report_id", "agent_id", "task_id", "recorded_at")}
    said = {"column": column, "verdict": verdict, "note": note, "marked_by": "local"}
    return {**known, **said, "value": report[column]}


def name_variant(task: str) -> dict[str, str | None]:
    """The experiment of every second task, in which every third one has no variant."""
    number = int(task.rpartition(" ")[2])
    variants = ("control", "treatment", None)
    return {"experiment": "routing", "variant": variants[number % 3]} if number % 2 else {}


def make_report(number: int, chance: Random) -> dict[str, Any]:
    at = START + timedelta(minutes=HOURS * 60 * (number // 2) / 450)
    return {
        "report_id": f"{number * 7919 % 900:032x}",
        "task_id": f"task {number // 3}",
        "agent_id": chance.choice(AGENTS),
        "target_agent_type": chance.choice(TYPES),
        "recorded_at": at,
        "received_at": at,
        "latency_ms": float(chance.randrange(100, 120)) + (500 if number % 50 == 0 else 0),
        "accuracy": chance.randrange(80, 99) / 100,
        "is_latency_outlier": number % 50 == 0,
        "is_accuracy_outlier": number % 100 == 0,
        "custom_metrics": {"tokens": 1.5},
        "error_details": "=1+1" if number % 2 else None,
        "network_bytes": -number,
        "revision": 1,
        "baseline_n": 60,
        "latency_high_fence": 150.0,
    }


def make_windows(start: datetime) -> list[dict[str, Any]]:
    sizes = ("5s", "1m") if start.minute else ("5s", "1m", "1h")
    return [
        {"granularity": size, "time_window_start": start, "agent_id": agent, "task_count": 3}
        for size in sizes
        for agent in AGENTS[:2]
    ]


def make_fleet_windows(start: datetime) -> list[dict[str, Any]]:
    """Windows of both types with 9 to 12 tasks; the first have one."""
    sizes = ("5s", "1m") if start.minute else ("5s", "1m", "1h")
    return [
        {
            "granularity": size,
            "time_window_start": start,
            "target_agent_type": type_,
            "task_count": 1 if start == START else 9 + start.hour % 3 + TYPES.index(type_),
            "avg_latency_ms": 100.0 + 50 * TYPES.index(type_),
        }
        for size in sizes
        for type_ in TYPES
    ]


def make_recommendation(number: int, at: datetime) -> dict[str, Any]:
    ended = number % 3 == 2
    return {
        "decided_at": at,
        "rule": ("raise_memory_quota", "fix_producer")[number % 2],
        "subject": f"subject {number % 4}",
        "state": "ended" if ended else "new",
        "evidence": "{}",
        "expires_at": None if ended else at + timedelta(hours=1),
    }


def make_rejected(number: int) -> dict[str, Any]:
    return {
        "source": "s",
        "message_id": f"m{number}",
        "received_at": None if number % 7 == 0 else START + timedelta(minutes=20 * (number // 2)),
        "reason": ("schema", "stale")[number % 2],
        "kind": None if number % 3 else "task",
        "payload": b"{}",
        "resolution": "replayed" if number % 5 == 0 else None,
    }


def ask(
    folder: Path,
    name: str,
    limit: int = 10_000,
    cursor: str | None = None,
    span: Span = EVER,
    **parameters: str,
) -> Answer:
    """The answer of a query."""
    query = QUERIES[name]
    return run_query(
        folder, query, query.parse(parameters), span, FILE_MINUTES, QueryLimits(rows=limit), cursor
    )


def read_pages(folder: Path, name: str, limit: int, **options: Any) -> pa.Table:
    """All pages of a query as one table."""
    answer = ask(folder, name, limit, **options)
    pages = [answer.rows]
    while answer.cursor:
        answer = ask(folder, name, limit, answer.cursor, **options)
        pages.append(answer.rows)
    return pa.concat_tables(pages)
