"""What the handlers of all requests share."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.queries.run import Limits
from pipelines.service.arrivals import Arrivals
from pipelines.service.guards import Guards
from pipelines.service.live import LiveReports
from pipelines.service.query_pool import QueryPool


@dataclass
class Service:
    """An output that is served.

    `limits`: the most that one query may use. `queries`: so many run at once. `is_local`: it listens on the
    loopback without TLS, so requests must name the loopback as their host. `live`: the live reports, if there
    are any.
    """

    folder: Path
    file_minutes: int
    limits: Limits
    queries: int = 4
    guards: Guards = field(default_factory=Guards)
    is_local: bool = True
    live: LiveReports | None = None
    sockets: int = field(default=0, init=False)
    """So many are open."""

    def __post_init__(self) -> None:
        self.pool = QueryPool(self.queries)
        self.resuming = asyncio.Semaphore(1)
        self.arrivals = Arrivals(self.folder, self.file_minutes)

    def start(self) -> None:
        """Begin the work that goes on beside requests, on the running loop."""
        if self.live is not None:
            self.live.start()

    def close(self) -> None:
        """End the work of the service."""
        self.pool.close()
        if self.live is not None:
            self.live.end()
