"""The table data_quality, message by message, as docs/columns.md defines it."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.transforms.derived.oracle.inconsistencies import derive_inconsistencies
from tests.transforms.derived.oracle.rows import HOUR, MINUTE, SECOND, Row, Settings, Tables

UNREADABLE = {"oversize", "envelope", "depth", "utf8", "json", "duplicate_key", "not_object", "error"}
COUNTS = ("received", "incomplete", "checked", "inaccurate", "timed", "timely", "related", "consistent")
SCORES = ("completeness", "accuracy", "timeliness", "consistency")
METRICS = ("latency", "accuracy", "cpu", "memory")
GRANULARITIES = {"1m": MINUTE, "1h": HOUR}


def derive_data_quality(tables: Tables, settings: Settings) -> list[Row]:
    """One row for each granularity, source and window in which a message came."""
    messages: dict[tuple[str, str], tuple[Row, Counter[str]]] = {}
    for row, counts in count_messages(tables, settings):
        messages.setdefault((row["source"], row["message_id"]), (row, counts))
    windows: dict[tuple[str, str, int | None], Counter[str]] = defaultdict(Counter)
    for row, counts in messages.values():
        if row["received_at"] is None:
            windows["1h", row["source"], None] += counts
            continue
        for granularity, length in GRANULARITIES.items():
            windows[granularity, row["source"], row["received_at"] // length * length] += counts
    return [make_row(key, counts, settings) for key, counts in windows.items()]


def count_messages(tables: Tables, settings: Settings) -> Iterator[tuple[Row, Counter[str]]]:
    """Each row of a message and what it adds to the counts, in the order of the table of docs/columns.md."""
    for row in tables["quarantine"]:
        yield row, Counter(received=1, **count_quarantined(row))
    for row in tables["duplicates"]:
        yield row, Counter(received=1)
    inconsistencies = derive_inconsistencies(tables, settings)
    wrong = {row["report_id"] for row in inconsistencies if row["severity"] == "error"}
    for row in tables["kpi_reports"]:
        is_consistent = row["report_id"] not in wrong
        yield row, Counter(received=1, consistent=int(is_consistent), **count_report(row, settings))
    limit = settings["context_hours"] * HOUR
    for name, time in (("tasks", "created_at"), ("results", "completed_at")):
        for row in tables[name]:
            if row["received_at"] is None or abs(row["received_at"] - row[time]) <= limit:
                yield row, Counter(received=1, checked=1)
    for row in (*tables["agents"], *tables["system_health"]):
        yield row, Counter(received=1, checked=1)


def count_quarantined(row: Row) -> dict[str, int]:
    reason = row["reason"]
    if reason in UNREADABLE:
        return {"incomplete": 1}
    if reason == "schema":
        is_missing = row["rule"] == "required"
        if row["rule"] == "type" and row["message"].startswith("None is not of type"):
            is_missing = True
        return {"incomplete": 1} if is_missing else {"checked": 1, "inaccurate": 1}
    if reason in ("stale", "future"):
        is_report = row["kind"] in (None, "kpi_report")
        return {"checked": 1, "timed": int(is_report)}
    return {}


def count_report(row: Row, settings: Settings) -> dict[str, int]:
    counts = {"checked": 1, "related": 1}
    counts["inaccurate"] = int(any(row[f"is_{metric}_outlier"] for metric in METRICS))
    if row["received_at"] is not None:
        counts["timed"] = 1
        delay = row["received_at"] - row["recorded_at"]
        counts["timely"] = int(delay <= settings["timely_seconds"] * SECOND)
    return counts


def make_row(key: tuple[str, str, int | None], counts: Counter[str], settings: Settings) -> Row:
    granularity, source, start = key
    n = {name: counts[name] for name in COUNTS}
    scores = {
        "completeness": divide(n["received"] - n["incomplete"], n["received"]),
        "accuracy": divide(n["checked"] - n["inaccurate"], n["checked"]),
        "timeliness": divide(n["timely"], n["timed"]),
        "consistency": divide(n["consistent"], n["related"]),
    }
    thresholds = {name: settings[f"{name}_threshold"] for name in SCORES}
    is_met = all(scores[name] is None or scores[name] >= thresholds[name] for name in SCORES)
    return {
        "granularity": granularity,
        "source": source,
        "time_window_start": start,
        "time_window_end": None if start is None else start + GRANULARITIES[granularity],
        **n,
        **scores,
        **{f"{name}_threshold": threshold for name, threshold in thresholds.items()},
        "verdict": "met" if is_met else "missed",
    }


def divide(part: int, whole: int) -> float | None:
    return part / whole if whole else None
