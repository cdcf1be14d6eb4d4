"""The own columns of each kind of record: what a task, a result, an agent or the system's health says.

`schemas.tables` adds the columns of the message and makes tables of them. The name of a column is the last
step of its field's path, but for the record's `id`. `version` is a fingerprint of the content;
`effective_at` is when the record began to count. The execution context is a column of reports.
"""

import pyarrow as pa

from schemas.readers.formats import TIME

TASK = pa.schema(
    [
        ("task_id", pa.string()),
        ("version", pa.string()),
        ("effective_at", TIME),
        ("created_at", TIME),
        ("priority", pa.int64()),
        ("source_layer", pa.string()),
        ("target_agent_type", pa.string()),
        ("deadline", TIME),
        ("max_cpu_cores", pa.float64()),
        ("max_memory_mb", pa.int64()),
        ("max_execution_time_secs", pa.int64()),
        ("max_network_mbps", pa.int64()),
        ("payload", pa.string()),
        ("payload_bytes", pa.int64()),
        ("metadata", pa.map_(pa.string(), pa.string())),
        ("extra", pa.string()),
    ]
)

RESULT = pa.schema(
    [
        ("task_id", pa.string()),
        ("version", pa.string()),
        ("effective_at", TIME),
        ("completed_at", TIME),
        ("success", pa.bool_()),
        ("execution_time_ms", pa.int64()),
        ("cpu_seconds", pa.float64()),
        ("memory_peak_mb", pa.float64()),
        ("network_tx_bytes", pa.int64()),
        ("network_rx_bytes", pa.int64()),
        ("disk_io_ops", pa.int64()),
        ("gpu_utilization", pa.float64()),
        ("output", pa.string()),
        ("error", pa.string()),
        ("extra", pa.string()),
    ]
)

AGENT = pa.schema(
    [
        ("agent_id", pa.string()),
        ("version", pa.string()),
        ("effective_at", TIME),
        ("agent_type", pa.string()),
        ("state", pa.string()),
        ("capabilities", pa.list_(pa.string())),
        ("stats", pa.string()),
        ("created_at", TIME),
        ("wasm_sha256", pa.string()),
        ("wasm_bytes", pa.int64()),
        ("extra", pa.string()),
    ]
)

HEALTH = pa.schema(
    [
        ("effective_at", TIME),
        ("recorded_at", TIME),
        ("status", pa.string()),
        ("active_agents", pa.int64()),
        ("uptime_seconds", pa.float64()),
        ("resource_utilization", pa.map_(pa.string(), pa.float64())),
        ("extra", pa.string()),
    ]
)

EXECUTION_CONTEXT = pa.struct(
    [
        ("hostname", pa.string()),
        ("available_cores", pa.int64()),
        ("available_memory_mb", pa.float64()),
        ("gpu_info", pa.string()),
        ("network_interfaces", pa.list_(pa.string())),
    ]
)
"""Where a report says that its task was executed."""
