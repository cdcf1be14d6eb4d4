"""How a query is stopped from another thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import duckdb

from pipelines.failures import RunFailed


class QueryStopped(RunFailed):
    """A query needs more time or memory than it may, or nobody waits for it any more."""


class Stop:
    """What another thread stops a query with."""

    def __init__(self) -> None:
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._is_set = False
        self._lock = Lock()

    def interrupt(self) -> None:
        """Stop the query, also one that has not begun."""
        with self._lock:
            self._is_set = True
            if self._connection is not None:
                self._connection.interrupt()

    def check(self) -> None:
        """Raises:
        QueryStopped: it was stopped.
        """
        if self._is_set:
            raise QueryStopped("the query was stopped: nobody waits for it")

    @contextmanager
    def watch(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Let this connection be interrupted while the block runs."""
        self._connection = connection
        try:
            self.check()
            yield
        finally:
            with self._lock:  # the connection may serve another query next
                self._connection = None
