"""Print the reports whose latency is far too high, each with its explanation."""

import pyarrow.dataset as ds

COLUMNS = [
    "recorded_at",
    "agent_id",
    "latency_ms",
    "latency_q1",
    "latency_q3",
    "latency_high_fence",
    "baseline_n",
]

reports = ds.dataset("tour/tables/kpi_reports", partitioning="hive")
flagged = reports.to_table(columns=COLUMNS, filter=ds.field("is_latency_anomaly"))
for row in flagged.sort_by([("latency_ms", "descending")]).slice(0, 5).to_pylist():
    print(
        f"{row['recorded_at']:%m-%d %H:%M} {row['agent_id']}: {row['latency_ms']:.0f} ms is above the fence "
        f"{row['latency_high_fence']:.0f} ms (quartiles {row['latency_q1']:.0f} and {row['latency_q3']:.0f} "
        f"of {row['baseline_n']} reports)"
    )
