"""How a query is stopped from another thread."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from pipelines.failures import RunFailed


class QueryStopped(RunFailed):
    """A query needs more time or memory than it may, or nobody waits for it any more."""


class Stop:
    """What another thread stops a query with."""

    def __init__(self) -> None:
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._is_set = False

    def interrupt(self) -> None:
        """Stop the query, also one that has not begun."""
        self._is_set = True
        if (connection := self._connection) is not None:
            connection.interrupt()

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
            self._connection = None
