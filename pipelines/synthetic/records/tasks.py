"""Tasks as numpy columns: quota, priority, payload size, metadata, and the times of their life cycle."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic.columns import SECOND, Columns
from pipelines.synthetic.fleet import Fleet, Floats, format_contexts, make_random
from pipelines.synthetic.json_columns import LAYERS, PRIORITIES

Integers = NDArray[np.int64]

CORES = (2, 4, 8, 16)
MEMORY_MB = (4096, 8192, 16384, 32768)
SECONDS = (30, 60, 120, 300)
NETWORK_MBPS = (1000, 2500, 10000, 0)
"""The quotas that occur, equally often. A network quota of 0 is none."""
_PRIORITY_SHARES = (0.1, 0.2, 0.4, 0.2, 0.1)
PAYLOAD_BYTES = tuple(int(2 ** (step / 4)) for step in range(24, 39))
"""The sizes of payloads that occur, equally often: 64 to 724 bytes."""
METADATA: tuple[dict[str, str] | None, ...] = (
    None,
    {"team": "search"},
    {"experiment": "routing", "variant": "control"},
    {"experiment": "routing", "variant": "treatment"},
    {"experiment": "cache", "variant": "control"},
    {"experiment": "cache", "variant": "treatment"},
)
"""The metadata that occur. The experiment `routing` has an effect, `cache` has none."""
_METADATA_SHARES = (0.1, 0.3, 0.2, 0.2, 0.1, 0.1)
TREATED = 3
"""The place in METADATA of the variant that has an effect."""

_SHORTEST_QUEUE = SECOND
_MEAN_QUEUE = 2 * SECOND
_LONGEST_COMPLETION = SECOND // 10
_MOST_MBPS = 0.8 * min(mbps for mbps in NETWORK_MBPS if mbps)
_MEMORY_PER_CORE_MB = 16384


@dataclass(frozen=True)
class TaskRows:
    """n tasks with their results, one for the report of each row.

    `priority`, `memory` (MB), `seconds`, `network` (Mbit/s, 0 is none) int64[n]; `cores` float64[n]; `layer`
    int64[n], index into LAYERS; `target` int64[n], index into the fleet's types, or their number for one that
    no agent has; `size` int64[n], index into PAYLOAD_BYTES; `metadata` int64[n], index into METADATA;
    `created`, `completed` int64[n], microseconds since 1970; `success` bool[n]; `owner` int64[n]: the row
    whose task the report of this row names, which is the row itself where the task is not shared.
    """

    priority: Integers
    layer: Integers
    target: Integers
    cores: Floats
    memory: Integers
    seconds: Integers
    network: Integers
    size: Integers
    metadata: Integers
    created: Integers
    completed: Integers
    success: NDArray[np.bool_]
    owner: Integers

    @property
    def payload_bytes(self) -> Integers:
        """int64[n]: bytes of the payload as JSON."""
        return np.array(PAYLOAD_BYTES)[self.size]


def shrink_hosts(fleet: Fleet) -> Fleet:
    """The fleet on hosts of 1 to 4 cores, so that what an agent usually uses is within every quota."""
    cores = np.minimum(fleet.cores // 4, 4)
    return replace(fleet, cores=cores, contexts=format_contexts(cores, _MEMORY_PER_CORE_MB, fleet.gpu))


def draw_tasks(types: Integers, seed: int) -> TaskRows:
    """Draw a task for each row, for an agent of these types, int64[n]; without its times."""
    random = make_random(seed, "tasks")
    count = len(types)

    def draw(values: tuple[int, ...], shares: tuple[float, ...] | None = None) -> Integers:
        return random.choice(np.array(values), count, p=shares)

    return TaskRows(
        priority=draw(PRIORITIES, _PRIORITY_SHARES),
        layer=random.integers(0, len(LAYERS), count),
        target=types,
        cores=draw(CORES).astype(float),
        memory=draw(MEMORY_MB),
        seconds=draw(SECONDS),
        network=draw(NETWORK_MBPS),
        size=random.integers(0, len(PAYLOAD_BYTES), count),
        metadata=random.choice(len(METADATA), count, p=_METADATA_SHARES),
        created=np.zeros(count, np.int64),
        completed=np.zeros(count, np.int64),
        success=np.ones(count, bool),
        owner=np.arange(count),
    )


def fit_reports(columns: Columns, tasks: TaskRows, fleet: Fleet, seed: int) -> Columns:
    """The reports as of these tasks: their priority, layer and type where a report has them; network traffic
    and latency within every quota.
    """
    random = make_random(seed, "fitted")
    count, owner = len(columns.agent), tasks.owner
    options = dict(columns.options)
    # A code selects a value by its remainder (`json_columns`), so these codes select the task's own.
    for name, share, place, values in (
        ("priority", 0.8, np.searchsorted(PRIORITIES, tasks.priority[owner]), len(PRIORITIES) + 1),
        ("layer", 0.8, tasks.layer[owner], len(LAYERS)),
        ("target", 0.7, tasks.target[owner], 1),
    ):
        options[name] = np.where(random.random(count) < share, place + values, 0).astype(np.int32)
    # A report names the type of its agent in the fleet, which the changing agent no longer has.
    options["target"][tasks.target[owner] != fleet.types[columns.agent]] = 0
    metrics = dict(columns.metrics)
    metrics["latency"] = np.minimum(metrics["latency"], np.round(tasks.seconds[owner] * 900.0, 3))
    most = (_MOST_MBPS * 1e6 / 8 * metrics["latency"] / 1e3).astype(np.int64)
    return replace(columns, options=options, metrics=metrics, network=np.minimum(columns.network, most))


def time_tasks(tasks: TaskRows, columns: Columns, seed: int) -> TaskRows:
    """The tasks with their times: created before the report by its latency and the time in the queue, which
    is shorter for a higher priority; completed up to 0.1 s after the last report of the task.
    """
    random = make_random(seed, "task times")
    count = len(columns.recorded)
    queue = _SHORTEST_QUEUE + random.exponential(_MEAN_QUEUE * (1.5 - tasks.priority / 100), count)
    latency = columns.metrics["latency"] * 1000
    last = columns.recorded.copy()
    shared = np.flatnonzero(tasks.owner != np.arange(count))
    last[tasks.owner[shared]] = columns.recorded[shared]
    return replace(
        tasks,
        created=columns.recorded - (latency + queue).astype(np.int64),
        completed=last + random.integers(1000, _LONGEST_COMPLETION, count),
        success=columns.options["error"] == 0,
    )


def raise_quotas(tasks: TaskRows, columns: Columns, fleet: Fleet) -> TaskRows:
    """The tasks with CPU and memory quotas doubled until the reports are within them; few need it."""
    cores, memory = tasks.cores.copy(), tasks.memory.copy()
    used = columns.metrics["cpu"] * fleet.cores[columns.agent] * 1.05
    for quota, need in ((cores, used), (memory, columns.metrics["memory"] * 1.25)):
        while (over := need > quota[tasks.owner]).any():
            quota[np.unique(tasks.owner[over])] *= 2
    return replace(tasks, cores=cores, memory=memory)
