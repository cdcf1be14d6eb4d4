"""The content of reports as numpy columns: times, the four metrics, and codes for optional fields."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic.fleet import LOG_METRICS, Fleet, Floats, make_random
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
"""Usual values stay within this many standard deviations, so values far outside were injected."""

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
"""The share of reports with each optional field (`gpu`: of agents that have one).

`time_style`: an unusual spelling of recorded_at.
"""


@dataclass(frozen=True)
class Columns:
    """n reports in time order.

    `agent` int64[n]: row of the fleet. `recorded` int64[n]: microseconds since 1970. `task` uint8[n, 16]:
    bytes of the UUID. `network` int64[n]: bytes. `metrics` by name, float64[n]. `options` by name of
    OPTIONAL_SHARES, int32[n]: 0 where the field is absent, else a number below 2**16 that decides the value.
    """

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
class ReportTimes:
    """The agent and time of each report.

    `agent` int64[n]; `recorded` int64[n] microseconds, ascending, from `start` to `start + span`
    (microseconds).
    """

    agent: NDArray[np.int64]
    recorded: NDArray[np.int64]
    start: int
    span: int

    def levels(self, fleet: Fleet, rows: NDArray[np.int64] | slice) -> dict[str, Floats]:
        """The usual level of each metric, float64[rows], for the agent and time of these rows."""
        recorded = self.recorded[rows]
        return fleet.compute_levels(
            self.agent[rows], (recorded - self.start) / self.span, recorded % (24 * HOUR) / HOUR
        )


def draw_daily_moments(count: int, agents: int, seed: int, start: int, span: int) -> ReportTimes:
    """Draw random times, most around 14:00 UTC and fewest around 02:00, each of a random agent."""
    random = make_random(seed, "moments")
    grid = np.linspace(0, span, max(2, span // (HOUR // 4) + 1))
    rate = 1 + 0.4 * np.sin(2 * np.pi * ((start + grid) / HOUR - 8) / 24)
    done = np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2)])
    shares = (np.arange(count) + random.random(count)) / max(count, 1)
    recorded = start + np.interp(shares, done / done[-1], grid).astype(np.int64)
    return ReportTimes(random.integers(0, agents, count), recorded, start, span)


def draw_regular_moments(count: int, agents: int, seed: int, start: int, span: int) -> ReportTimes:
    """Draw times at regular intervals, each moved by up to a fifth of one; each agent has its own phase."""
    random = make_random(seed, "moments")
    rows = np.arange(count)
    agent = rows % agents
    interval = span / max(1, -(-count // agents))
    phase = random.uniform(0.2, 0.8, agents)
    recorded = start + ((rows // agents + phase[agent] + random.uniform(-0.2, 0.2, count)) * interval).astype(
        np.int64
    )
    order = np.argsort(recorded, kind="stable")
    return ReportTimes(agent[order], recorded[order], start, span)


def draw_columns(fleet: Fleet, moments: ReportTimes, seed: int) -> Columns:
    """Draw a report for each moment, with every metric around its agent's level."""
    random = make_random(seed, "columns")
    count = len(moments.recorded)
    metrics = {}
    levels = moments.levels(fleet, slice(None))
    for metric in METRICS:
        noise = fleet.spreads[metric] * _draw_bounded_normal(random, count)
        level = levels[metric]
        metrics[metric] = clip_to_schema(
            metric, level * np.exp(noise) if metric in LOG_METRICS else level + noise
        )
    task = random.integers(0, 256, (count, 16), np.uint8)
    # Version and variant bits of a random (version 4) UUID.
    task[:, 6] = task[:, 6] & 0x0F | 0x40
    task[:, 8] = task[:, 8] & 0x3F | 0x80
    network = np.exp(random.normal(10, 2, count).clip(0, 25)).astype(np.int64)
    options = {name: _draw_codes(random, share, count) for name, share in OPTIONAL_SHARES.items()}
    return Columns(moments.agent, moments.recorded, task, network, metrics, options)


def clip_to_schema(metric: str, values: Floats) -> Floats:
    """Limit values to the range of the schema, and round them."""
    return np.round(values.clip(*LIMITS[metric]), DECIMALS[metric])


def _draw_bounded_normal(random: np.random.Generator, count: int) -> Floats:
    """Standard normal values, drawn again while outside REACH."""
    values = random.standard_normal(count)
    while (far := np.flatnonzero(np.abs(values) > REACH)).size:
        values[far] = random.standard_normal(far.size)
    return values


def _draw_codes(random: np.random.Generator, share: float, count: int) -> NDArray[np.int32]:
    return np.where(random.random(count) < share, random.integers(1, 1 << 16, count, np.int32), np.int32(0))
