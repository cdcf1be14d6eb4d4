"""Batch by batch, with memory that is evicted, saved and loaded, gives what it gives of all at once."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.tables import DUPLICATE
from tests.builders import agent
from transforms.core.record_batches import BASELINED, REPORT_BATCH
from transforms.history import rolling_window
from transforms.history.batch_history import apply_history
from transforms.history.blocks import LOOKBACK
from transforms.history.shard_memory import ShardMemory

MIN_SAMPLES = 3
NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
FRACTIONS = st.sampled_from([0.9, 0.9, 0.9001, 0.5, 1.0])
SIZES = st.sampled_from([100.0, 100.0, 100.001, 101.0, 5000.0])
METRIC_VALUES = {"latency_ms": SIZES, "memory_mb": SIZES, "accuracy": FRACTIONS, "cpu_usage": FRACTIONS}
REPORTS = st.fixed_dictionaries(
    {
        "agent_id": st.sampled_from([agent(0), agent(0), agent(1)]),
        "context": st.sampled_from([False] * 3 + [True]),
        **METRIC_VALUES,
    }
)
ARRIVALS = st.tuples(
    st.integers(0, 300),  # seconds after the arrival before it
    st.one_of(st.integers(-60, 62), st.integers(-60, 3600)),  # seconds from being recorded to being received
    REPORTS,
    st.sampled_from(["new", "new", "new", "copy", "again"]),
    st.integers(1, 8),  # which message before it is copied or comes again
)
STALES = st.sampled_from([60, 600, 3600])


def arrived(arrivals: list[tuple], stale: int) -> list[dict]:
    """The rows in the order they came in: new reports, copies of reports, and messages that come again."""
    rows: list[dict] = []
    second = 0
    for number, (gap, delay, report, kind, back) in enumerate(arrivals):
        second += gap
        received = NOON + timedelta(seconds=second)
        message = {"source": "s", "message_id": f"{number:04}", "received_at": received}
        earlier = rows[max(-back, -len(rows))] if rows else None
        if kind == "again" and earlier:
            rows.append(earlier)
        elif kind == "copy" and earlier and received - earlier["recorded_at"] <= timedelta(seconds=stale):
            rows.append(earlier | message)
        else:
            recorded = received - timedelta(seconds=min(delay, stale))
            rows.append(report | message | {"recorded_at": recorded, "report_id": f"{number:032x}"})
    return rows


STREAMS = STALES.flatmap(
    lambda stale: st.tuples(st.just(stale), st.lists(ARRIVALS, min_size=30, max_size=60))
)


def tables(reports: list[pa.RecordBatch], duplicates: list[pa.RecordBatch]) -> tuple[pa.Table, list[dict]]:
    """The reports by report_id, and each duplicate message once."""
    lost = {row["message_id"]: row for batch in duplicates for row in batch.to_pylist()}
    return pa.Table.from_batches(reports, BASELINED).sort_by("report_id"), [lost[key] for key in sorted(lost)]


def apply_at_once(rows: list[dict]) -> tuple[list[pa.RecordBatch], pa.RecordBatch]:
    """The reports and duplicates of all rows, but for what was context in every copy: that feeds only."""
    batch = pa.RecordBatch.from_pylist(rows, REPORT_BATCH)
    reports, duplicates = apply_history([batch], LOOKBACK.empty_table(), MIN_SAMPLES)
    fresh = pa.array({row["report_id"] for row in rows if not row["context"]}, pa.string())
    return [part.filter(pc.is_in(part["report_id"], fresh)) for part in reports], duplicates


def running(rows: list[dict], cuts: list[int], stale: int, saved: bool, evicted: bool) -> Iterator[tuple]:
    """The rows in batches cut at `cuts`; memory is evicted, and saved and loaded, at each cut."""
    whole = pa.RecordBatch.from_pylist(rows, REPORT_BATCH)
    edges = sorted({0, *(cut for cut in cuts if cut < len(rows)), len(rows)})
    recent, deltas = ShardMemory(MIN_SAMPLES, stale), []
    for first, end in zip(edges, edges[1:]):
        if evicted:
            recent.evict(watermark(rows[first:]))
        if saved:
            deltas = recent.snapshot() if first % 2 else deltas
            recent = ShardMemory.load(reversed(deltas), MIN_SAMPLES, stale)
        admitted = recent.admit(whole.slice(first, end - first))
        deltas += admitted.deltas
        yield admitted.reports, admitted.duplicates


def watermark(to_come: list[dict]) -> int:
    """The latest watermark that none of these rows was received before (us)."""
    return int(min(row["received_at"] for row in to_come).timestamp()) * 1_000_000


@pytest.mark.parametrize("kept", [0, 3])
@settings(max_examples=30, deadline=None)
@given(STREAMS, st.lists(st.integers(1, 60), max_size=12), st.booleans(), st.booleans())
def test_batch_by_batch_gives_what_all_at_once_gives(kept, stream, cuts, saved, evicted):
    stale, arrivals = stream
    rows = arrived(arrivals, stale)
    reports, duplicates = apply_at_once(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rolling_window, "KEPT_WINDOWS", kept)
        parts = list(running(rows, cuts, stale, saved, evicted))
    assert tables(*map(list, zip(*parts))) == tables(reports, [duplicates])
    assert all(batch.schema == DUPLICATE for _, batch in parts)
