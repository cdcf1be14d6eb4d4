"""Which reports a stream has seen, and in which message: the part of its history that finds duplicates."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core.hashing import hash_texts, mix, read_hex

Words = NDArray[np.uint64]
Longs = NDArray[np.int64]

COLUMNS = ("first", "second", "message")


@dataclass(frozen=True)
class SeenReports:
    """Reports and their messages, uint64[n] each.

    `first` and `second` are the halves of a report_id, `message` is a hash of (source, message_id). They are
    *in order* if `first` is ascending.
    """

    first: Words
    second: Words
    message: Words

    @classmethod
    def of(cls, reports: pa.RecordBatch) -> "SeenReports":
        """The reports and messages of a ReportBatch, in its order."""
        source = reports["source"].dictionary_encode()
        sources = hash_texts(source.dictionary)[source.indices.to_numpy()]
        message = mix(sources * np.uint64(3) + hash_texts(reports["message_id"]))
        halves = read_hex(reports["report_id"])
        return cls(halves[:, 0], halves[:, 1], message)

    @classmethod
    def concat(cls, parts: Iterable["SeenReports"]) -> "SeenReports":
        """The reports of all parts, in their order."""
        columns = [[np.zeros(0, np.uint64)] for _ in COLUMNS]
        for part in parts:
            for column, name in zip(columns, COLUMNS):
                column.append(getattr(part, name))
        return cls(*map(np.concatenate, columns))

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: Longs | slice | NDArray[np.bool_]) -> "SeenReports":
        """The reports at some rows."""
        return SeenReports(self.first[rows], self.second[rows], self.message[rows])

    def find(self, others: "SeenReports") -> Longs:
        """int64[m]: the place of each of the `others` among these, which are in order.

        -1 if it is not among them.
        """
        place = np.searchsorted(self.first, others.first)
        # Where only the first halves agree, look at the next place. That is rare: the loop mostly runs once.
        while len(self):
            here = np.minimum(place, len(self) - 1)
            half = (place < len(self)) & (self.first[here] == others.first)
            whole = half & (self.second[here] == others.second)
            if not (half & ~whole).any():
                return np.where(whole, here, -1)
            place = place + (half & ~whole)
        return np.full(len(others), -1)

    def insert(self, others: "SeenReports") -> "SeenReports":
        """These, which are in order, with others, in order."""
        others = others.take(np.argsort(others.first))
        if not len(self):
            return others
        # Merging sorted arrays by insertion is linear; sorting both again would not be.
        place = np.searchsorted(self.first, others.first)
        return SeenReports(
            *(np.insert(getattr(self, name), place, getattr(others, name)) for name in COLUMNS)
        )
