"""The messages that a random output can have been made from: envelopes, the lines of an archive."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from tests.transforms.derived.oracle.rows import Row, Tables, write_time

STREAMS = {
    "kpi_reports": "layer4_kpi_reports",
    "tasks": "layer4_tasks",
    "results": "layer4_results",
    "agents": "layer4_agents",
    "system_health": "layer4_health",
}
REPORT_FIELDS = ("task_id", "agent_id", "latency_ms", "accuracy", "cpu_usage", "memory_mb", "network_bytes")
REPORT_FIELDS += ("execution_context", "source_layer", "target_agent_type", "priority")
TASK_FIELDS = ("priority", "source_layer", "target_agent_type", "metadata")
QUOTAS = ("max_cpu_cores", "max_memory_mb", "max_execution_time_secs", "max_network_mbps")
USAGE = ("cpu_seconds", "memory_peak_mb", "network_tx_bytes", "network_rx_bytes", "disk_io_ops")


def make_lines(tables: Tables, random: Random) -> list[bytes]:
    """An envelope for each row of each table; some are broken, some come twice, all are shuffled."""
    lines = []
    for table, stream in STREAMS.items():
        for row in tables[table]:
            document = MAKERS[table](row)
            for message in repeat_message(row, random):
                data = break_document(document, random) if random.random() < 0.05 else document
                lines.append(json.dumps(message | {"source": stream, "data": data}).encode())
    random.shuffle(lines)
    return lines


def repeat_message(row: Row, random: Random) -> Iterator[Row]:
    """A message, and sometimes the same one again, or another one with the same content."""
    received_at = write_time(row["received_at"])
    yield {"message_id": row["message_id"], "received_at": received_at}
    if random.random() < 0.05:
        yield {"message_id": row["message_id"], "received_at": received_at}
    if random.random() < 0.05:
        yield {"message_id": f"9{row['message_id']}", "received_at": received_at}


def break_document(document: Row, random: Random) -> Any:
    """A message that is quarantined, for one of several reasons."""
    name = random.choice(sorted(document))
    without = {key: value for key, value in document.items() if key != name}
    return random.choice(["{", "[]", without, document | {name: None}, document | {name: "x"}])


def make_report(row: Row) -> Row:
    document = {name: row[name] for name in REPORT_FIELDS} | {"recorded_at": write_time(row["recorded_at"])}
    names = ("hostname", "available_cores", "available_memory_mb")
    document["execution_context"] = {name: row["execution_context"][name] for name in names}
    return document | {"error_details": row["error_details"] and json.loads(row["error_details"])}


def make_task(row: Row) -> Row:
    document = {name: row[name] for name in TASK_FIELDS}
    document["metadata"] = row["metadata"] and dict(row["metadata"])
    quota = {name: row[name] for name in QUOTAS}
    document["resource_quota"] = None if row["max_cpu_cores"] is None else quota
    if row["payload_bytes"] is not None:
        document["payload"] = "x" * row["payload_bytes"]
    return document | {"id": row["task_id"], "created_at": write_time(row["created_at"])}


def make_result(row: Row) -> Row:
    completed_at = write_time(row["completed_at"])
    document = {"task_id": row["task_id"], "success": row["success"], "completed_at": completed_at}
    return document | {"execution_time_ms": 1, "resource_usage": dict.fromkeys(USAGE, 1)}


def make_agent(row: Row) -> Row:
    document = {name: row[name] for name in ("agent_type", "state", "capabilities")}
    return document | {"id": row["agent_id"], "created_at": write_time(row["created_at"])}


def make_health(row: Row) -> Row:
    return {"status": row["status"], "active_agents": 1, "uptime_seconds": 1, "resource_utilization": {}}


MAKERS = {
    "kpi_reports": make_report,
    "tasks": make_task,
    "results": make_result,
    "agents": make_agent,
    "system_health": make_health,
}
