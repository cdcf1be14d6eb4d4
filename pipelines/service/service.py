"""What the handlers of all requests share."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from pipelines.queries.connections import KeptConnections
from pipelines.queries.limits import QueryLimits
from pipelines.queries.means import Means
from pipelines.service.arrivals import Arrivals
from pipelines.service.guards import Guards
from pipelines.service.live import LiveReports
from pipelines.service.query_pool import QueryPool
from pipelines.service.status import StatusCounts
from pipelines.service.task_index import TaskIndex
from pipelines.service.window_cover import WindowCover
from transforms.sinks.parquet.output_files import OutputFiles


@dataclass
class Service:
    """An output that is served.

    `limits`: the most that one query may use. `queries`: so many run at once. `connections`: so
    many are open at once. `is_local`: it listens on the
    loopback without TLS, so requests must name the loopback as their host. `live`: the live reports, if there
    are any.
    """

    folder: Path
    file_minutes: int
    limits: QueryLimits
    queries: int = 4
    connections: int = 1000
    guards: Guards = field(default_factory=Guards)
    is_local: bool = True
    live: LiveReports | None = None
    sockets: int = field(default=0, init=False)
    """So many are open."""

    def __post_init__(self) -> None:
        self.pool = QueryPool(self.queries)
        self.resuming = asyncio.Semaphore(1)
        self.has_index = Event()
        self.index = TaskIndex(self.folder)
        self._is_ending = Event()
        self._reader = Thread(target=self._read_tasks, name="task index")
        connections = KeptConnections(self.folder, self.limits)
        self._windows = WindowCover(self.index, self.file_minutes)
        self.means = Means(self.index.find, connections, self._windows.cover)
        self.status = StatusCounts(self.folder)
        self.arrivals = Arrivals(self.folder, self.file_minutes)

    def start(self) -> None:
        """Begin the work that goes on beside requests, on the running loop."""
        self._reader.start()
        if self.live is not None:
            self.live.start()

    def _read_tasks(self) -> None:
        """Make the index of tasks and read windows, so that no request has to wait for them; what fails here
        fails there too."""
        try:
            files = OutputFiles.of(self.folder)
            self.index.read(files, self._is_ending.is_set)
            self._windows.read(files, self._is_ending.is_set)
        finally:
            self.has_index.set()

    def close(self) -> None:
        """End the work of the service. A process that ends while a thread of it reads Parquet may wait for
        ever: Arrow ends its own threads, for which that one waits."""
        self.pool.close()
        if self.live is not None:
            self.live.end()
        self._is_ending.set()
        if self._reader.is_alive():
            self._reader.join()
