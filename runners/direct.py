"""Run a batch graph on this machine, on FnApiRunner: Beam's `DirectRunner` would choose among three engines.

With workers every stage runs on all of them (`runners.forked_runner`), otherwise in this process.
"""

import ctypes
import gc
from collections.abc import Callable, Sequence

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult

from runners.forked_runner import ForkedRunner, InWorker
from runners.pipeline import make_pipeline
from runners.worker_processes import WorkerProcess

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1 << 30
_ARENAS = 2
_TAKEN = {
    "--runner": "the option --runner of this command, before `--`, names the engine",
    "--direct_num_workers": "the option --workers of this command says how many processes work",
    "--direct_running_mode": "the option --workers of this command says how many processes work",
}


def prepare_memory() -> None:
    """Prepare this process, and those forked from it, for long work on large arrays. It changes speed only.

    What is loaded now lives to the end, so the garbage collector can skip it. Large arrays come and go with
    every batch, and a third of a backfill's time went into the page faults of new ones: freed memory is kept
    for the next. So Arrow uses the C library's allocator, which glibc lets us configure.
    """
    gc.freeze()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    wanted = ((_MMAP_THRESHOLD, _KEPT_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES), (_ARENA_MAX, _ARENAS))
    if mallopt is not None and all(mallopt(name, value) for name, value in wanted):
        pa.set_memory_pool(pa.system_memory_pool())


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
