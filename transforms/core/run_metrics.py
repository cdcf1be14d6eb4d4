"""The results of a run: Beam metrics, which every engine returns to the process that started it.

`transforms.core.stage_counters` counts within one process, for progress and timings.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from apache_beam.metrics import Metrics
from apache_beam.runners.runner import PipelineResult

from transforms.core.process_stats import count_expired as count_expired_here

MESSAGES = Metrics.counter("kpiflow", "messages")
_ROWS, _MICROSECONDS = "kpiflow.stage.rows", "kpiflow.stage.microseconds"
"""Namespaces of counters that are named by the stages of the graph."""
_EXPIRED = "kpiflow.expired"
"""Namespace of counters that are named by the kinds of messages."""
_INCOMPLETE = "kpiflow.incomplete"
"""A namespace of counters whose names are the texts to report: every engine merges counters, not every one
string sets."""


@dataclass(frozen=True)
class Results:
    """The results of one or more runs.

    Attributes:
        messages: how many messages were validated.
        expired: how many of them were not written, because their rows would lie in what has expired, by kind.
        incomplete: each input file that could not be read to its end, with the reason, sorted.
        stages: the rows that entered each stage, and the seconds spent in it over all workers.
    """

    messages: int = 0
    expired: Mapping[str, int] = field(default_factory=dict)
    incomplete: tuple[str, ...] = ()
    stages: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, result: PipelineResult) -> "Results":
        """The results of a run that has ended."""
        counted: dict[str, Counter[str]] = defaultdict(Counter)
        for each in result.metrics().query()["counters"]:
            counted[str(each.key.metric.namespace)][str(each.key.metric.name)] += each.result
        rows, microseconds = counted[_ROWS], counted[_MICROSECONDS]
        stages = {name: (rows[name], microseconds[name] / 1e6) for name in rows}
        messages = counted[str(MESSAGES.metric_name.namespace)][str(MESSAGES.metric_name.name)]
        return cls(messages, counted[_EXPIRED], tuple(sorted(counted[_INCOMPLETE])), stages)


def count_in_run(stage: str, rows: int, seconds: float) -> None:
    """Count rows that entered a stage and the time spent in it, for the run; outside a DoFn do nothing."""
    Metrics.counter(_ROWS, stage).inc(rows)
    Metrics.counter(_MICROSECONDS, stage).inc(round(seconds * 1e6))


def count_expired(kind: str, messages: int) -> None:
    """Count messages of a kind that are not written because their rows would lie in what has expired."""
    if messages:
        Metrics.counter(_EXPIRED, kind).inc(messages)
        count_expired_here(kind, messages)


def count_incomplete(file: str, reason: str) -> None:
    """Report, within a DoFn, an input file that could not be read to its end."""
    Metrics.counter(_INCOMPLETE, f"{file} {reason}").inc()
