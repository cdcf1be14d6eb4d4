"""What a stream's history remembers, as bytes: what one batch added, or a part of all there is.

A delta is a header (version, number of agents, of reports seen, of reports that feed) and three packed little-endian arrays: the
16 bytes of each agent's UUID; SEEN; FED, whose `agent` is a place in the first array. Deltas may be read in any order.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.history.rolling_window import FeedingReports
from transforms.history.seen_reports import SeenReports

VERSION = 1
HEADER = struct.Struct("<HIII")
AGENT = np.dtype("V16")
SEEN = np.dtype([("minute", "<i8"), ("first", "<u8"), ("second", "<u8"), ("message", "<u8")])
FED = np.dtype([("minute", "<i8"), ("agent", "<u4"), ("buckets", "<i2", (4,))])
PART = 1 << 13
"""Most reports of one delta, which is then no larger than 0.6 MB: a runner carries it as one element of state."""

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Remembered:
    """Reports seen and reports that feed, with the minute of each; `fed.agent` is a place in `agents`, their 16 bytes."""

    agents: Sequence[bytes]
    seen_minute: Longs
    seen: SeenReports
    fed_minute: Longs
    fed: FeedingReports


def encode_deltas(remembered: Remembered) -> Iterator[bytes]:
    """Deltas of at most PART reports, together all that is remembered; none if that is nothing."""
    seen = np.empty(len(remembered.seen), SEEN)
    seen["minute"] = remembered.seen_minute
    for name in ("first", "second", "message"):
        seen[name] = getattr(remembered.seen, name)
    fed = np.empty(len(remembered.fed_minute), FED)
    fed["minute"], fed["agent"], fed["buckets"] = (
        remembered.fed_minute,
        remembered.fed.agent,
        remembered.fed.buckets,
    )
    for start in range(0, max(len(seen), len(fed)), PART):
        yield _encoded(remembered.agents, seen[start : start + PART], fed[start : start + PART])


def decode_deltas(deltas: Iterable[bytes]) -> Iterator[Remembered]:
    """What each delta holds.

    Raises:
        ValueError: a delta was written by another version.
    """
    for delta in deltas:
        version, agents, seen, fed = HEADER.unpack_from(delta)
        if version != VERSION:
            raise ValueError(
                f"the state of history has version {version}, this is version {VERSION}; start with --fresh"
            )
        at_seen = HEADER.size + agents * AGENT.itemsize
        at_fed = at_seen + seen * SEEN.itemsize
        saw, fed_rows = np.frombuffer(delta, SEEN, seen, at_seen), np.frombuffer(delta, FED, fed, at_fed)
        yield Remembered(
            np.frombuffer(delta, AGENT, agents, HEADER.size).tolist(),
            saw["minute"],
            SeenReports(saw["first"], saw["second"], saw["message"]),
            fed_rows["minute"],
            FeedingReports(fed_rows["agent"].astype(np.int32), fed_rows["buckets"]),
        )


def _encoded(agents: Sequence[bytes], seen: NDArray, fed: NDArray) -> bytes:
    """One delta, with only the agents that it needs."""
    used, fed["agent"] = np.unique(fed["agent"], return_inverse=True)
    names = [agents[each] for each in used.tolist()]
    return b"".join(
        [HEADER.pack(VERSION, len(names), len(seen), len(fed)), *names, seen.tobytes(), fed.tobytes()]
    )
