"""What a query may use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class QueryLimits:
    """Rows of a page, seconds of execution, and megabytes of DuckDB's memory."""

    rows: int = 100
    seconds: float = 30
    memory_mb: int = 1024


USUAL = QueryLimits()
