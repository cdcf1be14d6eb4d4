"""A session: the reads between two points at which a reader hands its position to the runner.

What is read crosses a shuffle when its session ends. So a reader that keeps up ends a session with its first
entries. One that is behind reads on: each session costs the runner and the graph a fixed time.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

from transforms.sources.redis.offsets import Positions
from transforms.sources.redis.reader import ReadEntries


@dataclass(frozen=True)
class Session:
    """How a reader reads: it waits up to `idle_ms` for a first entry, at most `count` entries of a stream at
    a time. It then hands its position to the runner once it has read every stream to its end, or after
    `read_ms` if it is behind for so long. Entries cross a shuffle, and the watermark moves, only between
    sessions."""

    read_ms: int = 1000
    idle_ms: int = 1000
    count: int = 50_000


def read_session(
    read: Callable[[Positions, int, int], ReadEntries],
    positions: Positions,
    session: Session,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[ReadEntries]:
    """The reads of one session from some positions: at least one, the last of them perhaps empty."""
    end = clock() + session.idle_ms / 1000
    begun = False
    while True:
        wait_ms = 0 if begun else max(0, ceil((end - clock()) * 1000))
        result = read(positions, session.count, wait_ms)
        positions = result.positions
        if result.rows and not begun:
            begun, end = True, clock() + session.read_ms / 1000
        yield result
        if clock() >= end or (begun and result.to_end):
            return
