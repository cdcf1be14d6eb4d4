"""Which reports were seen, and in which message: the part of a stream's history that tells duplicates."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core.hashing import hash_texts, mix, read_hex

Words = NDArray[np.uint64]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class SeenReports:
    """Reports and their messages: `first` and `second`, the halves of a report_id, and `message`, the hash of (source, message_id).

    All are uint64[n]. They are *in order* if `first` is ascending.
    """

    first: Words
    second: Words
    message: Words

    @classmethod
    def of(cls, reports: pa.RecordBatch) -> "SeenReports":
        """The reports and messages of a ReportBatch."""
        source = reports["source"].dictionary_encode()
        sources = hash_texts(source.dictionary)[source.indices.to_numpy()]
        message = mix(sources * np.uint64(3) + hash_texts(reports["message_id"]))
        halves = read_hex(reports["report_id"])
        return cls(halves[:, 0], halves[:, 1], message)

    @classmethod
    def joined(cls, parts: Iterable["SeenReports"]) -> "SeenReports":
        """The reports of all parts, in their order."""
        columns = [[np.zeros(0, np.uint64)] for _ in range(3)]
        for part in parts:
            for column, words in zip(columns, (part.first, part.second, part.message)):
                column.append(words)
        return cls(*map(np.concatenate, columns))

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: Longs | slice | NDArray[np.bool_]) -> "SeenReports":
        """Some of them."""
        return SeenReports(self.first[rows], self.second[rows], self.message[rows])

    def find(self, others: "SeenReports") -> Longs:
        """int64[m]: where the reports of `others` are among these, which are in order; -1 for one that is not."""
        place = np.searchsorted(self.first, others.first)
        while len(self):
            here = np.minimum(place, len(self) - 1)
            alike = (place < len(self)) & (self.first[here] == others.first)
            equal = alike & (self.second[here] == others.second)
            other = alike & ~equal
            if not other.any():
                return np.where(equal, here, -1)
            place = place + other
        return np.full(len(others), -1)

    def plus(self, others: "SeenReports") -> "SeenReports":
        """These, which are in order, and others, in order."""
        others = others.take(np.argsort(others.first))
        if not len(self):
            return others
        place = np.searchsorted(self.first, others.first)
        return SeenReports(
            *(
                np.insert(getattr(self, name), place, getattr(others, name))
                for name in ("first", "second", "message")
            )
        )
