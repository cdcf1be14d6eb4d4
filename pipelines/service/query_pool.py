"""Threads in which queries run: a few at once, a few more that wait, and no more than that."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, TypeVar

from pipelines.queries.stop import Stop
from pipelines.service.errors import BUSY_SECONDS, HttpError
from transforms.core.counts import format_count

Result = TypeVar("Result")
WAITING = 8
"""So many queries may wait for each one that can run."""


class QueryPool:
    """Runs at most `size` queries at once; WAITING times as many wait. More are refused."""

    def __init__(self, size: int) -> None:
        self._threads = ThreadPoolExecutor(size, "query")
        self._most = size * (1 + WAITING)
        self.count = 0
        """So many run and wait."""

    async def run(self, work: Callable[[Stop], Result]) -> Result:
        """The result of work in a thread. Where the request is cancelled, the work is stopped.

        Raises:
            HttpError: 503, too many queries run and wait.
        """
        if self.count >= self._most:
            raise HttpError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the service is busy with {format_count(self.count, 'query')}",
                "ask again later",
                {"Retry-After": str(BUSY_SECONDS)},
            )
        stop = Stop()
        self.count += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, _run, work, stop)
        future.add_done_callback(self._leave)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.interrupt()
            raise

    def close(self) -> None:
        """Take no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _leave(self, future: "asyncio.Future[Any]") -> None:
        self.count -= 1
        if not future.cancelled():
            future.exception()  # it is of nobody's interest where the client has left


def _run(work: Callable[[Stop], Result], stop: Stop) -> Result:
    stop.check()
    return work(stop)
