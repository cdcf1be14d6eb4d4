"""How long a Redis client tries a command again."""

import time
from collections.abc import Callable
from typing import Any

from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError
from redis.retry import Retry

from transforms.core.process_stats import REDIS, count_attempt
from transforms.core.retry import back_off

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0


class Patience(Retry):
    """Retries for some seconds in all, with the pauses of `transforms.core.retry`.

    redis-py retries inside of retries (a command, its connection). A limit in seconds holds for all of them
    together; a number of attempts, as its own back-offs count, would not.
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
        for attempt in back_off(None, _FIRST_PAUSE, _LONGEST_PAUSE):
            try:
                done = do()
                count_attempt(REDIS)
                return done
            except self._supported_errors as error:
                if is_retryable and not is_retryable(error):
                    raise
                count_attempt(REDIS, failed=True)
                fail(error, attempt + 1) if with_failure_count else fail(error)
                if isinstance(error, AuthenticationError | AuthorizationError) or time.monotonic() >= end:
                    raise
        raise AssertionError("attempts have no end")
