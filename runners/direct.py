"""Run a batch graph on this machine, on FnApiRunner: Beam's `DirectRunner` would choose among three engines.

With workers every stage runs on all of them (`runners.forked_runner`), otherwise in this process.
"""

import gc
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult

from runners.forked_runner import ForkedRunner, InWorker
from runners.memory import prepare_memory
from runners.pipeline import make_pipeline
from runners.worker_processes import WorkerProcess

_TAKEN = {
    "--runner": "the option --runner of this command, before `--`, names the engine",
    "--direct_num_workers": "the option --workers of this command says how many processes work",
    "--direct_running_mode": "the option --workers of this command says how many processes work",
}


class TakenOptionError(ValueError):
    """A Beam option that this runner decides itself."""


def run(
    build: Callable[[beam.Pipeline], None],
    beam_options: Sequence[str] = (),
    workers: Sequence[WorkerProcess] = (),
    in_worker: InWorker | None = None,
) -> PipelineResult:
    """Build a pipeline and run it to its end. A DoFn's exception is raised here.

    All of it runs within `in_worker.within`, here and in the workers.

    Raises:
        TakenOptionError: the Beam options name what this runner decides.
        WorkerDied: a worker was killed, or ended by itself.
    """
    for option in beam_options:
        if fix := _TAKEN.get(option.partition("=")[0]):
            raise TakenOptionError(f"leave out the Beam option {option}: {fix}")
    in_worker = in_worker or InWorker()
    prepare_memory()
    try:
        with in_worker.within():
            runner = ForkedRunner(workers, in_worker) if workers else FnApiRunner()
            pipeline = make_pipeline(runner, PipelineOptions(list(beam_options)))
            build(pipeline)
            result = pipeline.run()
            result.wait_until_finish()
            return result
    finally:
        gc.collect()  # frees the batches that the pipeline holds in reference cycles before the next run
