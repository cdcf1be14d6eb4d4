"""One envelope at a time, for the Polars job: what a column cannot tell is judged here, in plain Python and
by hand."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeGuard

import orjson

DEPTH = 32
CONTEXT = ("hostname", "available_cores", "available_memory_mb", "gpu_info", "network_interfaces")
REPORT = (
    "task_id", "agent_id", "latency_ms", "accuracy", "cpu_usage", "memory_mb", "network_bytes",
    "custom_metrics", "recorded_at",
    "gpu_utilization", "error_details", "source_layer", "target_agent_type", "priority",
)  # fmt: skip
UUID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
TIME = r"\d{4}-\d\d-\d\d[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NAME = re.compile(r'"\s*:')
_DATA = re.compile(r'"data"\s*:\s*')

Row = dict[str, Any]


def judge(line: str) -> tuple[str | None, str, Row]:
    """Why an envelope's report is refused, its text and its row. None: it is not, but how old it is was not
    looked at."""
    envelope = orjson.loads(line)
    data = envelope["data"]
    found = _DATA.search(line)
    payload = data if isinstance(data, str) else line.rstrip()[found.end() if found else 0 : -1]
    known = {"message_id": envelope["message_id"], "received_at": envelope["received_at"]}
    if _depth(payload) > DEPTH:
        return "depth", payload, known
    try:
        report = orjson.loads(payload)
        json.loads(payload, object_pairs_hook=_distinct)
    except KeyError:
        return "duplicate_key", payload, known
    except ValueError:
        return "json", payload, known
    if not isinstance(report, dict):
        return "not_object", payload, known
    return (None, payload, known | _row(report)) if _valid(report) else ("schema", payload, known)


def flat(text: str) -> str | None:
    """The canonical text of an object that holds no other and each name once; None where it is none."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return canonical(document) if len(_NAME.findall(text)) == len(document) else None


def metrics(text: str) -> str | None:
    """The same of a map of numbers with names of at most 100 characters."""
    return flat(text) if _metrics(_loaded(text)) else None


def canonical(value: Any) -> str:
    """The one JSON text of a value."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _loaded(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _depth(text: str) -> int:
    if text.count("{") + text.count("[") <= DEPTH:
        return 0
    deepest = depth = 0
    for mark in _STRINGS.sub("", text):
        depth += (mark in "{[") - (mark in "}]")
        deepest = max(deepest, depth)
    return deepest


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise KeyError
    return found


def _valid(report: Mapping[str, Any]) -> bool:
    context = report.get("execution_context")
    if not isinstance(context, dict):
        return False
    return (
        all(_matches(report.get(name), UUID) for name in ("task_id", "agent_id"))
        and _moment(report.get("recorded_at"))
        and _inside(report.get("latency_ms"), 0, 300_000)
        and _inside(report.get("memory_mb"), 0, 1_000_000)
        and all(_number(report.get(name)) and 0 <= report[name] <= 1 for name in ("accuracy", "cpu_usage"))
        and _optional_valid(report)
        and _context_valid(context)
    )


def _optional_valid(report: Mapping[str, Any]) -> bool:
    moved, gpu, priority, custom = (
        report.get(name) for name in ("network_bytes", "gpu_utilization", "priority", "custom_metrics")
    )
    return (
        (moved is None or (_number(moved) and moved == int(moved) and 0 <= moved < 10**12))
        and (gpu is None or (_number(gpu) and 0 <= gpu <= 1))
        and (priority is None or (_number(priority) and priority in (1, 25, 50, 75, 100)))
        and all(
            report.get(name) is None or _text(report[name], 0, 100)
            for name in ("source_layer", "target_agent_type")
        )
        and (custom is None or _metrics(custom))
    )


def _context_valid(context: Mapping[str, Any]) -> bool:
    cores, memory, gpu, interfaces = map(context.get, CONTEXT[1:])
    return (
        _text(context.get("hostname"), 1, 253)
        and (_number(cores) and cores == int(cores) and 1 <= cores <= 65536)
        and (_number(memory) and 0 < memory <= 10**9)
        and (gpu is None or isinstance(gpu, dict))
        and (
            interfaces is None
            or (isinstance(interfaces, list) and all(isinstance(item, str) for item in interfaces))
        )
    )


def _row(report: Mapping[str, Any]) -> Row:
    row = {name: report.get(name) for name in REPORT} | {
        name: report["execution_context"].get(name) for name in CONTEXT
    }
    opened = {
        name: canonical(row[name])
        for name in ("custom_metrics", "error_details", "gpu_info")
        if row[name] is not None
    }
    return row | opened


def _number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float)


def _inside(value: Any, low: float, high: float) -> bool:
    return _number(value) and low < value < high


def _text(value: Any, low: int, high: int) -> bool:
    return isinstance(value, str) and low <= len(value) <= high


def _matches(value: Any, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _moment(value: Any) -> bool:
    try:
        return _matches(value, TIME) and datetime.fromisoformat(value.upper()) is not None
    except ValueError:
        return False


def _metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(_number(item) and len(name) <= 100 for name, item in value.items())
