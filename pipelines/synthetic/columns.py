"""What is in the reports, as numpy columns: times, the four metrics, and codes for the optional fields."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic.fleet import LOG_METRICS, Fleet, Floats, stream
from schemas.tables import METRICS

SECOND = 1_000_000
HOUR = 3600 * SECOND
LIMITS = {
    "latency": (0.001, 299_999.999),
    "accuracy": (0.0, 1.0),
    "cpu": (0.0, 1.0),
    "memory": (0.01, 999_999.99),
}
DECIMALS = {"latency": 3, "accuracy": 4, "cpu": 4, "memory": 2}
REACH = 2.0
"""Usual values stay within so many standard deviations: whatever lies far outside was injected."""

OPTIONAL_SHARES = {
    "network": 0.9,
    "error": 0.05,
    "custom": 0.2,
    "gpu": 0.8,
    "layer": 0.5,
    "target": 0.4,
    "priority": 0.5,
    "extra": 0.01,
    "time_style": 0.03,
}
"""The share of reports that has each optional field (`gpu`: where the agent has one), or an unusual spelling of recorded_at."""


@dataclass(frozen=True)
class Columns:
    """n reports in order of time: `agent` int64[n] (row of the fleet), `recorded` int64[n] (us since 1970), `task` uint8[n, 16]
    (the UUID's bytes), metrics float64[n], `network` int64[n] bytes; `options` by name of OPTIONAL_SHARES int32[n], 0 where
    the field is absent, else a number below 2**16 that decides what to put there."""

    agent: NDArray[np.int64]
    recorded: NDArray[np.int64]
    task: NDArray[np.uint8]
    network: NDArray[np.int64]
    metrics: dict[str, Floats]
    options: dict[str, NDArray[np.int32]]

    def take(self, rows: NDArray[np.int64]) -> "Columns":
        """These rows, in this order."""
        metrics = {name: values[rows] for name, values in self.metrics.items()}
        options = {name: codes[rows] for name, codes in self.options.items()}
        return Columns(
            self.agent[rows], self.recorded[rows], self.task[rows], self.network[rows], metrics, options
        )


@dataclass(frozen=True)
class Moments:
    """When which agent reports: `agent` int64[n], `recorded` int64[n] us ascending, between `start` and `start + span` (us)."""

    agent: NDArray[np.int64]
    recorded: NDArray[np.int64]
    start: int
    span: int

    def levels(self, fleet: Fleet, rows: NDArray[np.int64] | slice) -> dict[str, Floats]:
        """The usual level by metric of the agent and moment of each of these rows."""
        recorded = self.recorded[rows]
        return fleet.levels_at(
            self.agent[rows], (recorded - self.start) / self.span, recorded % (24 * HOUR) / HOUR
        )


def daily_moments(count: int, agents: int, seed: int, start: int, span: int) -> Moments:
    """Reports at random moments, busiest at 14:00 UTC and quietest at 02:00, each of a random agent."""
    random = stream(seed, "moments")
    grid = np.linspace(0, span, max(2, span // (HOUR // 4) + 1))
    rate = 1 + 0.4 * np.sin(2 * np.pi * ((start + grid) / HOUR - 8) / 24)
    done = np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2)])
    shares = (np.arange(count) + random.random(count)) / max(count, 1)
    recorded = start + np.interp(shares, done / done[-1], grid).astype(np.int64)
    return Moments(random.integers(0, agents, count), recorded, start, span)


def regular_moments(count: int, agents: int, seed: int, start: int, span: int) -> Moments:
    """Every agent reports at even intervals, give or take a fifth of one, from its own phase on."""
    random = stream(seed, "moments")
    rows = np.arange(count)
    agent = rows % agents
    interval = span / max(1, -(-count // agents))
    phase = random.uniform(0.2, 0.8, agents)
    recorded = start + ((rows // agents + phase[agent] + random.uniform(-0.2, 0.2, count)) * interval).astype(
        np.int64
    )
    order = np.argsort(recorded, kind="stable")
    return Moments(agent[order], recorded[order], start, span)


def draw(fleet: Fleet, moments: Moments, seed: int) -> Columns:
    """A report for each moment, with every metric around its agent's level."""
    random = stream(seed, "columns")
    count = len(moments.recorded)
    metrics = {}
    levels = moments.levels(fleet, slice(None))
    for metric in METRICS:
        noise = fleet.spreads[metric] * _bounded_normal(random, count)
        level = levels[metric]
        metrics[metric] = legal(metric, level * np.exp(noise) if metric in LOG_METRICS else level + noise)
    task = random.integers(0, 256, (count, 16), np.uint8)
    task[:, 6] = task[:, 6] & 0x0F | 0x40
    task[:, 8] = task[:, 8] & 0x3F | 0x80
    network = np.exp(random.normal(10, 2, count).clip(0, 25)).astype(np.int64)
    options = {name: _code(random, share, count) for name, share in OPTIONAL_SHARES.items()}
    return Columns(moments.agent, moments.recorded, task, network, metrics, options)


def legal(metric: str, values: Floats) -> Floats:
    """The values inside what the schema allows, with few decimals."""
    return np.round(values.clip(*LIMITS[metric]), DECIMALS[metric])


def _bounded_normal(random: np.random.Generator, count: int) -> Floats:
    """Standard normal values, drawn again while outside REACH."""
    values = random.standard_normal(count)
    while (far := np.flatnonzero(np.abs(values) > REACH)).size:
        values[far] = random.standard_normal(far.size)
    return values


def _code(random: np.random.Generator, share: float, count: int) -> NDArray[np.int32]:
    return np.where(random.random(count) < share, random.integers(1, 1 << 16, count, np.int32), np.int32(0))
