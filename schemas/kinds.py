"""The kinds of message: for each its schema, its table, and the stream that it comes on by default."""

from dataclasses import dataclass

from schemas.tables import AGENTS, REPORTS, RESULTS, SYSTEM_HEALTH, TASKS, Table


@dataclass(frozen=True)
class Kind:
    """A kind of message.

    Attributes:
        schema: name of its JSON Schema, and the value of the columns `kind` of quarantine and duplicates.
        table: where its valid messages are.
        record_id: the column that says which report, task or agent a message is about; None if none does.
        stream: the key of the Redis stream that it comes on, unless another is named.
        time: the column with the time that the message itself tells, if it tells one.
        is_recent: whether a message is rejected if that time is too far from the time it was received.
        max_payload_bytes: longest payload, if it may be longer than the setting of that name.
    """

    schema: str
    table: Table
    record_id: str | None
    stream: str
    time: str
    is_recent: bool = True
    max_payload_bytes: int = 0

    @property
    def is_report(self) -> bool:
        """Whether its messages go through history, and not straight to their table."""
        return self.table is REPORTS


REPORT_KIND = Kind("kpi_report", REPORTS, "report_id", "layer4_kpi_reports", "recorded_at")
"""The kind of a message whose source says nothing else."""

KINDS = {
    kind.schema: kind
    for kind in (
        REPORT_KIND,
        Kind("task", TASKS, "task_id", "layer4_tasks", "created_at", is_recent=False),
        Kind("execution_result", RESULTS, "task_id", "layer4_results", "completed_at"),
        Kind(
            "agent",
            AGENTS,
            "agent_id",
            "layer4_agents",
            "created_at",
            is_recent=False,
            max_payload_bytes=32 << 20,
        ),
        Kind("system_health", SYSTEM_HEALTH, None, "layer4_health", "recorded_at"),
    )
}
"""Every kind by the name of its schema. Where rows of several kinds are told apart by a number, it is the
place in this order."""
KIND_OF_TABLE = {kind.table.name: kind for kind in KINDS.values()}
