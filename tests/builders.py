"""What tests build their input from: reports, messages and RAW batches in a line each."""

import hashlib
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.verify.table_scan import list_files
from schemas.tables import Table
from transforms.core.record_batches import RAW

NOON = datetime(2025, 10, 22, 12, 0, tzinfo=UTC)


def agent(number: int = 0) -> str:
    """The id of the agent of a number."""
    return str(uuid.UUID(int=0xA0000000000040008000000000000000 + number))


def report(number: int = 0, at: datetime = NOON, **fields: Any) -> dict[str, Any]:
    """A valid report; `fields` replace or add, a field set to `...` is left out."""
    document = {
        "task_id": str(uuid.UUID(int=0x10000000000040008000000000000000 + number)),
        "agent_id": agent(),
        "latency_ms": 120.0,
        "accuracy": 0.9,
        "cpu_usage": 0.5,
        "memory_mb": 512.0,
        "recorded_at": at.isoformat().replace("+00:00", "Z"),
        "execution_context": {"hostname": "node-1", "available_cores": 8, "available_memory_mb": 16384},
    } | fields
    return {name: value for name, value in document.items() if value is not ...}


def payload(document: Any) -> bytes:
    """The bytes of a message: a document as JSON, or text or bytes as they are."""
    if isinstance(document, bytes):
        return document
    return document.encode() if isinstance(document, str) else json.dumps(document).encode()


def line_id(number: int, line: bytes) -> str:
    """The message_id of a bare line: its number, from 1, and the digest of its bytes without the line end."""
    content = line.removesuffix(b"\n").removesuffix(b"\r")
    return f"{number}-{hashlib.blake2b(content, digest_size=16).hexdigest()}"


def messages(
    documents: Sequence[Any],
    received_at: datetime | None = NOON + timedelta(seconds=1),
    source: str = "test",
) -> pa.RecordBatch:
    """A RAW batch with message ids m0, m1, ..."""
    rows = [
        {
            "source": source,
            "message_id": f"m{i}",
            "received_at": received_at,
            "payload": payload(document) + b"\n",
        }
        for i, document in enumerate(documents)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=RAW)


def task(number: int = 0, at: datetime = NOON, **fields: Any) -> dict[str, Any]:
    """The task of the report of a number."""
    return {
        "id": report(number)["task_id"],
        "priority": 50,
        "created_at": at.isoformat(),
        "source_layer": "layer2",
        "target_agent_type": "gpu",
    } | fields


def result(number: int = 0, at: datetime = NOON, **fields: Any) -> dict[str, Any]:
    """How the task of a number ended."""
    used = dict.fromkeys(("network_tx_bytes", "network_rx_bytes", "disk_io_ops"), 7)
    return {
        "task_id": report(number)["task_id"],
        "success": True,
        "execution_time_ms": 120,
        "resource_usage": {"cpu_seconds": 0.5, "memory_peak_mb": 64, **used},
        "completed_at": at.isoformat(),
    } | fields


def agent_record(number: int = 0, **fields: Any) -> dict[str, Any]:
    """What an agent says of itself."""
    return {"id": agent(number), "agent_type": "gpu", "state": "idle"} | fields


def health(**fields: Any) -> dict[str, Any]:
    """What Layer 4 says of itself."""
    found = {"status": "healthy", "active_agents": 3, "uptime_seconds": 9.5}
    return found | {"resource_utilization": {"cpu": 0.5}} | fields


def list_paths(output: Path, table: Table) -> list[Path]:
    """The paths of the files of a table, in order of their names; all are on this machine."""
    return [file.path for file in list_files(output, table) if file.path]
