"""All derived tables, each after those that it reads. One more: its module, a line here, docs/columns.md."""

import pyarrow as pa

from schemas.tables import MESSAGE, TIME, Table, find_table
from transforms.derived.derived_table import DerivedTable

TABLES: tuple[DerivedTable, ...] = ()
DERIVED = {each.table.name: each for each in TABLES}


def find_stored_table(name: str) -> Table:
    """The table of this name, which messages or other tables are stored in."""
    if name in DERIVED:
        return DERIVED[name].table
    try:
        return find_table(name)
    except KeyError:
        return _RECORDS[name]


def _make_record(name: str, id_name: str, time: str | None, columns: dict[str, pa.DataType]) -> Table:
    fields = {id_name: pa.string(), "version": pa.string(), "effective_at": TIME, **columns}
    schema = pa.schema([*fields.items(), ("extra", pa.string()), *MESSAGE, ("schema_version", pa.int64())])
    return Table(name, schema, (id_name, "version"), (id_name, "version"), time or "effective_at")


_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()
_RECORDS = {
    "tasks": _make_record("tasks", "task_id", "created_at", {
        "created_at": TIME, "priority": _INT, "source_layer": _TEXT, "target_agent_type": _TEXT,
        "deadline": TIME, "max_cpu_cores": _FLOAT, "max_memory_mb": _INT, "max_execution_time_secs": _INT,
        "max_network_mbps": _INT, "payload": _TEXT, "payload_bytes": _INT, "metadata": pa.map_(_TEXT, _TEXT),
    }),
    "results": _make_record("results", "task_id", "completed_at", {
        "completed_at": TIME, "success": pa.bool_(), "execution_time_ms": _INT, "cpu_seconds": _FLOAT,
        "memory_peak_mb": _FLOAT, "network_tx_bytes": _INT, "network_rx_bytes": _INT, "disk_io_ops": _INT,
        "gpu_utilization": _FLOAT, "output": _TEXT, "error": _TEXT,
    }),
    "agents": _make_record("agents", "agent_id", None, {
        "agent_type": _TEXT, "state": _TEXT, "capabilities": pa.list_(_TEXT), "stats": _TEXT,
        "created_at": TIME, "wasm_sha256": _TEXT, "wasm_bytes": _INT,
    }),
}  # fmt: skip
"""The tables of records, as long as schemas.tables does not have them."""
