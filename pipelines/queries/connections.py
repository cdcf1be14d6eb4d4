"""The DuckDB of a query: in memory, within limits, and closed to all but the files of the query."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import duckdb

from pipelines.queries.limits import QueryLimits

DESCRIPTORS = "/proc/self/fd/"
_REPLACED = " (deleted)"


class Connect(Protocol):
    """How a query gets its DuckDB, which can read the files behind some descriptors."""

    def __call__(
        self, descriptors: Sequence[int], limits: QueryLimits
    ) -> AbstractContextManager[duckdb.DuckDBPyConnection]: ...


@contextmanager
def connect_once(descriptors: Sequence[int], limits: QueryLimits) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB for one query. It can read the open files and nothing else."""
    with _open(limits, f"allowed_paths = [{', '.join(_name_allowed(descriptors))}]") as connection:
        yield connection


class KeptConnections:
    """DuckDBs for many queries over one folder: one for each thread, since making one takes 15 ms of CPU.

    They can read the files of that folder and those that are open in this process, and nothing else. A query
    with other limits than the usual ones gets its own.
    """

    def __init__(self, folder: Path, usual: QueryLimits) -> None:
        names = (f"'{_quote(f'{folder.resolve()}/')}'", f"'{DESCRIPTORS}'")
        self._allowed = f"allowed_directories = [{', '.join(names)}]"
        self._usual, self._folder = usual, str(folder.resolve())
        self._kept = threading.local()

    @contextmanager
    def __call__(
        self, descriptors: Sequence[int], limits: QueryLimits
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        usual = (limits.seconds, limits.memory_mb) == (self._usual.seconds, self._usual.memory_mb)
        if not (usual and all(map(self._may_read, descriptors))):
            with connect_once(descriptors, limits) as connection:
                yield connection
            return
        connection = getattr(self._kept, "connection", None) or _open(limits, self._allowed)
        self._kept.connection = None
        try:
            yield connection
        except BaseException:
            connection.close()  # what it still holds after an error is not known
            raise
        self._kept.connection = connection

    def _may_read(self, descriptor: int) -> bool:
        return os.readlink(f"{DESCRIPTORS}{descriptor}").startswith(f"{self._folder}/")


def _open(limits: QueryLimits, allowed: str) -> duckdb.DuckDBPyConnection:
    config: dict[str, Any] = {
        "memory_limit": f"{limits.memory_mb}MB",
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    connection = duckdb.connect(":memory:", config=config)
    for text in (
        "TimeZone = 'UTC'",
        f"max_execution_time = {max(1, round(limits.seconds * 1000))}",
        "enable_external_file_cache = false",  # descriptors are used again for other files
        allowed,
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {text}")
    return connection


def _name_allowed(descriptors: Sequence[int]) -> Iterator[str]:
    """SQL texts: the names of the open files.

    DuckDB looks up the name behind a descriptor each time it opens one. Linux adds an end to the name of a
    file that was replaced.
    """
    for number in descriptors:
        own = f"{DESCRIPTORS}{number}"
        stored = _quote(os.readlink(own).removesuffix(_REPLACED))
        yield from (f"'{own}'", f"'{stored}{_REPLACED}'")


def _quote(text: str) -> str:
    return text.replace("'", "''")
