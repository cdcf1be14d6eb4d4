"""docs/columns.md, "Distributions" of inconsistencies."""

import math
from collections import defaultdict
from fractions import Fraction
from typing import Any

from tests.transforms.derived.oracle.rows import HOUR, MINUTE, SECOND, Row, Settings, write_time

MILLION = 10**6
LEAST_REPORTS, LEAST_AGENTS = 10, 8


def read_cores(report: Row) -> float:
    return max(report["cpu_usage"], 0.01) * report["execution_context"]["available_cores"]


DISTRIBUTIONS = {
    "latency_distribution": lambda report: math.log(report["latency_ms"]),
    "accuracy_distribution": lambda report: report["accuracy"],
    "cpu_distribution": lambda report: math.log(read_cores(report)),
    "memory_distribution": lambda report: math.log(report["memory_mb"]),
}
"""The value v of a report for each rule."""


def round_half_away(value: float | Fraction) -> int:
    """The nearest integer; of two the one further from 0."""
    value = Fraction(value)
    rounded = math.floor(abs(value) + Fraction(1, 2))
    return rounded if value >= 0 else -rounded


class Level:
    """The values of one agent in a window, as the integers of the steps 1 to 3."""

    def __init__(self, values: list[int]) -> None:
        self.n = len(values)
        total = sum(values)
        self.x = round_half_away(Fraction(total, self.n))
        self.within = (self.n * sum(value**2 for value in values) - total**2) // self.n
        self.share = 10**9 // self.n


class Distributions:
    """Compares agents with the other agents of their type, hour by hour."""

    def __init__(self, reports: list[Row], settings: Settings) -> None:
        self.false_alarm_rate = settings["false_alarm_rate"]
        self.windows: dict[int, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for report in reports:
            received_at, recorded_at = report["received_at"], report["recorded_at"]
            if received_at is None or received_at - recorded_at <= 60 * SECOND:
                self.windows[recorded_at // HOUR * HOUR][report["agent_id"]].append(report)
        self.levels: dict[tuple[str, int, str], dict[str, Level]] = {}

    def find_evidence(self, rule: str, report: Row, cutoff: int) -> dict[str, Any] | None:
        """What is wrong with the agent of a report in its window; None if nothing is."""
        agent_id = report["agent_id"]
        start = (report["recorded_at"] - 2 * MINUTE) // HOUR * HOUR - HOUR
        own = self.windows.get(start, {}).get(agent_id, [])
        agent_type = find_type(own)
        if agent_type is None or cutoff < start + HOUR + MINUTE:
            return None
        levels = self.find_levels(rule, start, agent_type)
        if agent_id not in levels or len(levels) < LEAST_AGENTS:
            return None
        own_level = levels[agent_id]
        others = [level for name, level in levels.items() if name != agent_id]
        z = compare_level(own_level, others)
        if z is None or math.erfc(abs(z) / math.sqrt(2)) >= self.false_alarm_rate:
            return None
        return {
            "window_start": write_time(start),
            "agent_type": agent_type,
            "agents": len(levels),
            "reports": own_level.n,
            "level": own_level.x / MILLION,
            "others": float(Fraction(sum(other.x for other in others), len(others) * MILLION)),
            "z": round(z, 3),
        }

    def find_levels(self, rule: str, start: int, agent_type: str) -> dict[str, Level]:
        """The agents of a type that take part in a window."""
        key = rule, start, agent_type
        if key not in self.levels:
            self.levels[key] = {
                agent_id: Level([round_half_away(MILLION * DISTRIBUTIONS[rule](each)) for each in reports])
                for agent_id, reports in self.windows[start].items()
                if len(reports) >= LEAST_REPORTS and find_type(reports) == agent_type
            }
        return self.levels[key]


def find_type(reports: list[Row]) -> str | None:
    """The smallest type that reports name."""
    names = [report["target_agent_type"] for report in reports]
    return min((name for name in names if name is not None), default=None)


def compare_level(own: Level, others: list[Level]) -> float | None:
    """z of an agent among the others of its type, negative if its level is below theirs; None if V is 0."""
    k = len(others) + 1
    total, squares = sum(other.x for other in others), sum(other.x**2 for other in others)
    mean = Fraction(total, k - 1)
    variance = Fraction((k - 1) * squares - total**2, (k - 1) * (k - 2))
    share = Fraction(sum(other.share for other in others), k - 1)
    everyone = [own, *others]
    within = Fraction(sum(each.within for each in everyone), sum(each.n - 1 for each in everyone))
    v = variance * (1 + Fraction(1, k - 1)) + within * max(Fraction(0), own.share - share) / 10**9
    if v == 0:
        return None
    t2, f = (own.x - mean) ** 2 / v, k - 2
    z = Fraction(8 * f + 1, 8 * f + 3) * math.sqrt(f * math.log1p(t2 / f))
    return math.copysign(z, own.x - mean)
