"""How fast Layer 4 may be asked: at most 1,000 requests in any 60 s."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

LEAST_SECONDS = 0.061
"""From one request to the next."""
REQUESTS, SECONDS = 1000, 60.0


class Pace:
    """Waits before each request until it is allowed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: deque[float] = deque(maxlen=REQUESTS)

    def next_at(self) -> float:
        """When the next request may begin, by the clock."""
        if not self._begun:
            return self._clock()
        is_full = len(self._begun) == REQUESTS
        return max(self._begun[-1] + LEAST_SECONDS, self._begun[0] + SECONDS if is_full else 0.0)

    async def wait(self) -> None:
        """Wait for the next request, and count it."""
        while (seconds := self.next_at() - self._clock()) > 0:
            await asyncio.sleep(seconds)
        self._begun.append(self._clock())
