"""What a run reports at its end."""

import apache_beam as beam
import pytest

from runners import direct
from tests.builders import messages, report
from transforms.core.run_metrics import Results, count_incomplete
from transforms.validation.validate import Validate


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_messages_and_incomplete_files_are_counted_in_every_mode(mode: str) -> None:
    def build(root: beam.Pipeline) -> None:
        _ = root | beam.Create([messages([report(1), "{"]), messages([report(2)])]) | Validate()
        _ = (
            root
            | "Files" >> beam.Create([("b.ndjson", "cut short"), ("a.ndjson", "é")])
            | beam.MapTuple(count_incomplete)
        )

    result = direct.run(build, [f"--direct_running_mode={mode}", "--direct_num_workers=2"])
    assert Results.of(result) == Results(3, ("a.ndjson é", "b.ndjson cut short"))


def test_a_run_without_messages_has_the_results_of_none() -> None:
    assert Results.of(direct.run(lambda root: root | beam.Create([1]))) == Results()


def test_results_of_several_runs_add_up_and_name_a_file_once() -> None:
    one = Results(3, ("b cut",))
    assert one + Results(4) + Results(0, ("a cut",)) == Results(7, ("a cut", "b cut"))
