"""Sparse latency histograms of many rows, merged and read without a loop over rows.

Row i has the entries `offsets[i]:offsets[i + 1]`, ascending by bucket, on the scale LATENCY.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core.grouping import Groups, group_rows
from transforms.core.histogram_scales import SCALES

LATENCY = SCALES["latency"]
PERCENTS = (50, 95, 99)

Floats = NDArray[np.float64]


class Histograms(NamedTuple):
    """The histograms of n rows with m entries.

    `offsets` int64[n + 1], `buckets` int32[m], `counts` int64[m].
    """

    offsets: NDArray[np.int64]
    buckets: NDArray[np.int32]
    counts: NDArray[np.int64]

    @classmethod
    def of_values(cls, latency_ms: Floats) -> "Histograms":
        """A histogram of one entry for each latency (float64[n], ms)."""
        rows = len(latency_ms)
        buckets = LATENCY.index(latency_ms).astype(np.int32)
        return cls(np.arange(rows + 1), buckets, np.ones(rows, dtype=np.int64))

    @classmethod
    def read(cls, buckets: pa.ListArray, counts: pa.ListArray) -> "Histograms":
        """The histograms of two list columns."""
        offsets = buckets.offsets.to_numpy().astype(np.int64)
        # The offsets of a slice do not begin at 0; `flatten` gives only the slice's entries.
        return cls(offsets - offsets[0], buckets.flatten().to_numpy(), counts.flatten().to_numpy())

    def write(self) -> tuple[pa.ListArray, pa.ListArray]:
        """Two list columns, buckets and counts."""
        offsets = pa.array(self.offsets.astype(np.int32))
        buckets, counts = (
            pa.ListArray.from_arrays(offsets, pa.array(entries)) for entries in (self.buckets, self.counts)
        )
        return buckets, counts

    def merge(self, groups: Groups) -> "Histograms":
        """The histogram of each group of rows: entries of one bucket become one."""
        owners = np.repeat(groups.ids, np.diff(self.offsets))
        # Group and bucket in one key: one sort merges the entries of all groups.
        entries = group_rows(owners * LATENCY.size + self.buckets)
        lengths = np.bincount(owners[entries.picks], minlength=len(groups.picks))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Histograms(offsets, self.buckets[entries.picks], entries.total(self.counts))

    def compute_percentiles(self, count: NDArray[np.int64], least: Floats, most: Floats) -> dict[int, Floats]:
        """float64[n] for each of PERCENTS, of rows with `count` values from `least` to `most`.

        The value of rank ceil(p n) - 1 from 0, interpolated within its bucket: at most 0.5 % from the value
        of that rank, for latencies of a microsecond and more (see LogScale).
        """
        # One running count over the entries of all rows: a rank within a row is a place in it.
        cumulative = np.concatenate([[0], np.cumsum(self.counts)])
        starts = self.offsets[:-1]
        several = np.flatnonzero(np.diff(self.offsets) > 1)
        found = {}
        for percent in PERCENTS:
            rank = (percent * count + 99) // 100 - 1 + cumulative[starts]
            entry = starts.copy()
            entry[several] = np.searchsorted(cumulative, rank[several], side="right") - 1
            low, high = LATENCY.edges[self.buckets[entry]], LATENCY.edges[self.buckets[entry] + 1]
            value = low + (high - low) * (rank - cumulative[entry] + 0.5) / self.counts[entry]
            found[percent] = np.clip(value, least, most)
        return found
