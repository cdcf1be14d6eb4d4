"""A session: the reads between two points at which a reader hands its position to the runner."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

from transforms.sources.redis.offsets import Positions
from transforms.sources.redis.reader import Read

_PACE_SECONDS = 0.01
"""Least time between two reads of entries that come in one by one: each read costs the graph as much as one
of many rows."""


@dataclass(frozen=True)
class Session:
    """How a reader reads: it waits up to `idle_ms` for a first entry, reads on for `read_ms`, at most `count`
    entries of a stream at a time, and then hands its position to the runner. Entries cross a shuffle, and the
    watermark moves, only between sessions."""

    read_ms: int = 100
    idle_ms: int = 1000
    count: int = 5000


def read_session(
    read: Callable[[Positions, int, int], Read],
    positions: Positions,
    session: Session,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Read]:
    """The reads of one session from some positions: at least one, the last of them perhaps empty."""
    end = clock() + session.idle_ms / 1000
    begun = False
    while True:
        result = read(positions, session.count, max(0, ceil((end - clock()) * 1000)))
        came = clock()
        positions = result.positions
        if result.rows and not begun:
            begun, end = True, came + session.read_ms / 1000
        yield result
        if clock() >= end:
            return
        if result.rows and result.to_end:
            sleep(max(0.0, min(came + _PACE_SECONDS, end) - clock()))
