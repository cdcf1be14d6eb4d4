"""Windows in memory, by what they were read from, up to a number of them."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

from pipelines.service.window_sums import WindowSums


class Kept(NamedTuple):
    """Windows, and the version of what they were read from. `reports`: how many are in them."""

    version: Hashable
    sums: WindowSums
    reports: int


class KeptSums:
    """Windows by a key. Where there are too many, those that were read first are forgotten. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, version: Hashable) -> Kept | None:
        """What is kept of a key, if it has this version."""
        kept = self._kept.get(key)
        return kept if kept is not None and kept.version == version else None

    def put(self, key: Hashable, version: Hashable, sums: WindowSums) -> Kept:
        """Keep windows in place of those of an older version."""
        new = Kept(version, sums, int(sums.counts.sum()))
        with self._lock:
            old = self._kept.pop(key, None)
            self._count += len(sums.counts) - (len(old.sums.counts) if old else 0)
            self._kept[key] = new
            while self._count > self._most and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._count -= len(oldest.sums.counts)
        return new
