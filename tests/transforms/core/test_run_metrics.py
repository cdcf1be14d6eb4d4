"""What a run reports at its end."""

import apache_beam as beam
import pytest

from runners import direct
from runners.worker_processes import fork_workers
from tests.builders import messages, report
from transforms.core.run_metrics import Results, count_in_run, count_incomplete
from transforms.validation.validate import Validate


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_are_the_same_with_any_number_of_workers(workers: int) -> None:
    def build(root: beam.Pipeline) -> None:
        _ = root | beam.Create([messages([report(1), "{"]), messages([report(2)])]) | Validate()
        _ = (
            root
            | "Files" >> beam.Create([("b.ndjson", "cut short"), ("a.ndjson", "é"), ("a.ndjson", "é")])
            | beam.MapTuple(count_incomplete)
        )
        _ = (
            root
            | "Stages" >> beam.Create([("write x", 3, 0.5), ("write x", 4, 1.25)])
            | "Count" >> beam.MapTuple(count_in_run)
        )

    with fork_workers(workers) as forked:
        results = Results.of(direct.run(build, workers=forked))
    assert (results.messages, results.incomplete) == (3, ("a.ndjson é", "b.ndjson cut short"))
    assert results.stages["write x"] == (7, 1.75)
    assert results.stages["validate"][0] == 3


def test_a_run_without_messages_has_the_results_of_none() -> None:
    assert Results.of(direct.run(lambda root: root | beam.Create([1]))) == Results()


def test_outside_of_a_run_nothing_is_counted() -> None:
    count_in_run("validate", 3, 0.5)
    assert Results.of(direct.run(lambda root: root | beam.Create([1]))) == Results()
