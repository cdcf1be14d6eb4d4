"""Quarantine rows, all built here: the original bytes of a message, why it is refused, and where."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa

from schemas.documents import Rejection
from schemas.tables import QUARANTINE
from transforms.batches import filled

Result = TypeVar("Result")


def quarantined(messages: pa.RecordBatch, rejections: Sequence[Rejection]) -> pa.RecordBatch:
    """A QUARANTINE row for each message (RAW columns) with its rejection."""
    columns = {
        "source": messages["source"],
        "message_id": messages["message_id"],
        "received_at": messages["received_at"],
        "payload": pa.array([payload.removesuffix(b"\n") for payload in messages["payload"].to_pylist()], pa.binary()),
        "reason": pa.array([each.reason for each in rejections], pa.string()),
        "field": pa.array([each.field for each in rejections], pa.string()),
        "rule": pa.array([each.rule for each in rejections], pa.string()),
        "message": pa.array([each.message for each in rejections], pa.string()),
        "revision": pa.array([1] * messages.num_rows, pa.int64()),
    }
    return filled(columns, QUARANTINE, messages.num_rows)


def bisected(
    kernel: Callable[[pa.RecordBatch], Result], messages: pa.RecordBatch
) -> tuple[list[Result], list[tuple[pa.RecordBatch, Rejection]]]:
    """The kernel's results over the messages, but for those at which it raises: these alone, each with an `error` rejection."""
    try:
        return [kernel(messages)], []
    except MemoryError:
        raise
    except Exception as error:
        if messages.num_rows <= 1:
            return [], [(messages, Rejection("error", f"{type(error).__name__}: {error}"[:400]))]
    half = messages.num_rows // 2
    results, faults = bisected(kernel, messages[:half])
    more, others = bisected(kernel, messages[half:])
    return results + more, faults + others


def misfits(bad: pa.RecordBatch) -> pa.RecordBatch:
    """QUARANTINE rows of envelopes that break the rule of envelopes (`transforms.sources.envelopes.BAD`)."""
    return quarantined(bad, [Rejection("envelope", message) for message in bad["message"].to_pylist()])
