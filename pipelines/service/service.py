"""What the handlers of all requests share."""

from dataclasses import dataclass, field
from pathlib import Path

from pipelines.queries.run import Limits
from pipelines.service.guards import Guards
from pipelines.service.query_pool import QueryPool


@dataclass
class Service:
    """An output that is served.

    `limits`: the most that one query may use. `queries`: so many run at once. `is_local`: it listens on the
    loopback without TLS, so requests must name the loopback as their host.
    """

    folder: Path
    file_minutes: int
    limits: Limits
    queries: int = 4
    guards: Guards = field(default_factory=Guards)
    is_local: bool = True

    def __post_init__(self) -> None:
        self.pool = QueryPool(self.queries)

    def close(self) -> None:
        """End the work of the service."""
        self.pool.close()
