"""The DuckDB of a block: what the tables of a group read of it together is read once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import duckdb

from transforms.derived.blocks import choose_files
from transforms.derived.bounds import Period
from transforms.derived.derived_table import DerivedTable
from transforms.derived.inputs import bind_inputs, bind_reports, list_stored, make_reports_table
from transforms.derived.plan import DerivePlan
from transforms.derived.run import open_connection
from transforms.derived.snapshot import FileSnapshot
from transforms.derived.stored_view import create_stored_view


class BlockConnections:
    """Connections to a DuckDB in which the tables of a group run over a block, one after the other.

    It keeps the DuckDB of the last block, with its `reports` if the tables join records to them.
    """

    def __init__(
        self,
        group: Sequence[DerivedTable],
        settings: Mapping[str, Any],
        snapshot: FileSnapshot,
        *limits: Any,
    ) -> None:
        """`limits`: as `open_connection` takes them."""
        self._group = [table for table in group if table.records]
        self._settings, self._snapshot, self._limits = settings, snapshot, limits
        self._block: tuple[Period, int] | None = None
        self._database: duckdb.DuckDBPyConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @contextmanager
    def open(self, plan: DerivePlan, period: Period, cutoff: int) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with the inputs of a table for a span, of which rows effective before `cutoff` count.

        Raises:
            ChangedFile: a stored file is not as it was when it was listed.
        """
        with self._open_block(plan, period, cutoff).cursor() as connection:
            self._create_views(connection, plan, period)
            bind_inputs(connection, plan.table, period, self._settings, cutoff, plan.expiry)
            yield connection

    def _open_block(self, plan: DerivePlan, period: Period, cutoff: int) -> duckdb.DuckDBPyConnection:
        if self._database is not None and self._block == (period, cutoff):
            return self._database
        self._close()
        self._database = open_connection(*self._limits)
        if self._group:
            with self._database.cursor() as connection:
                self._create_views(connection, replace(plan, table=make_reports_table(self._group)), period)
                bind_reports(connection, self._group, period, self._settings, cutoff)
        self._block = (period, cutoff)
        return self._database

    def _create_views(self, connection: duckdb.DuckDBPyConnection, plan: DerivePlan, period: Period) -> None:
        files = choose_files(plan, plan.select(period))
        for name in list_stored(plan.table):
            links = {self._snapshot.link(*file): schema for file, schema in files.get(name, {}).items()}
            create_stored_view(connection, name, links)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
        self._block = self._database = None
