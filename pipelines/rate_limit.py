"""The number of requests that each consumer may make."""

import math
import time
from collections import deque
from collections.abc import Callable

REQUESTS = 1000
"""Requests of a consumer in any SECONDS."""
SECONDS = 60.0


class RateLimit:
    """At most REQUESTS in any SECONDS of a real clock.

    A request that is refused does not count.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._times: dict[str, deque[float]] = {}

    def admit(self, consumer: str) -> int:
        """Count a request: 0 if it is allowed, else the seconds until the next is."""
        now = self._monotonic()
        for name, times in list(self._times.items()):
            while times and times[0] <= now - SECONDS:
                times.popleft()
            if not times:
                del self._times[name]
        times = self._times.setdefault(consumer, deque())
        if len(times) >= REQUESTS:
            return max(1, math.ceil(times[0] + SECONDS - now))
        times.append(now)
        return 0
