"""The lines of a plain file that begin in a range of its bytes, and their numbers in the file.

The number of a range's first line is one more than the newlines before it. Only the id of a bare line
depends on it, so these newlines are counted when a line asks for its number: envelopes cost nothing.
"""

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from transforms.sources.archives.decompression import READ_BYTES

_NEWLINE = ord("\n")
_COUNTED: dict[Hashable, list[tuple[int, int]]] = {}
"""Of versions of files, which offsets have how many newlines before them, ascending: the next range of the
file is counted from there."""


@dataclass(frozen=True)
class LineNumber:
    """The number of a line in its file: `within` its range, from 1, after the lines that `count_before`
    counts."""

    count_before: Callable[[], int]
    within: int

    def __int__(self) -> int:
        return self.count_before() + self.within


def read_range(file: BinaryIO, start: int, end: int | None) -> Iterator[bytes]:
    """The lines that begin at byte `start` or later and before `end`, a piece at a time.

    A line that begins before `end` comes to its end, wherever that is.
    """
    position = max(start - 1, 0)
    file.seek(position)
    is_begun = start == 0
    while piece := file.read(READ_BYTES):
        first, last = 0, len(piece)
        if not is_begun:  # in the range before
            first = piece.find(b"\n") + 1
            is_begun = first > 0
        if end is not None and position + len(piece) >= end:  # the last line ends at or after byte end - 1
            last = piece.find(b"\n", max(end - 1 - position, 0)) + 1
        if is_begun and (last == 0 or first < last):
            yield piece[first : last or len(piece)]
        position += len(piece)
        if end is not None and position >= end and (last or not is_begun):
            return


def count_lines_before(file: BinaryIO, start: int, version: Hashable) -> int:
    """How many lines of a file begin before byte `start`, which is not its first.

    What is counted is kept for `version`, a value that no other content of any file has.
    """
    known = _COUNTED.setdefault(version, [(0, 0)])
    place = bisect_right(known, (start - 1, start))
    offset, lines = known[place - 1]
    if offset < start - 1:
        lines += _count_newlines(file, offset, start - 1)
        known.insert(place, (start - 1, lines))
    return lines + 1


def _count_newlines(file: BinaryIO, start: int, end: int) -> int:
    """How many newlines there are from byte `start` to byte `end`."""
    file.seek(start)
    count = 0
    while start < end and (piece := file.read(min(READ_BYTES, end - start))):
        # Four times as fast as bytes.count.
        count += int(np.count_nonzero(np.frombuffer(piece, np.uint8) == _NEWLINE))
        start += len(piece)
    return count
