"""What can be wrong with a record: each kind spoils a valid one and names the expected quarantine reason."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pipelines.synthetic.dirt import Dirt, Payload, Report, format_json

_STALE_SECONDS, _FUTURE_SECONDS = 7200, 300


def _drop(field: str) -> Callable[[Report, int], Payload]:
    return lambda record, _: {name: value for name, value in record.items() if name != field}


def _put(field: str, value: Any) -> Callable[[Report, int], Payload]:
    return lambda record, _: {**record, field: value}


def _put_inside(field: str, inner: str, value: Any) -> Callable[[Report, int], Payload]:
    return lambda record, _: {**record, field: {**record[field], inner: value}}


def _break_uuid(field: str) -> Callable[[Report, int], Payload]:
    return lambda record, _: {**record, field: record[field][:-1] + "g"}


def _break_time(field: str) -> Callable[[Report, int], Payload]:
    return lambda record, _: {**record, field: "2025-13-01" + record[field][10:]}


_schema = partial(Dirt, "schema")
_TEXTUAL = {
    "broken_json": Dirt("json", lambda record, number: format_json(record)[: 10 + number % 40]),
    "array": Dirt("not_object", lambda record, _: f"[{format_json(record)}]"),
    "duplicate_key": Dirt(
        "duplicate_key", lambda record, _: format_json(record)[:-1] + f',"{next(iter(record))}":0}}'
    ),
    "deep_nesting": Dirt(
        "depth", lambda record, _: format_json(record)[:-1] + ',"notes":' + "[" * 40 + "]" * 40 + "}"
    ),
}
_UNTIMELY = {
    "stale": Dirt("stale", shift_seconds=-_STALE_SECONDS),
    "future": Dirt("future", shift_seconds=_FUTURE_SECONDS),
}

DIRT: dict[str, dict[str, Dirt]] = {
    "task": _TEXTUAL
    | {
        "missing_field": _schema(_drop("created_at")),
        "null_field": _schema(_put("source_layer", None)),
        "number_as_string": _schema(_put("priority", "50")),
        "out_of_range": _schema(_put_inside("resource_quota", "max_cpu_cores", 0)),
        "unlisted_priority": _schema(_put("priority", 60)),
        "bad_uuid": _schema(_break_uuid("id")),
        "bad_date_time": _schema(_break_time("created_at")),
        "number_in_metadata": _schema(_put("metadata", {"attempt": 2})),
    },
    "execution_result": _TEXTUAL
    | {
        "missing_field": _schema(_drop("resource_usage")),
        "null_field": _schema(_put("success", None)),
        "number_as_boolean": _schema(_put("execution_time_ms", True)),
        "out_of_range": _schema(_put_inside("resource_usage", "cpu_seconds", -1)),
        "bad_uuid": _schema(_break_uuid("task_id")),
        "bad_date_time": _schema(_break_time("completed_at")),
    }
    | _UNTIMELY,
    "agent": _TEXTUAL
    | {
        "missing_field": _schema(_drop("state")),
        "null_field": _schema(_put("agent_type", None)),
        "text_as_list": _schema(_put("capabilities", "json")),
        "bad_uuid": _schema(_break_uuid("id")),
        "bad_base64": _schema(_put("wasm_binary", "~~~~")),
    },
    "system_health": _TEXTUAL
    | {
        "missing_field": _schema(_drop("status")),
        "null_field": _schema(_put("uptime_seconds", None)),
        "out_of_range": _schema(_put("active_agents", -1)),
        "text_in_numbers": _schema(_put("resource_utilization", {"cpu": "high"})),
    }
    | _UNTIMELY,
}
"""By schema, every kind by name, in the order in which they are assigned."""

TIME_FIELDS = {"execution_result": "completed_at", "system_health": "recorded_at"}
"""The field that decides whether a record is stale or in the future."""
