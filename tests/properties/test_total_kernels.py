"""Every kernel takes every report that validation accepts: values at the edges of each column's domain."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.partitioning import assign_files
from schemas.registry import load
from schemas.tables import AGGREGATIONS, FLEET, GRANULARITIES, REPORTS
from tests.builders import agent, messages, report
from transforms.aggregation.statistics import finish, make_partials, merge_by_agent, merge_by_type
from transforms.core.record_batches import conform
from transforms.core.sharding import split_by_shard
from transforms.enrich import EnrichOptions, enrich
from transforms.history.batch_history import apply_history
from transforms.history.blocks import LOOKBACK, Blocks, is_lookback
from transforms.history.shard_memory import ShardMemory
from transforms.history.time_rules import find_affected_hours
from transforms.outliers import flag_outliers
from transforms.sinks.parquet.parquet_file import encode_file, read_file
from transforms.sinks.row_merge import merge_rows
from transforms.validation.validate import MessageRules, judge_block

LEAST, MOST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)
OLD = datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)
TIMES = st.sampled_from([LEAST, LEAST + timedelta(hours=1), OLD, MOST - timedelta(minutes=3), MOST])
AGENTS = st.sampled_from([agent(), agent(1).upper(), str(UUID(int=0)), str(UUID(int=2**128 - 1))])
INTERFACES = st.lists(st.sampled_from(["", "\0", "é" * 100]), max_size=2)
TEXTS = st.sampled_from(["", "\0", "é" * 100, "\U0010ffff", "a/b%~\n"])
SHARES = st.sampled_from([0, -0.0, 5e-324, 1e-320, 1e-9, 0.5, 1])
REPORT = st.fixed_dictionaries(
    {
        "latency_ms": st.sampled_from([5e-324, 1e-9, 1, 299999.99999]),
        "accuracy": SHARES,
        "cpu_usage": SHARES,
        "memory_mb": st.sampled_from([5e-324, 1, 999999.99999]),
        "at": TIMES,
        "agent_id": AGENTS,
        "execution_context": st.fixed_dictionaries(
            {
                "hostname": st.sampled_from(["h", "\U0010ffff" * 253]),
                "available_cores": st.sampled_from([1, 65536]),
                "available_memory_mb": st.sampled_from([5e-324, 1, 1e9]),
            },
            optional={
                "gpu_info": st.sampled_from([{}, {"a": [None, {"é": 1e308}]}]),
                "network_interfaces": INTERFACES,
            },
        ),
    },
    optional={
        "network_bytes": st.sampled_from([0, 999999999999]),
        "custom_metrics": st.dictionaries(TEXTS, st.sampled_from([0, 5e-324, 1.7e308, -1.7e308]), max_size=2),
        "gpu_utilization": SHARES,
        "error_details": st.sampled_from(["", [], {"a": None}, False, 1e300]),
        "source_layer": TEXTS,
        "target_agent_type": TEXTS,
        "priority": st.sampled_from([1, 100]),
        "odd": st.sampled_from([0, "", {"x": [1e22]}]),
    },
)
ZONES = st.sampled_from(["UTC", "Pacific/Kiritimati", "America/New_York", "Etc/GMT+12"])


@settings(deadline=None, max_examples=25)
@given(st.lists(REPORT, min_size=1, max_size=8), ZONES, st.integers(1, 3), st.booleans())
def test_every_kernel_takes_every_valid_report(
    drawn: list[dict[str, Any]], zone: str, shards: int, received: bool
) -> None:
    raw = messages(
        [report(number, **fields) for number, fields in enumerate(drawn)], MOST if received else None
    )
    valid, refused = judge_block(raw, load("kpi_report"), MessageRules(stale_seconds=10**12))
    assert set(refused["reason"].to_pylist()) <= {"future"}
    for _, batch in split_by_shard(valid, shards):
        assert {each.as_py().timestamp() // 3600 for each in batch["recorded_at"]} <= find_affected_hours(
            batch
        )
        own = [part for _, part in Blocks(1, shards).split(batch) if not is_lookback(part)]
        assert sum(part.num_rows for part in own) == batch.num_rows
        whole, duplicates = apply_history([batch], LOOKBACK.empty_table(), 2)
        stream = ShardMemory(2, 3600).admit(batch)
        rows = list(whole)
        assert stream.reports.num_rows == sum(part.num_rows for part in rows)
        assert stream.duplicates.num_rows == duplicates.num_rows
        for part in rows:
            _stored_and_counted(enrich(flag_outliers(part, 1.5, 0.1), EnrichOptions(1000.0, zone, 22, 6)))


def _stored_and_counted(enriched: pa.RecordBatch) -> None:
    """Every table takes what comes of enriched reports, and its files give it back."""
    written = conform(enriched, REPORTS.schema)
    codes, names = assign_files(REPORTS, written, 10)
    assert (len(codes), len(names)) == (written.num_rows, len(set(names)))
    assert (
        read_file(bytes(encode_file(merge_rows(REPORTS, written[:0], written).rows))).num_rows
        == written.num_rows
    )
    partial = make_partials(enriched)
    for granularity in GRANULARITIES:
        for table, together in ((AGGREGATIONS, merge_by_agent), (FLEET, merge_by_type)):
            windows = conform(finish(together(partial, granularity)), table.schema)
            assert sum(windows["task_count"].to_pylist()) == enriched.num_rows
            assert len(assign_files(table, windows, 10)[0]) == windows.num_rows
