"""Running a graph in this process."""

import os
from functools import partial
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineState

from runners import direct
from runners.forked_runner import ForkedRunner, InWorker
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
    direct.run(lambda root: built.append(root), ["--job_name=of-a-test"])
    (pipeline,) = built
    assert isinstance(pipeline.runner, FnApiRunner)
    assert not isinstance(pipeline.runner, ForkedRunner)
    assert pipeline.options.view_as(GoogleCloudOptions).job_name == "of-a-test"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--runner=FlinkRunner"], "--runner"),
        (["--runner", "DirectRunner"], "--runner"),
        (["--job_name=x", "--direct_num_workers=3"], "--workers"),
        (["--direct_num_workers", "3"], "--workers"),
        (["--direct_running_mode=multi_processing"], "--workers"),
    ],
)
def test_an_option_that_the_engine_decides_is_refused_before_anything_is_built(
    options: list[str], named: str
) -> None:
    with pytest.raises(direct.TakenOptionError, match=rf"leave out the Beam option --.*the option {named} "):
        direct.run(lambda root: pytest.fail("was built"), options)


def test_what_a_step_raises_is_raised_here() -> None:
    def fail(number: int) -> None:
        raise ZeroDivisionError(f"number {number}")

    with pytest.raises(Exception, match="number 7"):
        direct.run(lambda root: root | beam.Create([7]) | beam.Map(fail))


def test_all_of_it_runs_within_the_context(tmp_path: Path) -> None:
    """A slice that goes through a spool has buffers of its own; what is not encoded has those of its
    parent."""
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
        in_worker=InWorker(partial(pass_by_reference, tmp_path)),
    )
    assert int(size.read_text()) < 1000
    assert len(list(tmp_path.glob("*.arrows"))) == 1
