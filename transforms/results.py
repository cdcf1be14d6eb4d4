"""What a run reports at its end: Beam metrics, which every engine returns to the process that started the run.

`transforms.stages` also counts, but only within one process: for progress and timings.
"""

from dataclasses import dataclass

from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.runners.runner import PipelineResult

_NAMESPACE = "kpiflow"
MESSAGES = Metrics.counter(_NAMESPACE, "messages")
_INCOMPLETE = Metrics.counter(_NAMESPACE, "incomplete_files")
_PROBLEMS = Metrics.string_set(_NAMESPACE, "problems")


@dataclass(frozen=True)
class Results:
    """What one or more runs did.

    Attributes:
        messages: how many messages were validated.
        incomplete_files: how many input files could not be read to their end.
        problems: the name of each such file and the reason, sorted. Beam bounds the size of a metric to about 1 MB, so of very many
            files some may have no text here.
    """

    messages: int = 0
    incomplete_files: int = 0
    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, result: PipelineResult) -> "Results":
        """The results of a run that has ended."""
        found = result.metrics().query(MetricsFilter().with_namespace(_NAMESPACE))
        counts = {MESSAGES.metric_name.name: 0, _INCOMPLETE.metric_name.name: 0}
        for each in found["counters"]:
            counts[each.key.metric.name] += each.result
        texts = {text for each in found["string_sets"] for text in each.result}
        return cls(counts["messages"], counts["incomplete_files"], tuple(sorted(texts)))

    @classmethod
    def of_incomplete(cls, file: str, reason: str) -> "Results":
        """The results of reading a file outside of a graph, which failed."""
        return cls(incomplete_files=1, problems=(f"{file} {reason}",))

    def __add__(self, other: "Results") -> "Results":
        problems = tuple(sorted({*self.problems, *other.problems}))
        return Results(self.messages + other.messages, self.incomplete_files + other.incomplete_files, problems)


def count_incomplete(file: str, reason: str) -> None:
    """Count, within a DoFn, an input file that could not be read to its end."""
    _INCOMPLETE.inc()
    _PROBLEMS.add(f"{file} {reason}")
