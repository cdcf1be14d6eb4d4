"""When a reader's position may be committed: when it is in two completed checkpoints.

A runner calls a bundle back once a checkpoint has completed. It may call back bundles too that ended after
that checkpoint's barrier; only the next checkpoint is sure to hold them. And a power cut may tear the newest
checkpoint, so that the job continues from the one before. So positions are committed two rounds of callbacks
late:

    position P called back  ->  checkpoint C completes: it holds P  ->  checkpoint D completes: it holds P
    too, P is committed

This module says when an offset is committed, `offsets` what is committed, `group` how.

A bundle's round is one more than the newest round that had been called back when it ended. A checkpoint
completed between two rounds, and one is complete before the next one's barrier. So when round r is called
back, the newest two checkpoints hold what was called back up to round r - 2, and going on from either of them
reads from the committed offset or before it.

A checkpoint holds rows too that are gathered and not yet written. A position is committed only when its rows
have left the gathering: when it was called back at least `hold_seconds` before. A write that waits for an
absent output lets no checkpoint complete, so the next callback shows that the rows are written.

A bundle that waits for its callback keeps a whole chain of steps in memory: one waits at a time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from transforms.sources.redis.reader import Positions

LOST_SECONDS = 60.0
"""A callback that did not come for so long may be lost; another bundle then asks for one."""


class Commits:
    """The commits of one reader in one process; `commit` tells Redis."""

    def __init__(
        self,
        commit: Callable[[Positions], None],
        hold_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._commit, self._hold, self._clock = commit, hold_seconds, clock
        self._lock = threading.Lock()
        self._left: Positions | None = None
        self._safe: Positions | None = None
        self._called_back: deque[tuple[int, float, Positions]] = deque()
        self._number = self._newest = self._forgotten = self._round = 0
        self._asked: float | None = None

    def begin(self, positions: Positions) -> bool:
        """A session begins; whether elsewhere than the last one ended. That means that a checkpoint was
        restored, or a first session: what was called back since then may not be in it."""
        with self._lock:
            if restored := positions != self._left:
                self._safe = self._asked = None
                self._called_back.clear()
                self._forgotten = self._number
            return restored

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
            round_ = self._round + 1
            while self._called_back and self._is_safe(*self._called_back[0][:2], round_, now):
                self._safe = self._called_back.popleft()[2]
            self._number += 1
            number, safe = self._number, self._safe
        return lambda: self._finalize(number, round_, safe, positions)

    def _is_safe(self, called_back: int, at: float, round_: int, now: float) -> bool:
        """Whether a position is in two checkpoints, and its rows are written, once a bundle of this round is
        called back."""
        return called_back <= round_ - 2 and at <= now - self._hold

    def _finalize(self, number: int, round_: int, safe: Positions | None, positions: Positions) -> None:
        with self._lock:
            if number <= max(self._forgotten, self._newest):
                return
            self._newest, self._asked = number, None
            self._round = max(self._round, round_)
            self._called_back.append((round_, self._clock(), positions))
        if safe is not None:
            self._commit(safe)
