"""Which reports were seen, and in which message: the part of a stream's history that tells duplicates."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.validation.report_id import KEY, mix

Words = NDArray[np.uint64]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Seen:
    """Reports and their messages: `first` and `second`, the halves of a report_id, and `message`, the hash of (source, message_id).

    All are uint64[n]. They are *in order* if `first` is ascending.
    """

    first: Words
    second: Words
    message: Words

    @classmethod
    def of(cls, reports: pa.RecordBatch) -> "Seen":
        """The reports and messages of a ReportBatch."""
        source = reports["source"].dictionary_encode()
        sources = text_hashes(source.dictionary)[source.indices.to_numpy()]
        message = mix(sources * np.uint64(3) + text_hashes(reports["message_id"]))
        return cls(*_halves(reports["report_id"]), message)

    @classmethod
    def joined(cls, parts: Iterable["Seen"]) -> "Seen":
        """The reports of all parts, in their order."""
        columns = [[np.zeros(0, np.uint64)] for _ in range(3)]
        for part in parts:
            for column, words in zip(columns, (part.first, part.second, part.message)):
                column.append(words)
        return cls(*map(np.concatenate, columns))

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: Longs | slice | NDArray[np.bool_]) -> "Seen":
        """Some of them."""
        return Seen(self.first[rows], self.second[rows], self.message[rows])

    def find(self, others: "Seen") -> Longs:
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

    def plus(self, others: "Seen") -> "Seen":
        """These, which are in order, and others, in order."""
        others = others.take(np.argsort(others.first))
        if not len(self):
            return others
        place = np.searchsorted(self.first, others.first)
        return Seen(
            *(
                np.insert(getattr(self, name), place, getattr(others, name))
                for name in ("first", "second", "message")
            )
        )


def text_hashes(texts: pa.Array) -> Words:
    """uint64[n]: a hash of each text; the same on every platform and in every run.

    With b the UTF-8 bytes: mix(sum of mix(b[i] + KEY * (i + 1))), modulo 2**64.
    """
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    if not len(bounds) or bounds[0] == bounds[-1]:
        return mix(np.zeros(len(texts), np.uint64))
    octets = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]
    bounds -= bounds[0]
    place = np.arange(1, len(octets) + 1) - np.repeat(bounds[:-1], np.diff(bounds))
    sums = np.zeros(len(octets) + 1, np.uint64)
    np.cumsum(mix(octets + place.astype(np.uint64) * np.uint64(KEY)), out=sums[1:])
    return mix(sums[bounds[1:]] - sums[bounds[:-1]])


def _halves(report_ids: pa.Array) -> tuple[Words, Words]:
    """The 32 hex digits of each report_id as two numbers."""
    digits = report_ids.cast(pa.binary(32))
    octets = np.frombuffer(digits.buffers()[1], np.uint8)[
        32 * digits.offset : 32 * (digits.offset + len(digits))
    ]
    nibbles = (octets & 15) + 9 * (octets >> 6)
    words = ((nibbles[0::2] << 4) | nibbles[1::2]).view(">u8").astype(np.uint64)
    return words[0::2], words[1::2]
