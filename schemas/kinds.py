"""The kinds of message: for each its schema, its table, and the stream that it comes on by default."""

from dataclasses import dataclass

from schemas.tables import AGENTS, REPORTS, RESULTS, SYSTEM_HEALTH, TASKS, Table


@dataclass(frozen=True)
class Kind:
    """A kind of message.

    Attributes:
        schema: name of its JSON Schema, and the value of the columns `kind` of quarantine and duplicates.
        table: where its valid messages are.
        record_id: the column that says which report, task or agent a message is about, where the schema's
            field is `id`; None if none does.
        stream: the key of the Redis stream that it comes on, unless another is named.
        time: the column with the time that the message itself tells, if it tells one.
        contents: the columns that make two messages the same, in the order of their slots in the fingerprint.
            What is stored depends on them, so they never change within a version of the schema.
            `effective_hour` is the hour of effective_at, counted from 1970.
        is_recent: whether a message is rejected if `time` is too far from the time it was received.
        max_payload_bytes: longest payload, if it may be longer than the setting of that name.
    """

    schema: str
    table: Table
    record_id: str | None
    stream: str
    time: str
    contents: tuple[str, ...] = ()
    is_recent: bool = True
    max_payload_bytes: int = 0

    @property
    def is_report(self) -> bool:
        """Whether its messages go through history, and not straight to their table."""
        return self.table is REPORTS

    def limit_payload(self, setting: int) -> int:
        """How long a payload may be, in bytes, where the setting max_payload_bytes is `setting`."""
        return max(setting, self.max_payload_bytes)


REPORT_KIND = Kind(
    "kpi_report",
    REPORTS,
    "report_id",
    "layer4_kpi_reports",
    "recorded_at",
    (
        "task_id", "agent_id", "recorded_at", "latency_ms", "accuracy", "cpu_usage", "memory_mb",
        "network_bytes", "custom_metrics", "execution_context", "gpu_utilization", "error_details",
        "source_layer", "target_agent_type", "priority", "extra",
    ),
)  # fmt: skip
"""The kind of a message whose source says nothing else."""

KINDS = {
    kind.schema: kind
    for kind in (
        REPORT_KIND,
        Kind(
            "task",
            TASKS,
            "task_id",
            "layer4_tasks",
            "created_at",
            (
                "task_id", "created_at", "priority", "source_layer", "target_agent_type", "deadline",
                "max_cpu_cores", "max_memory_mb", "max_execution_time_secs", "max_network_mbps", "payload",
                "metadata", "extra",
            ),
            is_recent=False,
        ),
        Kind(
            "execution_result",
            RESULTS,
            "task_id",
            "layer4_results",
            "completed_at",
            (
                "task_id", "completed_at", "success", "execution_time_ms", "cpu_seconds", "memory_peak_mb",
                "network_tx_bytes", "network_rx_bytes", "disk_io_ops", "gpu_utilization", "output", "error",
                "extra",
            ),
        ),
        Kind(
            "agent",
            AGENTS,
            "agent_id",
            "layer4_agents",
            "created_at",
            (
                "agent_id", "agent_type", "state", "capabilities", "created_at", "wasm_sha256", "wasm_bytes",
                "extra", "effective_hour",
            ),
            is_recent=False,
            max_payload_bytes=32 << 20,
        ),
        Kind("system_health", SYSTEM_HEALTH, None, "layer4_health", "recorded_at"),
    )
}  # fmt: skip
"""Every kind by the name of its schema."""
KIND_OF_TABLE = {kind.table.name: kind for kind in KINDS.values()}
KIND_OF_STREAM = {kind.stream: kind for kind in KINDS.values()}


def find_kind(source: str, schema: str | None = None) -> Kind:
    """The kind of a message: that of the schema which was given with its source, else the one that comes on
    the stream `source`, else a report."""
    return KINDS[schema] if schema else KIND_OF_STREAM.get(source, REPORT_KIND)
