"""The agents: their ids and machines, their usual levels, and how these change over time."""

import json
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOG_METRICS = frozenset({"latency", "memory"})
"""Metrics that vary by a factor. The others vary by a difference."""
CPU_SPREAD = 0.025
MEMORY_SPREAD = 0.1
SLOW = 4.0
_NORMAL_Q3 = 0.6745


@dataclass(frozen=True)
class PatternEffect:
    """The change of the usual level: factors of latency and memory, shifts of accuracy and cpu.

    Each is float64[n] or one number.
    """

    latency: Floats | float = 1.0
    accuracy: Floats | float = 0.0
    cpu: Floats | float = 0.0
    memory: Floats | float = 1.0


def _daily_peak(_: Floats, hour: Floats) -> PatternEffect:
    load = np.exp(-(((hour - 14) / 2.5) ** 2))
    return PatternEffect(latency=1 + load, cpu=0.2 * load)


def _step_change(progress: Floats, _: Floats) -> PatternEffect:
    after = progress >= 0.5
    return PatternEffect(latency=np.where(after, 1.8, 1.0), memory=np.where(after, 1.5, 1.0))


Pattern = Callable[[Floats, Floats], PatternEffect]
PATTERNS: dict[str, Pattern] = {
    "steady": lambda progress, hour: PatternEffect(),
    "degrading": lambda progress, hour: PatternEffect(latency=1 + 1.5 * progress, accuracy=-0.15 * progress),
    "daily_peak": _daily_peak,
    "step_change": _step_change,
    "slow": lambda progress, hour: PatternEffect(latency=SLOW),
    "improving": lambda progress, hour: PatternEffect(latency=1 - 0.5 * progress, cpu=-0.05 * progress),
}
"""Performance patterns by name: the effect at each moment, from the elapsed share of the span [0, 1] and the
UTC hour [0, 24).

`degrading` ends at 2.5 times the latency and 0.15 less accuracy. `daily_peak` doubles latency around 14:00.
`step_change` has 1.8 times the latency and 1.5 times the memory from half the span on. `slow` always has four
times the latency. `improving` ends at half the latency.
"""
LEVEL_PATTERNS = frozenset({"steady", "slow"})
"""Patterns with a constant level: only there a far value is certainly not part of the pattern."""


@dataclass(frozen=True)
class Fleet:
    """One row for each agent.

    `ids` string[a]; `contexts` string[a], the execution_context as JSON; `cores` int64[a], available_cores
    in it; `types` int64[a], index into `task_types`; `gpu` bool[a]; `patterns` str[a]; `levels` by metric
    float64[a], the median; `spreads` by metric, the standard deviation around it (of the logarithm for
    LOG_METRICS).
    """

    ids: pa.Array
    contexts: pa.Array
    cores: NDArray[np.int64]
    types: NDArray[np.int64]
    task_types: tuple[str, ...]
    gpu: NDArray[np.bool_]
    patterns: tuple[str, ...]
    levels: dict[str, Floats]
    spreads: dict[str, float]

    def compute_levels(self, agent: NDArray[np.int64], progress: Floats, hour: Floats) -> dict[str, Floats]:
        """The usual level by metric, float64[n], of these agents at these times."""
        levels = {metric: own[agent] for metric, own in self.levels.items()}
        patterns = np.array(self.patterns)[agent]
        for name in set(self.patterns) - {"steady"}:
            rows = np.flatnonzero(patterns == name)
            effect = PATTERNS[name](progress[rows], hour[rows])
            for metric, level in levels.items():
                change = getattr(effect, metric)
                level[rows] = level[rows] * change if metric in LOG_METRICS else level[rows] + change
        return levels

    def quartiles(self, metric: str, level: Floats) -> tuple[Floats, Floats]:
        """First and third quartile around each level."""
        reach = _NORMAL_Q3 * self.spreads[metric]
        if metric in LOG_METRICS:
            return level * np.exp(-reach), level * np.exp(reach)
        return level - reach, level + reach


def make_random(seed: int, name: str) -> np.random.Generator:
    """A random generator for one purpose, so that a change of one does not change the others."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def build_fleet(
    agents: int,
    seed: int,
    task_types: tuple[str, ...],
    medians: dict[str, float],
    spreads: dict[str, float],
    patterns: list[str],
) -> Fleet:
    """Draw agents around the medians of latency and accuracy.

    Agent i has pattern i of `patterns`, which repeat.
    """
    random = make_random(seed, "fleet")
    types = np.arange(agents) % len(task_types)
    gpu = random.random(agents) < 0.2
    latency = medians["latency"] * random.uniform(0.6, 1.6, agents) * (1 + types / len(task_types))
    levels = {
        "latency": latency,
        "accuracy": medians["accuracy"] - random.uniform(0, 0.06, agents),
        "cpu": random.uniform(0.15, 0.45, agents),
        "memory": np.exp(random.uniform(np.log(200), np.log(3000), agents)),
    }
    ids = [str(uuid.UUID(bytes=random.bytes(16), version=4)) for _ in range(agents)]
    cores = random.choice([4, 8, 16, 32, 64], agents)
    return Fleet(
        ids=pa.array(ids, pa.string()),
        contexts=format_contexts(cores, 4096, gpu),
        cores=cores,
        types=types,
        task_types=task_types,
        gpu=gpu,
        patterns=tuple(patterns[i % len(patterns)] for i in range(agents)),
        levels=levels,
        spreads={**spreads, "cpu": CPU_SPREAD, "memory": MEMORY_SPREAD},
    )


def format_contexts(
    cores: NDArray[np.int64], memory_per_core_mb: int, gpu: NDArray[np.bool_]
) -> pa.StringArray:
    """The execution_context of each agent as JSON, string[a]."""
    rows = zip(cores.tolist(), gpu.tolist())
    return pa.array([_format_context(i, c, c * memory_per_core_mb, g) for i, (c, g) in enumerate(rows)])


def _format_context(agent: int, cores: int, memory_mb: int, gpu: bool) -> str:
    context: dict[str, object] = {
        "hostname": f"node-{agent:05d}.agents.example",
        "available_cores": cores,
        "available_memory_mb": memory_mb,
    }
    if gpu:
        context["gpu_info"] = {"model": "A100", "memory_mb": 40960}
    if agent % 3:
        context["network_interfaces"] = ["eth0", "lo"]
    return json.dumps(context, separators=(",", ":"))
