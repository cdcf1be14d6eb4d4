"""Print the agents with the slowest minute, by the 95th percentile of latency in windows of a minute."""

import pyarrow.dataset as ds

windows = ds.dataset("tour/tables/kpi_aggregations/window_size=1m", partitioning="hive")
table = windows.to_table(columns=["agent_id", "latency_p95_ms", "task_count"])
agents = table.group_by("agent_id").aggregate([("latency_p95_ms", "max"), ("task_count", "sum")])
for row in agents.sort_by([("latency_p95_ms_max", "descending")]).slice(0, 5).to_pylist():
    print(f"{row['agent_id']}: {row['latency_p95_ms_max']:.0f} ms, {row['task_count_sum']} reports")
