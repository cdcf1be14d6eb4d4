"""Retries with growing, random pauses. Every loop of kpiflow that tries again uses one of these.

An unavailable service is retried by `stamina`, which logs each attempt: an operator should see the outage. A
conflict with another writer is normal and short, so `back_off` is silent.
"""

import random
import time
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from itertools import count
from typing import Any

import stamina

from transforms.core.errors import Unavailable

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds before the second attempt to use an unavailable service, and at most before later ones."""


def retry_while_unavailable(seconds: float) -> Iterable[Any]:
    """Attempts, each a context manager: `for attempt in retry_while_unavailable(60): with attempt: ...`.

    An attempt that raises `Unavailable` is repeated until `seconds` have passed; then it is raised. Of 0
    seconds there is one attempt.
    """
    attempts, timeout = (None, seconds) if seconds else (1, None)
    return stamina.retry_context(
        on=Unavailable, attempts=attempts, timeout=timeout, wait_initial=FIRST_PAUSE, wait_max=LONGEST_PAUSE
    )


def retry_without_end(notice: Callable[[str], None]) -> AsyncIterable[Any]:
    """Attempts without end: `async for attempt in retry_without_end(notice): with attempt: ...`.

    An attempt that raises `Unavailable` is repeated, after the pause that the service asks for, if it does;
    `notice` is called with the error's message.
    """

    def choose_pause(error: Exception) -> bool | float:
        if not isinstance(error, Unavailable):
            return False
        notice(str(error))
        return True if error.pause is None else error.pause

    return stamina.retry_context(
        on=choose_pause, attempts=None, timeout=None, wait_initial=FIRST_PAUSE, wait_max=LONGEST_PAUSE
    )


def back_off(attempts: int | None, first: float, longest: float) -> Iterator[int]:
    """The number of each attempt, from 0, after a pause; without end if `attempts` is None.

    There is no pause before attempt 0. The others are `first`, 2 `first`, 4 `first` ... seconds, at most
    `longest`, each times a random factor of 0.5 to 1: two writers that collide do not collide again at the
    same time.
    """
    for number in count() if attempts is None else range(attempts):
        if number:
            doublings = min(number - 1, 32)  # 2.0**1024 would overflow
            time.sleep(min(longest, first * 2**doublings) * random.uniform(0.5, 1))
        yield number
