"""The state of a stream's history as bytes: deltas, of a batch each, or the parts of a snapshot.

A delta is a header (version, number of agents, of seen reports, of feeding reports) and three packed
little-endian arrays: the 16 bytes of each agent's UUID; SEEN; FEEDING, whose `agent` is a place in the first
array. Deltas may be read in any order.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.history.rolling_window import FeedingReports
from transforms.history.seen_reports import COLUMNS, SeenReports

VERSION = 1
HEADER = struct.Struct("<HIII")
AGENT = np.dtype("V16")
SEEN = np.dtype([("minute", "<i8"), ("first", "<u8"), ("second", "<u8"), ("message", "<u8")])
FEEDING = np.dtype([("minute", "<i8"), ("agent", "<u4"), ("buckets", "<i2", (4,))])
DELTA_REPORTS = 1 << 13
"""Most reports of one delta, which then has at most 0.6 MB: it is one element of the runner's state."""

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Contents:
    """What deltas hold: seen reports and feeding reports, with the minute of each (int64[n]).

    `feeding.agent` is a place in `agents`, the 16 bytes of each agent's UUID.
    """

    agents: Sequence[bytes]
    seen_minute: Longs
    seen: SeenReports
    feeding_minute: Longs
    feeding: FeedingReports


def encode_deltas(contents: Contents) -> Iterator[bytes]:
    """Deltas of at most DELTA_REPORTS reports that together hold the contents; none if these are empty."""
    seen = np.empty(len(contents.seen), SEEN)
    seen["minute"] = contents.seen_minute
    for name in COLUMNS:
        seen[name] = getattr(contents.seen, name)
    feeding = np.empty(len(contents.feeding_minute), FEEDING)
    feeding["minute"] = contents.feeding_minute
    feeding["agent"], feeding["buckets"] = contents.feeding.agent, contents.feeding.buckets
    for start in range(0, max(len(seen), len(feeding)), DELTA_REPORTS):
        part = slice(start, start + DELTA_REPORTS)
        yield _encode_delta(contents.agents, seen[part], feeding[part])


def decode_deltas(deltas: Iterable[bytes]) -> Iterator[Contents]:
    """The contents of each delta.

    Raises:
        ValueError: a delta was written by another version.
    """
    for delta in deltas:
        version, agents, seen, feeding = HEADER.unpack_from(delta)
        if version != VERSION:
            raise ValueError(
                f"the state of history has version {version}, this is version {VERSION}; start with --fresh"
            )
        seen_at = HEADER.size + agents * AGENT.itemsize
        seen_rows = np.frombuffer(delta, SEEN, seen, seen_at)
        feeding_rows = np.frombuffer(delta, FEEDING, feeding, seen_at + seen * SEEN.itemsize)
        yield Contents(
            np.frombuffer(delta, AGENT, agents, HEADER.size).tolist(),
            seen_rows["minute"],
            SeenReports(*(seen_rows[name] for name in COLUMNS)),
            feeding_rows["minute"],
            FeedingReports(feeding_rows["agent"].astype(np.int32), feeding_rows["buckets"]),
        )


def _encode_delta(agents: Sequence[bytes], seen: NDArray, feeding: NDArray) -> bytes:
    """One delta, with only the agents that it names; their places in `feeding` are changed to match."""
    used, feeding["agent"] = np.unique(feeding["agent"], return_inverse=True)
    names = [agents[each] for each in used.tolist()]
    header = HEADER.pack(VERSION, len(names), len(seen), len(feeding))
    return b"".join([header, *names, seen.tobytes(), feeding.tobytes()])
