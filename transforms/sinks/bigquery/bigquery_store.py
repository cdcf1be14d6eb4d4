"""Tables in BigQuery: a batch is loaded into an inbox of its own, and one transaction merges it into its
table.

Why so: a row must be able to replace another, and a batch may come twice. A load job alone appends; the id of
a job keeps it from running twice, but for half a year, so that deleted rows could not be written again.
BigQuery's own upserts compare one number a row, and cannot tell equal revisions apart. A MERGE under the
revision rule changes nothing the second time; `transforms.sinks.bigquery.merge` says how two of them take
turns.

| the process dies | what is there | what the next write of the rows does |
|---|---|---|
| before the merge | an inbox, which expires after two days | loads another inbox |
| in the merge, or its answer is lost | the whole batch in its tables, or nothing of it | changes the rest |
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode

import numpy as np
import pyarrow as pa
from google.cloud.bigquery import ScalarQueryParameter

from schemas.tables import REPORTS, Table
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.core.grouping import sort_by_columns
from transforms.core.record_batches import concat, conform, group_batches, split_by_bytes, split_by_rows
from transforms.core.typed_json import parse_json
from transforms.sinks.bigquery.client import Client
from transforms.sinks.bigquery.columns import (
    drop_superseded,
    during,
    maps_as_lists,
    restore_rows,
    split_by_days,
)
from transforms.sinks.bigquery.dataset_tables import (
    ALL,
    DESCRIPTION,
    LOCATION,
    create_dataset,
    create_tables,
    missing_columns,
    new_inbox,
)
from transforms.sinks.bigquery.merge import ROW, Merge
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.sinks.sink import Written
from transforms.storage.local_folder import LocalFolder

FORM = (
    "bigquery://PROJECT/DATASET, with ?location=EU, or ?endpoint=http://HOST:PORT&storage_endpoint=HOST:PORT "
    "for your own BigQuery; a project has small letters, digits and hyphens; a dataset letters, digits, _"
)
COPY_ROWS, BATCH_ROWS = 500_000, 50_000
"""About how many rows are copied at a time, and how many reports are given back in one batch."""
MERGE_BYTES = 1 << 30
"""Rows that one job merges, in bytes."""

_PLACE = re.compile(r"((?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{0,61})/([A-Za-z0-9_]{1,1024})")
_OPTIONS = {"location": "[A-Za-z0-9-]+", "endpoint": "https?://[^@?#]+", "storage_endpoint": "[^@/?#]+"}
"""What the options of a URL look like. None holds a user or password."""


@dataclass(frozen=True)
class BigQuery:
    """A store in a dataset, created in `location` if missing; the endpoints are those of REST and gRPC."""

    project: str
    dataset: str
    location: str = ""
    endpoint: str = ""
    storage_endpoint: str = ""
    gather_seconds: int = 60

    @classmethod
    def from_url(cls, url: SplitResult, gather_seconds: int = 60) -> "BigQuery":
        """Return the store of `bigquery://PROJECT/DATASET?location=EU`.

        The options `endpoint` and `storage_endpoint` name another server than Google's.

        Raises:
            ValueError: it has another form.
        """
        options = dict(parse_qsl(url.query, keep_blank_values=True))
        place = _PLACE.fullmatch(f"{url.netloc}/{url.path.strip('/')}")
        fits = all(name in _OPTIONS and re.fullmatch(_OPTIONS[name], text) for name, text in options.items())
        insecure = options.get("endpoint", "").startswith("http://")
        if place is None or not fits or url.fragment or (insecure and "storage_endpoint" not in options):
            raise ValueError(f"it is not {FORM}")
        return cls(place[1], place[2], **options, gather_seconds=gather_seconds)

    @property
    def name(self) -> str:
        given = {option: getattr(self, option) for option in _OPTIONS if getattr(self, option)}
        return f"bigquery://{self.project}/{self.dataset}{'?' if given else ''}{urlencode(given, safe=':/')}"

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(table.name for table in ALL)

    def write(self, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
        """As `Store.write`; a request is a load job or a merge."""
        taken = requests = 0
        filled = (conform(batch, table.schema) for batch in rows if batch.num_rows)
        narrow = (part for batch in filled for part in split_by_bytes(batch, table.schema))
        for group in group_batches(narrow, MERGE_BYTES):
            for part, on_days in split_by_days(table, drop_superseded(table, concat(group))):
                inbox = new_inbox(self._place, table)
                numbers = pa.array(np.arange(part.num_rows))
                self._client.load(inbox, maps_as_lists(part).append_column(ROW, numbers), _location(self))
                ((merged,),) = self._query(Merge(self._place, table, inbox.table_id, on_days).script())
                taken, requests = taken + merged, requests + 2
                with suppress(Unavailable, Refused):  # then it expires
                    self._client.delete(inbox)
        return Written(taken, requests)

    def check(self) -> Iterator[Finding]:
        """As `Store.check`."""
        steps = {
            "credentials, and the dataset's location": lambda: (
                self._find_location() or f"created in {self.location or LOCATION} later"
            ),
            "an output of kpiflow, or a dataset without its tables": self.read_description,
            "the columns of the tables": self._check_columns,
            "permission to run jobs, to load rows and to merge them": self._check_permissions,
        }
        for what, look in steps.items():
            try:
                said = look()
                yield Finding(f"{what}: {said}" if isinstance(said, str) and said else what)
            except (Refused, Unavailable) as error:
                yield Finding.of(what, error)
                return

    def read_description(self) -> dict[str, Any] | None:
        """As `Store.read_description`."""
        if self._find_location() is None:
            return None
        if not self._has_table(DESCRIPTION):
            if present := ", ".join(filter(self._has_table, self.tables)):
                raise Refused(
                    f"{self.name} has {present} but no {DESCRIPTION}; name another dataset as the output"
                )
            return None
        texts = {text for (text,) in self._query(f"SELECT description FROM {self._quote(DESCRIPTION)}")}
        try:
            (text,) = texts
            return parse_json(text, dict[str, Any])
        except (ValueError, TypeError) as error:
            damaged = f"{DESCRIPTION} of {self.name} is damaged ({error})"
            raise Refused(f"{damaged}; restore its one row from a copy, or name another output") from error

    def prepare(self, description: dict[str, Any]) -> None:
        """As `Store.prepare`."""
        if self._find_location() is None:
            create_dataset(self._client, self.dataset, self.location)
        known = self.read_description()
        if known != description:
            create = "CREATE TABLE" if known is None else "CREATE OR REPLACE TABLE"
            text = ScalarQueryParameter("text", "STRING", json.dumps(description, indent=2))
            sql = f"{create} {self._quote(DESCRIPTION)} AS SELECT @text AS description"
            try:
                self._query(sql, [text])
            except Refused:
                if (other := self.read_description()) in (None, known):
                    raise
                if other != description:
                    begun = f"another job has begun {self.name} with other settings at the same time"
                    raise Refused(f"{begun}; run this one again") from None
        create_tables(self._client, self.dataset, _location(self))

    def has_reports(self) -> bool:
        """As `Store.has_reports`."""
        return bool(self._query(f"SELECT COUNT(*) > 0 FROM {self._quote(REPORTS.name)}")[0][0])

    def read_reports(self, hour: int) -> Iterator[pa.RecordBatch]:
        """As `Store.read_reports`."""
        if stored := list(self._read(REPORTS, _in_hours(REPORTS, hour, hour))):
            rows = concat(stored)
            order = sort_by_columns(rows.select([REPORTS.time]), (REPORTS.time,))
            for portion in split_by_rows(rows.take(pa.array(order)), BATCH_ROWS):
                yield from split_by_bytes(portion, REPORTS.schema)

    def copy_to(self, folder: Path) -> None:
        """As `Store.copy_to`."""
        files = ParquetStore(LocalFolder(folder))
        if (description := self.read_description()) is not None:
            files.prepare(description)
        for table in ALL:
            for condition in self._portions(table):
                files.write(table, list(self._read(table, condition)))

    def _portions(self, table: Table) -> Iterator[str]:
        """Conditions that divide the rows of a table into times of about COPY_ROWS rows, or of an hour.

        A table without a time is divided by the first digit of its ids.
        """
        if not table.time:
            yield from (f"STARTS_WITH(`{table.key[0]}`, '{digit}')" for digit in "0123456789abcdef")
            return
        hour = f"UNIX_SECONDS(TIMESTAMP_TRUNC(`{table.time}`, HOUR))"
        of_hours = f"SELECT {hour} AS second, COUNT(*) AS amount FROM {self._quote(table.name)}"
        counts = self._query(f"{of_hours} GROUP BY second ORDER BY second")
        if any(second is None for second, _ in counts):
            yield f"`{table.time}` IS NULL"
        amount, span = 0, list[int]()
        timed = [(second // 3600, count) for second, count in counts if second is not None]
        for place, (hour_number, count) in enumerate(timed, 1):
            amount, span = amount + count, [*span[:1], hour_number]
            if amount >= COPY_ROWS or place == len(timed):
                yield _in_hours(table, span[0], span[-1])
                amount, span = 0, []

    def _read(self, table: Table, condition: str) -> Iterator[pa.RecordBatch]:
        for batch in self._client.read(self.dataset, table.name, condition):
            yield restore_rows(batch, table.schema)

    def _check_columns(self) -> str:
        added = [
            f"{table.name}.{column.name}"
            for table in ALL
            for column in missing_columns(self._client, self.dataset, table) or ()
        ]
        return f"{', '.join(added)} will be added" if added else ""

    def _check_permissions(self) -> str:
        """Ask by dry runs whether jobs may create an inbox, and change the tables that are there."""
        location = self._find_location()
        if location is None:
            self._client.query("SELECT 1", self.location or None)
            return "seen in full once the dataset is there"
        statements = [f"CREATE TABLE {self._quote('_kpiflow_inbox_check')} (number INT64)"]
        statements += [
            f"DELETE FROM {self._quote(name)} WHERE FALSE" for name in filter(self._has_table, self.tables)
        ]
        for statement in statements:
            self._client.query(statement, location, dry_run=True)
        return ""

    def _has_table(self, name: str) -> bool:
        return self._client.table(f"{self.dataset}.{name}") is not None

    def _find_location(self) -> str | None:
        """Where the dataset is; None if there is none."""
        dataset = self._client.dataset(self.dataset)
        if dataset is not None and self.location and dataset.location.lower() != self.location.lower():
            there = f"{self.name} is in {dataset.location}, not in {self.location}"
            raise Refused(f"{there}; leave location out, or name another dataset")
        return None if dataset is None else str(dataset.location)

    @property
    def _client(self) -> Client:
        return Client(self.name, self.project, self.endpoint, self.storage_endpoint)

    @property
    def _place(self) -> str:
        return f"{self.project}.{self.dataset}"

    def _quote(self, name: str) -> str:
        return f"`{self._place}.{name}`"

    def _query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._client.query(sql, _location(self), parameters)


def _in_hours(table: Table, first: int, last: int) -> str:
    """The condition that a row's time is in one of some hours, counted from 1970."""
    ends = pa.array([first * 3600, last * 3600 + 3599], pa.timestamp("s")).cast(pa.string()).to_pylist()
    return during(f"`{table.time}`", ends[0], f"{ends[1]}.999999")


@cache
def _location(store: BigQuery) -> str:
    """Where the dataset is; its jobs must run there."""
    location = store._find_location()
    if location is None:
        raise Refused(f"the dataset of {store.name} is gone; start the job again, which creates it")
    return location
