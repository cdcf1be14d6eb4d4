"""A stored report as Layer 4 wrote it: the JSON of the export and of the stream.

Names and nesting are those of the schema of reports, with the fields that it does not have. A report that is
read again has the same report_id. Spelling and spaces are not kept.
"""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import orjson
import pyarrow as pa

from schemas.tables import MESSAGE, REPORT

SHOWN = (
    "task_id", "agent_id", "latency_ms", "accuracy", "cpu_usage", "memory_mb", "network_bytes",
    "custom_metrics", "recorded_at", "execution_context",
)  # fmt: skip
"""Fields that every report has in the export; null if it had none."""
_OWN = {name for name, _ in MESSAGE} | {"report_id", "schema_version"}
COLUMNS = tuple(name for name in REPORT.names if name not in _OWN)
"""The columns of a report that came from Layer 4."""
_RAW = ("error_details",)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def list_reports(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows with some of COLUMNS as `format_report` takes them."""
    found = rows.to_pylist()
    if "custom_metrics" in rows.column_names:
        for row in found:
            row["custom_metrics"] = None if row["custom_metrics"] is None else dict(row["custom_metrics"])
    return found


def format_report(row: Mapping[str, Any], withheld: Collection[str] = ()) -> bytes:
    """A row of kpi_reports as Layer 4's JSON, without the columns that are withheld."""
    kept: dict[str, Any] = {name: row.get(name) for name in COLUMNS if name not in withheld}
    extra = kept.pop("extra", None)
    report: dict[str, Any] = {
        name: value for name, value in kept.items() if value is not None or name in SHOWN
    }
    for name in _RAW:
        if name in report:
            report[name] = _embed(report[name])
    context = report.get("execution_context")
    if isinstance(context, Mapping):
        texts = {name: _embed(context[name]) for name in ("gpu_info",) if context.get(name) is not None}
        report["execution_context"] = {**context, **texts}
    if extra is not None:
        _add_extra(report, extra)
    return orjson.dumps(report, option=orjson.OPT_UTC_Z)


def _embed(text: Any) -> Any:
    """A text of JSON as what it says; what is none, and so was not written by kpiflow, as it is."""
    if not isinstance(text, str):
        return text
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return orjson.Fragment(text)


def _add_extra(report: dict[str, Any], extra: Any) -> None:
    """Add the fields that the schema does not have, also those within execution_context, as they were. What
    is no JSON object is left out."""
    for name, raw in _read_members(extra).items():
        inner = report.get(name)
        if isinstance(inner, dict):
            found = _read_members(raw)
            report[name] = inner | {key: orjson.Fragment(bytes(value)) for key, value in found.items()}
        elif name not in report:
            report[name] = orjson.Fragment(bytes(raw))


def _read_members(text: Any) -> dict[str, msgspec.Raw]:
    try:
        return _members.decode(text)
    except (msgspec.MsgspecError, TypeError, UnicodeError):
        return {}
