"""Running a graph in this process."""

import os
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineState

from runners import direct
from transforms.core.arrow_coder import pass_by_reference

SEEN: list[tuple[int, int]] = []


def see(number: int) -> None:
    SEEN.append((os.getpid(), number))


def test_the_graph_has_run_to_its_end_in_this_process() -> None:
    SEEN.clear()
    result = direct.run(lambda root: root | beam.Create([1, 2, 3]) | beam.Map(see))
    assert sorted(SEEN) == [(os.getpid(), number) for number in (1, 2, 3)]
    assert result.state == PipelineState.DONE


def test_the_runner_is_named_and_the_options_are_beams() -> None:
    built: list[beam.Pipeline] = []
    direct.run(lambda root: built.append(root), ["--direct_num_workers=3"])
    (pipeline,) = built
    assert isinstance(pipeline.runner, FnApiRunner)
    assert pipeline.options.view_as(DirectOptions).direct_num_workers == 3


@pytest.mark.parametrize("options", [["--runner=FlinkRunner"], ["--runner", "DirectRunner"]])
def test_another_runner_is_refused_before_anything_is_built(options: list[str]) -> None:
    with pytest.raises(ValueError, match="leave out the Beam option --runner"):
        direct.run(lambda root: pytest.fail("was built"), options)


def test_what_a_step_raises_is_raised_here() -> None:
    def fail(number: int) -> None:
        raise ZeroDivisionError(f"number {number}")

    with pytest.raises(Exception, match="number 7"):
        direct.run(lambda root: root | beam.Create([7]) | beam.Map(fail))


@pytest.mark.parametrize(
    ("mode", "written"), [("in_memory", False), ("multi_threading", False), ("multi_processing", True)]
)
def test_batches_are_written_only_for_another_process(mode: str, written: bool, tmp_path: Path) -> None:
    """A slice that was not written still has the buffers of its parent; one that was written has its own."""
    size = tmp_path / "size"
    rows = pa.RecordBatch.from_pydict({"agent_id": [f"agent {number}" for number in range(1000)]})
    grouped = beam.Map(lambda _: (0, rows.slice(0, 1))).with_output_types(tuple[int, pa.RecordBatch])
    direct.run(
        lambda root: (
            root
            | beam.Create([0])
            | grouped
            | beam.GroupByKey()
            | beam.MapTuple(
                lambda _, batches: size.write_text(
                    str(sum(batch.get_total_buffer_size() for batch in batches))
                )
            )
        ),
        [f"--direct_running_mode={mode}", "--direct_num_workers=2"],
        pass_by_reference,
    )
    assert (int(size.read_text()) < 1000) is written
