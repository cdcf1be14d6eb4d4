"""When a reader's position is safe: what a completed checkpoint holds may be told to Redis, one round of checkpoints late.

A runner calls a bundle back once a checkpoint has completed. It may call back bundles too that ended after that checkpoint's
barrier; only the next checkpoint is sure to hold them. So each callback tells Redis a position that had been called back before
its own bundle ended, never its own.

A checkpoint holds rows too that are gathered and not yet written. A position is told only when its rows have left the gathering:
when it was called back at least `hold_seconds` before. A write that waits for an absent output lets no checkpoint complete, so the
next callback shows that the rows are written.

A bundle that waits for its callback keeps a whole chain of steps in memory: one waits at a time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from transforms.sources.reader import Positions

LOST_SECONDS = 60.0
"""A callback that did not come for so long may be lost; another bundle then asks for one."""


class Commits:
    """The commits of one reader in one process; `commit` tells Redis."""

    def __init__(
        self, commit: Callable[[Positions], None], hold_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._commit, self._hold, self._clock = commit, hold_seconds, clock
        self._lock = threading.Lock()
        self._left: Positions | None = None
        self._safe: Positions | None = None
        self._called_back: deque[tuple[float, Positions]] = deque()
        self._number = self._newest = self._forgotten = 0
        self._asked: float | None = None

    def begin(self, positions: Positions) -> None:
        """A session begins. Elsewhere than the last one ended means that a checkpoint was restored: what was called back since then
        may not be in it."""
        with self._lock:
            if positions != self._left:
                self._safe = self._asked = None
                self._called_back.clear()
                self._forgotten = self._number

    def leave(self, positions: Positions) -> None:
        """A session ends whose bundle asks for no callback."""
        with self._lock:
            self._left = positions

    def end(self, positions: Positions) -> Callable[[], None] | None:
        """A session ends; returns the callback for its bundle, or None where one is waited for already."""
        with self._lock:
            self._left = positions
            if self._asked is not None and self._clock() - self._asked < LOST_SECONDS:
                return None
            self._asked = now = self._clock()
            while self._called_back and self._called_back[0][0] <= now - self._hold:
                self._safe = self._called_back.popleft()[1]
            self._number += 1
            number, safe = self._number, self._safe
        return lambda: self._finalize(number, safe, positions)

    def _finalize(self, number: int, safe: Positions | None, positions: Positions) -> None:
        with self._lock:
            if number <= max(self._forgotten, self._newest):
                return
            self._newest, self._asked = number, None
            self._called_back.append((self._clock(), positions))
        if safe is not None:
            self._commit(safe)
