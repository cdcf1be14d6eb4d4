"""Run a graph in this process, on FnApiRunner by name: `DirectRunner` would choose among three engines by itself."""

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


def settle() -> None:
    """Set this process up for long work on large arrays. Rows are the same without it, only later.

    What is loaded now lives to the end, so the garbage collector need not look at it again. Large arrays come and go with every
    batch, and a third of a backfill's time went into the page faults of fresh ones: memory that is freed is kept for the next.
    Arrow is put on the C library's allocator for that, which can be told so where it is glibc.
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
    """Build a pipeline and run it to its end, within `alone` if all of it runs in this process; a DoFn's exception is raised here.

    Raises:
        TakenOptionError: the Beam options name another runner.
    """
    if any(option.partition("=")[0] == "--runner" for option in beam_options):
        raise TakenOptionError(
            "the Beam option --runner is taken: this command runs in its own process, on FnApiRunner"
        )
    settle()
    options = PipelineOptions(list(beam_options))
    several = options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    try:
        with nullcontext() if several else alone():
            return _finished(build, options)
    finally:
        gc.collect()  # what a pipeline held in circles would otherwise be there, batches and all, while the next one runs


def _finished(build: Callable[[beam.Pipeline], None], options: PipelineOptions) -> PipelineResult:
    pipeline = make_pipeline(FnApiRunner(), options)
    build(pipeline)
    result = pipeline.run()
    result.wait_until_finish()
    return result
