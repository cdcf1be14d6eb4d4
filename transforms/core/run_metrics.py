"""The results of a run: Beam metrics, which every engine returns to the process that started it.

`transforms.core.stage_counters` counts within one process, for progress and timings.
"""

from dataclasses import dataclass

from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.runners.runner import PipelineResult

MESSAGES = Metrics.counter("kpiflow", "messages")
_INCOMPLETE = "kpiflow.incomplete"
"""A namespace of counters whose names are the texts to report: every engine merges counters, not every one
string sets."""


@dataclass(frozen=True)
class Results:
    """The results of one or more runs.

    Attributes:
        messages: how many messages were validated.
        incomplete: each input file that could not be read to its end, with the reason, sorted.
    """

    messages: int = 0
    incomplete: tuple[str, ...] = ()

    @classmethod
    def of(cls, result: PipelineResult) -> "Results":
        """The results of a run that has ended."""
        metrics = result.metrics()
        messages = metrics.query(MetricsFilter().with_metric(MESSAGES))["counters"]
        incomplete = metrics.query(MetricsFilter().with_namespace(_INCOMPLETE))["counters"]
        texts = sorted({each.key.metric.name for each in incomplete})
        return cls(sum(each.result for each in messages), tuple(texts))

    def __add__(self, other: "Results") -> "Results":
        return Results(self.messages + other.messages, tuple(sorted({*self.incomplete, *other.incomplete})))


def count_incomplete(file: str, reason: str) -> None:
    """Report, within a DoFn, an input file that could not be read to its end."""
    Metrics.counter(_INCOMPLETE, f"{file} {reason}").inc()
