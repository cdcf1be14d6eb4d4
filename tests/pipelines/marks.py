"""Marks in an output of a test, and their files."""

from datetime import UTC, datetime
from pathlib import Path

from transforms.sinks.parquet.mark_files import FOLDER, add_mark

MARKED = {
    "report_id": "0" * 32,
    "agent_id": "agent",
    "task_id": "task",
    "recorded_at": datetime(2025, 10, 22, 12, 10, tzinfo=UTC),
    "column": "latency_ms",
    "value": 1.0,
    "note": None,
    "marked_by": "local",
}


def add_marks(output: Path) -> dict[str, bytes]:
    """Add marks that were made in two months; their files."""
    for month, verdict in ((10, "false"), (12, "verified")):
        add_mark(output, {**MARKED, "verdict": verdict}, datetime(2025, month, 23, tzinfo=UTC))
    found = read_marks(output)
    assert len(found) == 2
    return found


def read_marks(output: Path) -> dict[str, bytes]:
    """The content of each file of marks, by name."""
    return {path.name: path.read_bytes() for path in (output / FOLDER).iterdir() if path.is_file()}
