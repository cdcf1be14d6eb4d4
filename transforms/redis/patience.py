"""How long a Redis client tries a command again."""

import random
import time
from collections.abc import Callable
from typing import Any

from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError
from redis.retry import Retry

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 3.0


class Patience(Retry):
    """Retries for some seconds in all, with pauses that double up to a limit, each times a random factor of 0.5 to 1.

    redis-py retries inside of retries (a command, its connection): a limit in seconds holds for all of them together, which
    a number of attempts would not. That is why neither its own back-offs nor `transforms.core.retry` serve here.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(NoBackoff(), 0)
        self.seconds = seconds

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """The result of `do`; `fail` is called after each failure that another attempt may overcome."""
        end = time.monotonic() + self.seconds
        failures = 0
        while True:
            try:
                return do()
            except self._supported_errors as error:
                if is_retryable and not is_retryable(error):
                    raise
                failures += 1
                fail(error, failures) if with_failure_count else fail(error)
                if isinstance(error, AuthenticationError | AuthorizationError) or time.monotonic() >= end:
                    raise
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failures, 10))
                time.sleep(pause * random.uniform(0.5, 1))
