"""A generated archive has exactly the inconsistencies that its truth names; the late ones are resolved."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.pipelines.synthetic.test_generated import generated, moment
from tests.pipelines.synthetic.test_records import list_distinct, list_said, read
from tests.transforms.derived.contexts import Row, derive, store
from transforms.derived import inconsistencies, resolutions

LATE = {"task_late": "task_unknown", "agent_late": "agent_unknown", "quota_raised_late": "cpu_over_quota"}
OPTIONS = ["--reports", "1200", "--agents", "9", "--span", "6h", "--outliers", "0", "--inconsistent", "0.3"]


def store_messages(folder: Path) -> dict[str, pa.Table]:
    """The stored tables of an archive; a report's id is that of its message."""
    rows: dict[str, list[Row]] = {
        schema: [] for schema in ("kpi_report", "task", "execution_result", "agent")
    }
    for place, each in enumerate(list_distinct(read(folder))):
        if each.schema not in rows:
            continue
        quota = each.content.get("resource_quota") or {}
        row = each.content | quota | {"received_at": each.received, "effective_at": each.received}
        row |= {
            name: moment(row[name]) for name in ("recorded_at", "created_at", "completed_at") if name in row
        }
        row["error_details"] = None if row.get("error_details") is None else "{}"
        name = "agent_id" if each.schema == "agent" else "task_id"
        row |= {"version": f"{place:032}", "report_id": each.message_id, name: row.get(name, row.get("id"))}
        row |= {"custom_metrics": None, "metadata": None, "stats": None, "payload": None, "output": None}
        row |= {
            "execution_context": {"available_cores": row.get("execution_context", {}).get("available_cores")}
        }
        rows[each.schema].append(row | {"deadline": None})
    return store(*rows.values())


def test_the_rules_find_what_the_truth_names_and_late_records_resolve_theirs(tmp_path: Path) -> None:
    truth: dict[str, Any] = generated(tmp_path, "--records", *OPTIONS)
    stored, table = store_messages(tmp_path), inconsistencies.TABLE.table
    rows = [row for row in derive(inconsistencies.TABLE, stored) if not row["rule"].endswith("_distribution")]
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["rule"], set()).add(row["report_id"])
    assert found == list_said(truth)
    broken = pa.Table.from_pylist(rows, schema=table.schema)
    resolved = {
        (row["report_id"], row["rule"]) for row in derive(resolutions.TABLE, stored | {table.name: broken})
    }
    faults = truth["records"]["faults"]
    assert resolved == {
        (each["message_id"], rule) for name, rule in LATE.items() for each in faults[name]["reports"]
    }
