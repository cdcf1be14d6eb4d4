"""What came in, as numbers: the object that the terminal, the page and JSON show."""

from dataclasses import dataclass
from datetime import datetime

from pipelines.summary.quality import Quality
from schemas.kinds import REPORT_KIND

UNITS = {"latency": " ms", "accuracy": "", "cpu": "", "memory": " MB"}
"""What follows a value of each metric; fractions have no unit."""


@dataclass(frozen=True)
class LatencySummary:
    """Latency percentiles of an hour in ms, each the plain median over the agents' own percentiles."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    agents: int


@dataclass(frozen=True)
class HourCounts:
    """One UTC hour.

    Reports and their flagged values count by recorded_at, duplicates and quarantined messages by received_at.
    """

    start: datetime
    reports: int
    failed: int
    duplicates: int
    quarantined: int
    outliers: dict[str, int]
    latency: LatencySummary | None

    @property
    def success_rate(self) -> float | None:
        """Share of the reports without error_details; None without reports."""
        return compute_success_rate(self.reports, self.failed)


@dataclass(frozen=True)
class Agent:
    """One agent: its reports, how many of them failed, and its flagged values by metric."""

    agent_id: str
    reports: int
    failed: int
    outliers: dict[str, int]


@dataclass(frozen=True)
class Outlier:
    """One flagged value and the baseline that flagged it; a number that was not stored is None."""

    metric: str
    agent_id: str
    task_id: str
    recorded_at: datetime
    value: float
    low_fence: float | None
    high_fence: float | None
    q1: float | None
    q3: float | None
    baseline_n: int | None

    def explain(self) -> str:
        """The flag in words: `latency 8123 ms > high fence 812 ms (q1 201, q3 354, n 61)`."""
        below = self.low_fence is not None and self.value < self.low_fence
        side, fence = ("< low", self.low_fence) if below else ("> high", self.high_fence)
        unit = UNITS[self.metric]
        value, limit = f"{format_number(self.value)}{unit}", f"{format_number(fence)}{unit}"
        q1, q3, n = map(format_number, (self.q1, self.q3, self.baseline_n))
        return f"{self.metric} {value} {side} fence {limit} (q1 {q1}, q3 {q3}, n {n})"


@dataclass(frozen=True)
class Reason:
    """A reason of quarantine. Field, rule and example are those of its most frequent cause."""

    reason: str
    count: int
    field: str | None
    rule: str | None
    example: str | None


@dataclass(frozen=True)
class KindCounts:
    """The messages of a kind (the name of its schema), by their fate."""

    kind: str
    stored: int
    duplicates: int
    quarantined: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.stored + self.duplicates + self.quarantined


@dataclass(frozen=True)
class Summary:
    """A whole output.

    `kinds` is empty if all messages are reports. Duplicates and quarantined messages count of all kinds.
    `hours` is in time order, without the hours that have no messages. `quality` is None if there are no
    derived tables.
    """

    output: str
    reports: int
    failed: int
    duplicates: int
    quarantined: int
    agents: int
    first: datetime | None
    last: datetime | None
    hours: tuple[HourCounts, ...]
    outliers: dict[str, int]
    examples: tuple[Outlier, ...]
    worst_agents: tuple[Agent, ...]
    reasons: tuple[Reason, ...]
    kinds: tuple[KindCounts, ...] = ()
    quality: Quality | None = None

    @property
    def records(self) -> int:
        """Stored messages that are no reports."""
        return sum(each.stored for each in self.kinds if each.kind != REPORT_KIND.schema)

    @property
    def received(self) -> int:
        """Messages in any table."""
        return self.reports + self.records + self.duplicates + self.quarantined

    @property
    def success_rate(self) -> float | None:
        """Share of the reports without error_details; None without reports."""
        return compute_success_rate(self.reports, self.failed)

    def share(self, count: int) -> float:
        """`count` as a share of what was received, 0 when nothing was."""
        return count / self.received if self.received else 0.0


def compute_success_rate(reports: int, failed: int) -> float | None:
    """Share of `reports` that did not fail; None without reports."""
    return (reports - failed) / reports if reports else None


def format_number(value: float | None) -> str:
    """A value as an integer from 100 on, else with four significant digits."""
    if value is None:
        return "?"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.4g}"


def format_percent(share: float | None) -> str:
    """A share as `97.3 %`, None as `-`. Only 0 and 1 read as 0 % and 100 %: other shares are rounded away
    from them.
    """
    if share is None:
        return "-"
    low, high = (0.001, 0.999) if 0 < share < 1 else (0.0, 1.0)
    return f"{100 * min(max(share, low), high):.1f} %"
