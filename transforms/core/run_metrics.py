"""The results of a run: Beam metrics, which every engine returns to the process that started it.

`transforms.core.stage_counters` counts within one process, for progress and timings.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from apache_beam.metrics import Metrics
from apache_beam.runners.runner import PipelineResult

MESSAGES = Metrics.counter("kpiflow", "messages")
_ROWS, _MICROSECONDS = "kpiflow.stage.rows", "kpiflow.stage.microseconds"
"""Namespaces of counters that are named by the stages of the graph."""
_INCOMPLETE = "kpiflow.incomplete"
"""A namespace of counters whose names are the texts to report: every engine merges counters, not every one
string sets."""


@dataclass(frozen=True)
class Results:
    """The results of one or more runs.

    Attributes:
        messages: how many messages were validated.
        incomplete: each input file that could not be read to its end, with the reason, sorted.
        stages: the rows that entered each stage, and the seconds spent in it over all workers.
    """

    messages: int = 0
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
        return cls(messages, tuple(sorted(counted[_INCOMPLETE])), stages)


def count_in_run(stage: str, rows: int, seconds: float) -> None:
    """Count rows that entered a stage and the time spent in it, for the run; outside a DoFn do nothing."""
    Metrics.counter(_ROWS, stage).inc(rows)
    Metrics.counter(_MICROSECONDS, stage).inc(round(seconds * 1e6))


def count_incomplete(file: str, reason: str) -> None:
    """Report, within a DoFn, an input file that could not be read to its end."""
    Metrics.counter(_INCOMPLETE, f"{file} {reason}").inc()
