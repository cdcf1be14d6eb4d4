"""What a place for tables offers: the one interface between the graph and a folder, a bucket, a warehouse or a time-series store.

A *sink* takes rows; a *store* is a sink that keeps every table and gives reports back, so that a job can go on from what it
holds. A new kind is one module beside this one, and one line in `pipelines.outputs`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa

from schemas.tables import Table
from transforms.core.errors import Finding


class Written(NamedTuple):
    """What a write changed: rows that are new in the place or stand for an older one, and what it took (files, requests, jobs)."""

    rows: int
    requests: int


class Sink(Protocol):
    """A place that takes rows of tables. A frozen dataclass of options: it is pickled, and connects in the process that writes."""

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
        """Take rows of a table, in its columns in any order (further ones are ignored); on return they are safe there.

        Taking the same rows again changes nothing, whatever became of the first attempt, and of two rows with one key the one
        stands that `transforms.sinks.row_merge` says. Each call is a few thousand to a few hundred thousand rows.

        Raises:
            Unavailable: try again; a part may have been taken.
            Refused: do not; a part may have been taken.
        """

    def check(self) -> Iterator[Finding]:
        """Look at everything that a job needs here, in the order in which it is needed, and change nothing that a job would not."""


@runtime_checkable
class Store(Sink, Protocol):
    """A sink that keeps every table."""

    def read_description(self) -> dict[str, Any] | None:
        """What `describe` kept here; None in a place that is new.

        Raises:
            Refused: something else is here, or the description is damaged.
        """

    def prepare(self, description: dict[str, Any]) -> None:
        """Make the place ready for every table, with the columns of this version added where they are missing, and keep the
        description in it.

        Raises:
            Refused: it has another description by now.
        """

    def has_reports(self) -> bool:
        """Whether kpi_reports holds any row; cheap."""

    def read_reports(self, hour: int) -> Iterator[pa.RecordBatch]:
        """The stored rows of kpi_reports that were recorded in an hour (since 1970), ascending in time from batch to batch."""

    def copy_to(self, folder: Path) -> None:
        """Put all that it holds into an empty local folder, as an output of files: what reads an output can read it there."""
