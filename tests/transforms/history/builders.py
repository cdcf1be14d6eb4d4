"""Reports before history, built in a line, and what history of a batch gives of them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from tests.builders import agent
from transforms.core.record_batches import BASELINED, REPORT_BATCH
from transforms.history.batch_history import apply_history
from transforms.history.blocks import LOOKBACK

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
NO_LOOKBACK = LOOKBACK.empty_table()


def batch(*rows: dict) -> pa.RecordBatch:
    """Reports that differ from a plain one.

    `at` is their second after noon, `id` their report and message.
    """
    plain = {
        "agent_id": "a",
        "latency_ms": 100.0,
        "accuracy": 0.9,
        "cpu_usage": 0.5,
        "memory_mb": 512.0,
        "context": False,
    }
    return pa.RecordBatch.from_pylist([plain | _identified(**row) for row in rows], REPORT_BATCH)


def _identified(id: str, at: float, message: str = "", delay: float = 1, **fields) -> dict:
    recorded = NOON + timedelta(seconds=at)
    times = {"recorded_at": recorded, "received_at": recorded + timedelta(seconds=delay)}
    return (
        times
        | {"report_id": id * 32, "source": "s", "message_id": message or id, "custom_metrics": {"turns": at}}
        | fields
    )


def apply_to(
    *batches: pa.RecordBatch, lookback: pa.Table = NO_LOOKBACK, min_samples: int = 2
) -> tuple[pa.Table, pa.RecordBatch]:
    reports, duplicates = apply_history(batches, lookback, min_samples)
    return pa.Table.from_batches(reports, BASELINED), duplicates


MINUTE = 60


def reports(*minutes: float, agents: int = 2, delay: float = 1, first: int = 0) -> pa.RecordBatch:
    """A report of each minute after noon, of agents in turn; report i is in message i."""
    rows = [
        {
            "id": "0",
            "report_id": f"{number:032x}",
            "message": f"{number:04}",
            "agent_id": agent(number % agents),
            "at": MINUTE * minute,
            "delay": delay,
            "latency_ms": 90.0 + number,
        }
        for number, minute in enumerate(minutes, first)
    ]
    return batch(*rows)


FAULTY = {"latency_ms": 7.5, "execution_context": {"hostname": "node"}}


def fail_at(latency: float) -> Callable[[pa.RecordBatch], None]:
    """What raises where a report has this latency."""

    def check(rows: pa.RecordBatch) -> None:
        if latency in rows["latency_ms"].to_pylist():
            raise OverflowError("value out of range")

    return check
