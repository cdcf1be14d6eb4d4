"""Run a graph in this process, on FnApiRunner by name: `DirectRunner` would choose among three engines by itself."""

from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult


def run(build: Callable[[beam.Pipeline], None], beam_options: Sequence[str] = ()) -> PipelineResult:
    """Build a pipeline and run it to its end; a DoFn's exception is raised here.

    Raises:
        ValueError: the Beam options name another runner.
    """
    if any(option.partition("=")[0] == "--runner" for option in beam_options):
        raise ValueError("the Beam option --runner is taken: this command runs in its own process, on FnApiRunner")
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(list(beam_options)))
    build(pipeline)
    result = pipeline.run()
    result.wait_until_finish()
    return result
