"""The memory of processes that work long on large arrays."""

import ctypes
import gc

import pyarrow as pa

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
