"""Run a graph in this process, on FnApiRunner: Beam's `DirectRunner` would choose among three engines."""

import ctypes
import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult

from runners.pipeline import make_pipeline

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1 << 30
_ARENAS = 2


def prepare_memory() -> None:
    """Prepare this process for long work on large arrays. It changes the speed only.

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
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> PipelineResult:
    """Build a pipeline and run it to its end. A DoFn's exception is raised here.

    All of it runs inside `alone`, unless the Beam options ask for several processes.

    Raises:
        TakenOptionError: the Beam options name another runner.
    """
    if any(option.partition("=")[0] == "--runner" for option in beam_options):
        raise TakenOptionError(
            "leave out the Beam option --runner: this command always runs in its own process"
        )
    prepare_memory()
    options = PipelineOptions(list(beam_options))
    several = options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    try:
        with nullcontext() if several else alone():
            return _run_to_end(build, options)
    finally:
        gc.collect()  # frees the batches that the pipeline holds in reference cycles before the next run


def _run_to_end(build: Callable[[beam.Pipeline], None], options: PipelineOptions) -> PipelineResult:
    pipeline = make_pipeline(FnApiRunner(), options)
    build(pipeline)
    result = pipeline.run()
    result.wait_until_finish()
    return result
