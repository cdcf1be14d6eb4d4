"""Experiments in a world like that of agents: their latencies differ, and drift from one five minutes to the
next."""

from typing import NamedTuple

import numpy as np

from pipelines.analysis.tasks import Tasks, Unit
from pipelines.queries.table_queries import EXPERIMENT_METRICS

NAMES = ("control", "treatment")
METRIC = "latency_ms"
FIRST_BLOCK = 5_000_000


class World(NamedTuple):
    """How tasks come about. `spread`, `noise`: standard deviations of log latency between agents, and of one
    task; `drift`, `memory`: of the steps of an agent's own autoregression, and its coefficient."""

    blocks: int = 288
    tasks_per_block: float = 100.0
    agents: int = 40
    spread: float = 0.3
    drift: float = 0.2
    memory: float = 0.9
    noise: float = 0.4


def draw_tasks(seed: int, unit: Unit, effect: float = 0.0, world: World | None = None) -> Tasks:
    """The tasks of an experiment with even shares; `effect` is added to the log latency of `treatment`."""
    world = world or World()
    chance = np.random.default_rng(seed)
    state = np.zeros((world.blocks, world.agents))
    steps = chance.normal(0, world.drift, state.shape)
    for block in range(1, world.blocks):
        state[block] = world.memory * state[block - 1] + steps[block]
    level = 5 + chance.normal(0, world.spread, world.agents) + state
    block = np.repeat(np.arange(world.blocks), chance.poisson(world.tasks_per_block, world.blocks))
    agent = chance.integers(0, world.agents, len(block))
    of_agent = chance.permutation(np.arange(world.agents) % 2)
    variant = chance.integers(0, 2, len(block)) if unit is Unit.TASK else of_agent[agent]
    latency = np.exp(level[block, agent] + effect * variant + chance.normal(0, world.noise, len(block)))
    return Tasks(NAMES, variant.astype(np.int64), agent, block + FIRST_BLOCK, {METRIC: latency})


def draw_metrics(seed: int, unit: Unit, world: World, **effects: float) -> Tasks:
    """Tasks with every metric, each drawn alone; of some of them the logarithm of `treatment` differs."""
    tasks = draw_tasks(seed, unit, 0.0, world)
    values = {}
    for number, metric in enumerate(EXPERIMENT_METRICS):
        chance = np.random.default_rng((seed, number))
        level = np.exp(chance.normal(0, 0.3, len(tasks.block)))
        values[metric] = level * np.exp(effects.get(metric, 0.0) * tasks.variant)
    return tasks._replace(values=values)
