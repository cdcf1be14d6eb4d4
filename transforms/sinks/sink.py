"""What a sink offers: the interface between the graph and a folder, a bucket, a warehouse or a time-series
database.

A *sink* takes rows. A *store* is a sink that keeps every table and gives reports back, so that a job can
continue from what it holds. A new kind is one module beside this one, and one line in `pipelines.outputs`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa

from schemas.tables import Table
from transforms.core.errors import Finding


class Written(NamedTuple):
    """What a write did: rows that are new in the sink or replaced an older one, and requests (files, calls,
    jobs)."""

    rows: int
    requests: int


class Sink(Protocol):
    """Takes rows of tables. A frozen dataclass of options: it is pickled, and connects in the process that
    writes."""

    @property
    def name(self) -> str:
        """Its URL, without secrets."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that it takes."""

    @property
    def gather_seconds(self) -> int:
        """How long a stream gathers rows before it writes them here."""

    def write(self, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
        """Write rows of a table; on return they are safe.

        `rows` are some thousand to some hundred thousand rows, in the table's columns in any order; other
        columns are ignored. Writing the same rows again changes nothing, whatever happened to the first
        attempt. Of rows with one key the one is kept that `schemas.tables.KEPT_ROW` says.

        Raises:
            Unavailable: try again; a part may have been written.
            Refused: do not try again; a part may have been written.
        """

    def check(self) -> Iterator[Finding]:
        """Test everything that a job needs here, in that order, without changing anything that a job would
        not."""


@runtime_checkable
class Store(Sink, Protocol):
    """A sink that keeps every table."""

    def read_description(self) -> dict[str, Any] | None:
        """What `prepare` kept here; None in a new place.

        Raises:
            Refused: something else is here, or the description is damaged.
        """

    def prepare(self, description: dict[str, Any]) -> None:
        """Make the place ready for every table, add missing columns, and keep the description.

        Raises:
            Refused: the place has another description by now.
        """

    def has_reports(self) -> bool:
        """Whether kpi_reports has any row; cheap."""

    def read_reports(self, hour: int) -> Iterator[pa.RecordBatch]:
        """The stored rows of kpi_reports recorded in an hour (counted from 1970), ascending in time from
        batch to batch."""

    def copy_to(self, folder: Path) -> None:
        """Copy all tables into an empty folder, as an output of Parquet files."""
