"""`KpiTestGenerator`: reproducible KPI reports for tests, as JSON documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from pipelines.synthetic.columns import (
    LIMITS,
    Columns,
    ReportTimes,
    draw_columns,
    draw_daily_moments,
    draw_regular_moments,
)
from pipelines.synthetic.fleet import PATTERNS, SLOW, Fleet, build_fleet
from pipelines.synthetic.injected_outliers import ADVERSE, FARTHEST, HISTORY, Injected, inject_outliers
from pipelines.synthetic.json_columns import format_reports, format_uuids
from transforms.core.counts import format_count

START = datetime(2025, 10, 20, tzinfo=UTC)
"""Default first moment: fixed (a Monday), so that runs are reproducible."""

Scenario = Literal["normal", "anomaly", "performance"]
ANOMALY_INTERVAL = timedelta(seconds=30)
"""How often each agent reports in the anomaly scenario, unless a span is given."""
_DENSE = (timedelta(seconds=20), timedelta(seconds=60))
_SPANS = (timedelta(seconds=1), timedelta(days=3660))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BLOCK = 100_000


@dataclass(frozen=True)
class KpiTestGenerator:
    """Reports of a fleet of agents, valid against `schemas/kpi_report.v1.json`, in order of `recorded_at`.

    Every method is a pure function of the fields and its arguments: equal calls give equal documents.

        >>> generator = KpiTestGenerator(agents=3, seed=7)
        >>> [sorted(report)[:3] for report in generator.generate_batch(1)]
        [['accuracy', 'agent_id', 'cpu_usage']]
        >>> {metric: len(ids) for metric, ids in generator.anomaly_task_ids(1200).items()}
        {'latency': 3, 'accuracy': 3, 'cpu': 3, 'memory': 3}

    Attributes: agents: number of agents. Each has its own usual level of every metric. seed: 0 or more.
        Decides all random values. task_types: types of agents, assigned in turn; later types are slower.
        Reported as `target_agent_type`. latency_median_ms: median latency in milliseconds of an average agent
        of the first type. Agents have 0.6 to
            3.2 times this.
        latency_sigma: standard deviation of the logarithm of an agent's latency. accuracy_median: median
        accuracy of the best agent. The others are up to 0.06 below it. accuracy_deviation: standard deviation
        of an agent's accuracy. start: first moment of the reports, with a time zone. span: time that the
        reports cover. None is 48 h, or 30 s for each report of an agent in the anomaly scenario.

    Raises:
        ValueError: a field is out of range, or outliers would leave the range that the schema allows.
    """

    agents: int = 50
    seed: int = 0
    task_types: tuple[str, ...] = ("inference", "retrieval", "planning", "training")
    latency_median_ms: float = 180.0
    latency_sigma: float = 0.2
    accuracy_median: float = 0.94
    accuracy_deviation: float = 0.015
    start: datetime = START
    span: timedelta | None = None

    def __post_init__(self) -> None:
        _check(self.agents >= 1, f"{self.agents} agents cannot report; ask for 1 or more")
        _check(self.seed >= 0, f"seed {self.seed} is negative; give 0 or more")
        _check(bool(self.task_types), "no task type; give at least one name")
        _check(
            all(len(name) <= 100 for name in self.task_types),
            "a task type is longer than 100 characters",
        )
        _check(self.start.tzinfo is not None, "start has no time zone; give one, such as datetime.UTC")
        _check(1971 <= self.start.year <= 9000, f"start {self.start} is outside the years 1971 to 9000")
        _check(
            self.span is None or _SPANS[0] <= self.span <= _SPANS[1],
            f"span {self.span} is not from 1 s to 10 years",
        )
        positive = min(self.latency_median_ms, self.latency_sigma, self.accuracy_deviation) > 0
        _check(positive, "latency_median_ms, latency_sigma and accuracy_deviation must be above 0")
        fleet = self._fleet(["steady"])
        for metric in ("latency", "accuracy"):
            _check_room(fleet, metric)

    def generate_batch(self, count: int) -> list[dict[str, Any]]:
        """Generate `count` ordinary reports: steady agents, more reports by day, no outliers."""
        return self._make_documents(count, "normal", 0.0)

    def generate_anomaly_scenario(self, count: int = 10_000, outliers: float = 0.01) -> list[dict[str, Any]]:
        """Generate reports of steady agents, every 30 s (with `span`: 20 to 60 s), with a share of
        `outliers`.

        An outlier is a latency spike, an accuracy drop, or a surge of cpu or memory, 9 to 14 interquartile
        ranges outside the agent's usual quartiles. It needs 40 reports of the agent in minutes
        [m - 62, m - 2) before its minute m. At most one in five of such reports becomes an outlier.
        `anomaly_task_ids` lists them.

        Raises:
            ValueError: too few reports for such a history, reports too far apart, or a share outside [0, 1].
        """
        return self._make_documents(count, "anomaly", outliers)

    def anomaly_task_ids(self, count: int = 10_000, outliers: float = 0.01) -> dict[str, list[str]]:
        """The task_id of every outlier of `generate_anomaly_scenario` with the same arguments, by metric."""
        return list_task_ids(self._inject(count, "anomaly", outliers)[1])

    def generate_performance_scenario(self, count: int = 10_000) -> list[dict[str, Any]]:
        """Generate reports of agents that each follow one of `performance_patterns`, without outliers."""
        return self._make_documents(count, "performance", 0.0)

    def performance_patterns(self) -> dict[str, str]:
        """The pattern of each agent of the performance scenario, by agent_id: see
        `pipelines.synthetic.fleet.PATTERNS`.
        """
        fleet = self.fleet("performance")
        return dict(zip(fleet.ids.to_pylist(), fleet.patterns))

    def fleet(self, scenario: Scenario) -> Fleet:
        """The agents of a scenario."""
        return self._fleet(list(PATTERNS) if scenario == "performance" else ["steady"])

    def moments(self, count: int, scenario: Scenario) -> ReportTimes:
        """The agent and time of each report of a scenario.

        Raises:
            ValueError: as `generate_anomaly_scenario`.
        """
        span, start = (
            self.compute_span(count, scenario) // _MICROSECOND,
            (self.start - _EPOCH) // _MICROSECOND,
        )
        draw = draw_regular_moments if scenario == "anomaly" else draw_daily_moments
        return draw(count, self.agents, self.seed, start, span)

    def columns(self, fleet: Fleet, moments: ReportTimes) -> Columns:
        """The reports of these moments as columns, without outliers."""
        return draw_columns(fleet, moments, self.seed)

    def compute_span(self, count: int, scenario: Scenario) -> timedelta:
        """The time that `count` reports of a scenario cover."""
        if scenario != "anomaly":
            return timedelta(hours=48) if self.span is None else self.span
        each = -(-count // self.agents)
        _check(
            each > HISTORY,
            f"{self._describe(count)} cannot be an anomaly scenario, whose agents need a history of "
            f"{HISTORY} reports; ask for {self.agents * 2 * HISTORY} reports or for fewer agents",
        )
        span = each * ANOMALY_INTERVAL if self.span is None else self.span
        shortest, longest = (each * interval for interval in _DENSE)
        _check(
            shortest <= span <= longest,
            f"each agent of an anomaly scenario reports every 20 to 60 s, so the span of "
            f"{self._describe(count)} must be from {shortest} to {longest}, "
            f"not {span}; leave the span out to get {each * ANOMALY_INTERVAL}",
        )
        return span

    def _describe(self, count: int) -> str:
        return f"{format_count(count, 'report')} of {format_count(self.agents, 'agent')}"

    def _fleet(self, patterns: list[str]) -> Fleet:
        medians = {"latency": self.latency_median_ms, "accuracy": self.accuracy_median}
        spreads = {"latency": self.latency_sigma, "accuracy": self.accuracy_deviation}
        return build_fleet(self.agents, self.seed, self.task_types, medians, spreads, patterns)

    def _inject(self, count: int, scenario: Scenario, outliers: float) -> tuple[Fleet, Injected]:
        _check(count >= 0, f"a count of {count} is not possible; ask for 0 or more")
        _check(0 <= outliers <= 1, f"outliers = {outliers} is not a share; give a number from 0 to 1")
        fleet, moments = self.fleet(scenario), self.moments(count, scenario)
        everyone: NDArray[np.bool_] = np.ones(count, bool)
        return fleet, inject_outliers(
            self.columns(fleet, moments), moments, fleet, everyone, round(outliers * count), self.seed
        )

    def _make_documents(self, count: int, scenario: Scenario, outliers: float) -> list[dict[str, Any]]:
        fleet, injected = self._inject(count, scenario, outliers)
        return [
            document
            for block in _split_blocks(count)
            for document in _parse(injected.columns.take(block), fleet)
        ]


def list_task_ids(injected: Injected) -> dict[str, list[str]]:
    """The task_ids of the outliers by metric."""
    return {
        metric: format_uuids(injected.columns.task[rows]).to_pylist()
        for metric, rows in injected.rows.items()
    }


def _parse(columns: Columns, fleet: Fleet) -> Iterator[dict[str, Any]]:
    return map(orjson.loads, format_reports(columns, fleet).to_pylist())


def _split_blocks(count: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(first, min(first + _BLOCK, count)) for first in range(0, count, _BLOCK))


def _check_room(fleet: Fleet, metric: str) -> None:
    """Check that the farthest outlier of every agent, also in the slowest pattern, is valid by the schema."""
    level = fleet.levels[metric] * (SLOW if metric == "latency" else 1)
    q1, q3 = fleet.quartiles(metric, level)
    reach = FARTHEST * (q3 - q1)
    low, high = LIMITS[metric]
    fits = np.all((q3 + reach < high) if ADVERSE[metric] > 0 else (q1 - reach > low) & (level <= high))
    _check(
        bool(fits),
        f"outliers of {metric} would be outside the valid range, {low} to {high}: lower its deviation or "
        f"move its median",
    )


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
