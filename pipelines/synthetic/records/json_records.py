"""Records as JSON, joined column by column as Arrow strings."""

import base64
import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.synthetic.columns import SECOND, Columns
from pipelines.synthetic.fleet import Fleet
from pipelines.synthetic.json_columns import LAYERS, format_times, format_uuids, join, join_where
from pipelines.synthetic.records.agents import STATES, Beats, HealthRows
from pipelines.synthetic.records.tasks import METADATA, PAYLOAD_BYTES, Integers, TaskRows

UNKNOWN_TYPE = "unheard-of"
"""The target of a task that no agent is made for, where all agents are of one type."""
_DEADLINE = 600 * SECOND
_TEXT = "the quick brown fox jumps over the lazy dog " * 20
_TX_SHARE = 0.3
_ERROR = "the task failed"
_CAPABILITIES = ("json", "streaming", "gpu")


def format_tasks(
    rows: Integers, tasks: TaskRows, sound: TaskRows, columns: Columns, fleet: Fleet
) -> pa.StringArray:
    """The tasks of these rows as JSON, string[k]. A row of n or more is the second version of row - n, with
    a later deadline and the CPU quota of the `sound` tasks.
    """
    second, rows = np.divmod(rows, len(tasks.owner))
    network = tasks.network[rows]
    types = [*fleet.task_types, UNKNOWN_TYPE]
    deadline = tasks.created[rows] + _DEADLINE * (1 + second)
    metadata = ["" if each is None else f',"metadata":{_dump(each)}' for each in METADATA]
    return join(
        [
            '{"id":"',
            format_uuids(columns.task[rows]),
            '","priority":',
            pa.array(tasks.priority[rows]),
            ',"payload":',
            _pick(_list_payloads(types), tasks.target[rows] * len(PAYLOAD_BYTES) + tasks.size[rows]),
            ',"created_at":"',
            format_times(tasks.created[rows]),
            'Z","deadline":"',
            format_times(deadline),
            'Z","resource_quota":{"max_cpu_cores":',
            pa.array(np.where(second, sound.cores[rows], tasks.cores[rows])),
            ',"max_memory_mb":',
            pa.array(tasks.memory[rows]),
            ',"max_execution_time_secs":',
            pa.array(tasks.seconds[rows]),
            join_where(network > 0, [',"max_network_mbps":', pa.array(network)]),
            '},"source_layer":"',
            _pick(list(LAYERS), tasks.layer[rows]),
            '","target_agent_type":',
            _pick([json.dumps(name) for name in types], tasks.target[rows]),
            _pick(metadata, tasks.metadata[rows]),
            "}",
        ]
    )


def format_results(rows: Integers, tasks: TaskRows, columns: Columns, fleet: Fleet) -> pa.StringArray:
    """The results of the tasks of these rows as JSON, string[k]. A row of n or more is the second version of
    row - n, with other disk_io_ops.
    """
    second, rows = np.divmod(rows, len(tasks.owner))
    metrics = {name: values[rows] for name, values in columns.metrics.items()}
    agent, success = columns.agent[rows], tasks.success[rows]
    cpu = metrics["cpu"] * fleet.cores[agent] * metrics["latency"] / 1e3
    network = np.where(columns.options["network"][rows] > 0, columns.network[rows], 1000)
    sent = (network * _TX_SHARE).astype(np.int64)
    gpu = np.where(fleet.gpu[agent], columns.options["gpu"][rows], 0)
    # The second byte of the task's id serves as a random number.
    peak = metrics["memory"] * (1 + columns.task[rows, 1] / 2560)
    return join(
        [
            '{"task_id":"',
            format_uuids(columns.task[rows]),
            '","success":',
            _pick(["false", "true"], success),
            ',"output":',
            _pick(["null", '{"status":"ok"}'], success),
            ',"execution_time_ms":',
            pa.array(np.maximum(1, metrics["latency"].round()).astype(np.int64)),
            ',"resource_usage":{"cpu_seconds":',
            pa.array(np.round(cpu, 6)),
            ',"memory_peak_mb":',
            pa.array(np.round(peak, 2)),
            ',"network_tx_bytes":',
            pa.array(sent),
            ',"network_rx_bytes":',
            pa.array(network - sent),
            ',"disk_io_ops":',
            pa.array(columns.task[rows, 2] + second),
            join_where(gpu > 0, [',"gpu_utilization":', pa.array(np.round(gpu / 65536, 3))]),
            "}",
            _pick([f',"error":"{_ERROR}"', ""], success),
            ',"completed_at":"',
            format_times(tasks.completed[rows]),
            'Z"}',
        ]
    )


def format_agents(rows: Integers, beats: Beats, fleet: Fleet) -> pa.StringArray:
    """The messages about agents of these rows as JSON, string[k]."""
    agent, done = pa.array(beats.agent[rows]), pa.array(beats.done[rows])
    types = [json.dumps(name) for name in fleet.task_types]
    capable = [[name, *_CAPABILITIES[: 2 + gpu]] for name in fleet.task_types for gpu in (0, 1)]
    uptime = (beats.sent[rows] - beats.registered[rows]) / SECOND
    kind = beats.kind[rows]
    return join(
        [
            '{"id":"',
            fleet.ids.take(agent),
            '","agent_type":',
            _pick(types, kind),
            ',"state":"',
            _pick(list(STATES), beats.state[rows]),
            '","capabilities":',
            _pick([_dump(each) for each in capable], 2 * kind + fleet.gpu[beats.agent[rows]]),
            ',"stats":{"tasks_completed":',
            done,
            ',"uptime_seconds":',
            pa.array(uptime),
            '},"created_at":"',
            format_times(beats.registered[rows]),
            'Z","wasm_binary":"',
            format_binaries(fleet).take(agent),
            '"}',
        ]
    )


def format_binaries(fleet: Fleet) -> pa.StringArray:
    """The binary of each agent, which is that of its type, in base64: string[a]."""
    binaries = [b"\0asm\1\0\0\0" + hashlib.sha256(name.encode()).digest() for name in fleet.task_types]
    return _pick([base64.b64encode(each).decode() for each in binaries], fleet.types)


def format_health(rows: Integers, health: HealthRows) -> pa.StringArray:
    """The states of the system of these rows as JSON, string[k]."""
    load = health.load[rows]
    return join(
        [
            '{"status":"',
            _pick(["healthy", "degraded"], load > 2),
            '","active_agents":',
            pa.array(health.active[rows]),
            ',"uptime_seconds":',
            pa.array(health.uptime[rows]),
            ',"resource_utilization":{"cpu":',
            pa.array(np.round(load / 4, 4)),
            ',"memory":',
            pa.array(np.round(0.4 + load / 10, 4)),
            '},"recorded_at":"',
            format_times(health.recorded[rows]),
            'Z"}',
        ]
    )


def _list_payloads(types: list[str]) -> list[str]:
    """A payload of each type and size; its keys are in order and it has no spaces between tokens."""
    payloads = []
    for name in types:
        frame = _dump({"operation": name, "text": ""})
        for size in PAYLOAD_BYTES:
            text = _TEXT[: max(0, size - len(frame.encode()))]
            payloads.append(_dump({"operation": name, "text": text}))
    return payloads


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _pick(pool: list[str], places: Any) -> pa.StringArray:
    """The texts of the pool at these places, string[k]."""
    return pc.take(pa.array(pool, pa.string()), pa.array(places.astype(np.int64)))
