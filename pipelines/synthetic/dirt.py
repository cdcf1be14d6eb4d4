"""What can be wrong with a report: each kind spoils a good one, and names the reason it must be quarantined for."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

Report = dict[str, Any]
Payload = Report | str
"""A spoiled report: still an object, or a text that only a string can carry."""

_STALE_SECONDS, _FUTURE_SECONDS = 7200, 300
_REQUIRED = (
    "task_id",
    "agent_id",
    "latency_ms",
    "accuracy",
    "cpu_usage",
    "memory_mb",
    "recorded_at",
    "execution_context",
)
_OUT_OF_RANGE = (
    ("latency_ms", 0),
    ("latency_ms", 300_000),
    ("accuracy", 1.0001),
    ("cpu_usage", -0.01),
    ("memory_mb", 1e6),
    ("network_bytes", -1),
    ("gpu_utilization", 1.5),
    ("priority", 60),
)


@dataclass(frozen=True)
class Dirt:
    """One way to be wrong. `spoil(report, number)` gives the payload; the number picks among variants. `shift_seconds` moves
    recorded_at against received_at, which only envelopes have."""

    reason: str
    spoil: Callable[[Report, int], Payload] = lambda report, number: report
    shift_seconds: int = 0


def json_text(report: Report) -> str:
    """The report as JSON without spaces."""
    return orjson.dumps(report).decode()


def respelled(report: str) -> str:
    """The same JSON with its keys in the opposite order, at every depth, and spaces between tokens."""
    return json.dumps(_reversed(json.loads(report)), separators=(" , ", " : "))


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(value)}
    return value


def _token(field: str, token: str) -> Callable[[Report, int], Payload]:
    """The field's value replaced by a token that no JSON library would write."""
    return lambda report, _: json_text({**report, field: None}).replace(
        f'"{field}":null', f'"{field}":{token}', 1
    )


def _set(field: str, value: Any) -> Callable[[Report, int], Payload]:
    return lambda report, _: {**report, field: value}


def _without_one(report: Report, number: int) -> Payload:
    missing = _REQUIRED[number % len(_REQUIRED)]
    return {name: value for name, value in report.items() if name != missing}


def _out_of_range(report: Report, number: int) -> Payload:
    field, value = _OUT_OF_RANGE[number % len(_OUT_OF_RANGE)]
    return {**report, field: value}


def _in_context(field: str, value: Any) -> Callable[[Report, int], Payload]:
    return lambda report, _: {**report, "execution_context": {**report["execution_context"], field: value}}


DIRT: dict[str, Dirt] = {
    "broken_json": Dirt("json", lambda report, number: json_text(report)[: 20 + number % 100]),
    "nan": Dirt("json", _token("accuracy", "NaN")),
    "beyond_double": Dirt("json", _token("latency_ms", "1e400")),
    "array": Dirt("not_object", lambda report, _: f"[{json_text(report)}]"),
    "duplicate_key": Dirt("duplicate_key", lambda report, _: json_text(report)[:-1] + ',"accuracy":0.5}'),
    "deep_nesting": Dirt(
        "depth", lambda report, _: json_text(report)[:-1] + ',"notes":' + "[" * 40 + "]" * 40 + "}"
    ),
    "missing_field": Dirt("schema", _without_one),
    "null_field": Dirt("schema", _set("latency_ms", None)),
    "number_as_string": Dirt("schema", lambda report, _: {**report, "latency_ms": str(report["latency_ms"])}),
    "number_as_boolean": Dirt("schema", _set("accuracy", True)),
    "out_of_range": Dirt("schema", _out_of_range),
    "bad_uuid": Dirt("schema", lambda report, _: {**report, "task_id": report["task_id"][:-1] + "g"}),
    "bad_date_time": Dirt(
        "schema", lambda report, _: {**report, "recorded_at": "2025-13-01" + report["recorded_at"][10:]}
    ),
    "fraction_as_integer": Dirt("schema", _in_context("available_cores", 4.5)),
    "long_hostname": Dirt("schema", _in_context("hostname", "h" * 254)),
    "long_metric_name": Dirt("schema", _set("custom_metrics", {"m" * 101: 1.0})),
    "stale": Dirt("stale", shift_seconds=-_STALE_SECONDS),
    "future": Dirt("future", shift_seconds=_FUTURE_SECONDS),
}
"""Every kind by name, in the order they are dealt out. Where several rules are broken the first of depth, json, duplicate_key,
not_object, schema, stale and future decides."""


def kinds(bare: bool) -> tuple[str, ...]:
    """The kinds that an archive can hold: without received_at nothing is stale or early."""
    return tuple(name for name, dirt in DIRT.items() if not (bare and dirt.shift_seconds))
