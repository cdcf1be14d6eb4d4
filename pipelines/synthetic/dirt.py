"""What can be wrong with a report: each kind spoils a valid one and names the expected quarantine reason."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

Report = dict[str, Any]
Payload = Report | str
"""A spoiled report: still an object, or text that only a JSON string can hold."""

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
    """One way to be wrong.

    `spoil(report, number)` returns the payload; the number selects a variant. `shift_seconds` moves
    recorded_at against received_at, which only envelopes have.
    """

    reason: str
    spoil: Callable[[Report, int], Payload] = lambda report, number: report
    shift_seconds: int = 0


def format_json(report: Report) -> str:
    """The report as JSON without spaces."""
    return orjson.dumps(report).decode()


def respell(report: str) -> str:
    """The same JSON with its keys in the opposite order, at every depth, and spaces between tokens."""
    return json.dumps(_reverse(json.loads(report)), separators=(" , ", " : "))


def _reverse(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reverse(value[key]) for key in reversed(value)}
    return value


def _put_token(field: str, token: str) -> Callable[[Report, int], Payload]:
    """Replace the field's value by a token that no JSON library writes."""
    return lambda report, _: format_json({**report, field: None}).replace(
        f'"{field}":null', f'"{field}":{token}', 1
    )


def _put_value(field: str, value: Any) -> Callable[[Report, int], Payload]:
    return lambda report, _: {**report, field: value}


def _drop_one(report: Report, number: int) -> Payload:
    missing = _REQUIRED[number % len(_REQUIRED)]
    return {name: value for name, value in report.items() if name != missing}


def _exceed_range(report: Report, number: int) -> Payload:
    field, value = _OUT_OF_RANGE[number % len(_OUT_OF_RANGE)]
    return {**report, field: value}


def _put_in_context(field: str, value: Any) -> Callable[[Report, int], Payload]:
    return lambda report, _: {**report, "execution_context": {**report["execution_context"], field: value}}


DIRT: dict[str, Dirt] = {
    "broken_json": Dirt("json", lambda report, number: format_json(report)[: 20 + number % 100]),
    "nan": Dirt("json", _put_token("accuracy", "NaN")),
    "beyond_double": Dirt("json", _put_token("latency_ms", "1e400")),
    "array": Dirt("not_object", lambda report, _: f"[{format_json(report)}]"),
    "duplicate_key": Dirt("duplicate_key", lambda report, _: format_json(report)[:-1] + ',"accuracy":0.5}'),
    "deep_nesting": Dirt(
        "depth", lambda report, _: format_json(report)[:-1] + ',"notes":' + "[" * 40 + "]" * 40 + "}"
    ),
    "missing_field": Dirt("schema", _drop_one),
    "null_field": Dirt("schema", _put_value("latency_ms", None)),
    "number_as_string": Dirt("schema", lambda report, _: {**report, "latency_ms": str(report["latency_ms"])}),
    "number_as_boolean": Dirt("schema", _put_value("accuracy", True)),
    "out_of_range": Dirt("schema", _exceed_range),
    "bad_uuid": Dirt("schema", lambda report, _: {**report, "task_id": report["task_id"][:-1] + "g"}),
    "bad_date_time": Dirt(
        "schema", lambda report, _: {**report, "recorded_at": "2025-13-01" + report["recorded_at"][10:]}
    ),
    "fraction_as_integer": Dirt("schema", _put_in_context("available_cores", 4.5)),
    "long_hostname": Dirt("schema", _put_in_context("hostname", "h" * 254)),
    "long_metric_name": Dirt("schema", _put_value("custom_metrics", {"m" * 101: 1.0})),
    "stale": Dirt("stale", shift_seconds=-_STALE_SECONDS),
    "future": Dirt("future", shift_seconds=_FUTURE_SECONDS),
}
"""Every kind by name, in the order in which they are assigned.

If several rules are broken, the first of depth, json, duplicate_key, not_object, schema, stale and future
decides.
"""


def list_kinds(bare: bool) -> tuple[str, ...]:
    """The kinds that an archive can hold. Without received_at nothing is stale or future."""
    return tuple(name for name, dirt in DIRT.items() if not (bare and dirt.shift_seconds))
