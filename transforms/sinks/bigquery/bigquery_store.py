"""Tables in BigQuery: rows are appended to an inbox, and one transaction moves each batch into its table under the revision rule.

Why so: a row must be able to supersede another, and a batch may come twice. Appending at an offset writes each row once, but looks
at no row that is there. BigQuery's own upserts know one sequence number a row, and not how equal revisions are told apart. The id
of a job does keep it from running twice, but for half a year: what was deleted meanwhile could not be written again. So ids are new
each time, and a MERGE, which changes nothing the second time, does the rest; `bigquery_sql` says how two of them pass each other.

| the process dies | what is there | what the next write of the rows does |
|---|---|---|
| before the job, while appending or after it | rows in the inbox that no merge asks for | appends them as another batch |
| while the job runs, or its answer is lost | the whole batch in its tables, or nothing of it | merges; there is nothing to change |

What is left in an inbox expires with its partition, after a day or two. Rows that BigQuery refuses go to `quarantine` as `refused`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.cloud import bigquery

from schemas.readers.verdicts import Rejection
from schemas.tables import QUARANTINED, REPORTS, TABLES, TRIMMED, Table
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.core.grouping import sort_by_columns
from transforms.core.record_batches import (
    append_columns,
    concat,
    conform,
    group_batches,
    split_by_bytes,
    split_by_rows,
)
from transforms.sinks.bigquery import dataset_tables as made
from transforms.sinks.bigquery.row_format import by_partitions, contenders, flat, restored, spans
from transforms.sinks.bigquery.service import Service
from transforms.sinks.bigquery.sql import BATCH, BATCH_AT, ROW, Merge, Names, during, touched
from transforms.sinks.parquet.parquet_store import ParquetFiles
from transforms.sinks.parquet.storage import LocalFolder
from transforms.sinks.sink import Written
from transforms.validation.quarantine_rows import quarantine_unwritten

FORM = "bigquery://PROJECT/DATASET"
SKEW_SECONDS = 300
"""How far this machine's clock may be from BigQuery's."""
COPY_ROWS, BATCH_ROWS = 500_000, 50_000
"""About how many rows are copied at a time, and how many reports are given back in one batch."""
MERGE_BYTES = 1 << 30
"""Rows that one job merges, in bytes."""

_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{0,61}")
_DATASET, _LOCATION = re.compile(r"[A-Za-z0-9_]{1,1024}"), re.compile(r"[A-Za-z0-9-]*")
_ALL = (*TABLES.values(), TRIMMED)
_BATCH_COLUMNS = [
    pa.field(ROW, pa.int64()),
    pa.field(BATCH, pa.string()),
    pa.field(BATCH_AT, pa.timestamp("us", tz="UTC")),
]


@dataclass(frozen=True)
class BigQuery:
    """A store in a dataset, which is made in `location` if it is not there. The endpoints are those of REST and of gRPC."""

    project: str
    dataset: str
    location: str = ""
    endpoint: str = ""
    storage_endpoint: str = ""
    gather_seconds: int = 60

    @classmethod
    def from_url(cls, url: SplitResult, gather_seconds: int = 60) -> "BigQuery":
        """The store of `bigquery://PROJECT/DATASET?location=EU`; `endpoint` and `storage_endpoint` name a BigQuery of one's own.

        Raises:
            ValueError: it has another form.
        """
        project, dataset = url.netloc, url.path.strip("/")
        if not _PROJECT.fullmatch(project) or not _DATASET.fullmatch(dataset):
            letters = (
                "a dataset has letters, digits and underscores, a project small letters, digits and hyphens"
            )
            raise ValueError(f"{project}/{dataset} cannot be a project and dataset of {FORM}: {letters}")
        options = dict(parse_qsl(url.query, keep_blank_values=True))
        if unknown := [
            *sorted(set(options) - {"location", "endpoint", "storage_endpoint"}),
            *filter(None, [url.fragment]),
        ]:
            raise ValueError(
                f"{', '.join(unknown)} means nothing to {FORM}; it takes ?location=EU, endpoint and storage_endpoint"
            )
        if not _LOCATION.fullmatch(options.get("location", "")):
            raise ValueError(f"location={options['location']} is no location; try EU, US or europe-west3")
        endpoint = urlsplit(options.get("endpoint", ""))
        if endpoint.username or (endpoint.scheme and endpoint.scheme not in ("http", "https")):
            raise ValueError("an endpoint is http://HOST:PORT or https://HOST, without a user")
        if endpoint.scheme == "http" and not options.get("storage_endpoint"):
            raise ValueError("an endpoint over http:// needs storage_endpoint=HOST:PORT too")
        return cls(project, dataset, **options, gather_seconds=gather_seconds)

    @property
    def name(self) -> str:
        options = {
            "location": self.location,
            "endpoint": self.endpoint,
            "storage_endpoint": self.storage_endpoint,
        }
        given = urlencode({name: value for name, value in options.items() if value}, safe=":/")
        return f"bigquery://{self.project}/{self.dataset}" + (f"?{given}" if given else "")

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(table.name for table in _ALL)

    @property
    def _service(self) -> Service:
        return Service(self.name, self.project, self.endpoint, self.storage_endpoint)

    @property
    def _names(self) -> Names:
        return Names(self.project, self.dataset)

    def write(self, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
        batches = (
            part
            for batch in rows
            if batch.num_rows
            for part in split_by_bytes(conform(batch, table.schema), table.schema)
        )
        taken = requests = 0
        for group in group_batches(batches, MERGE_BYTES):
            for part in by_partitions(table, contenders(table, concat(group))):
                written = self._write(table, part)
                taken, requests = taken + written.rows, requests + written.requests
        return Written(taken, requests)

    def _write(self, table: Table, rows: pa.RecordBatch) -> Written:
        """Append a batch and merge it, after what BigQuery refused of it is in quarantine."""
        batch, now = uuid4().hex, datetime.now(UTC)
        values = [
            pa.array(np.arange(rows.num_rows)),
            *(pa.repeat(pa.scalar(each), rows.num_rows) for each in (batch, now)),
        ]
        sent = append_columns(
            flat(rows), [(f, array.cast(f.type)) for f, array in zip(_BATCH_COLUMNS, values)]
        )
        inbox = made.inbox_name(table)
        refused, requests = self._service.append(self.dataset, inbox, sent)
        if refused:
            self._quarantine(table, rows, refused)
            rows = rows.filter(pc.invert(pc.is_in(values[0], pa.array(refused, pa.int64()))))
        if not rows.num_rows:
            return Written(0, requests)
        days, timeless = spans(table, rows)
        merge = Merge(self._names, table, inbox, batch, now.isoformat(sep=" "), rows.num_rows, days, timeless)
        return Written(self._query(merge.script())[0][0], requests + 1)

    def _quarantine(self, table: Table, rows: pa.RecordBatch, refused: dict[int, str]) -> None:
        """Put the messages of refused rows into quarantine, each with its row as JSON; what was stored of them before goes."""
        if table.name in (QUARANTINED.name, TRIMMED.name) or "message_id" not in table.schema.names:
            number, message = next(iter(refused.items()))
            key = {name: str(rows[name][number]) for name in table.key}
            rows_ = f"{len(refused)} rows of {table.name}, first {key}"
            raise Refused(
                f"{self.name} refuses {rows_}: {message}; mend or remove the messages that they come from"
            )
        rows = rows.take(pa.array(refused, pa.int64()))
        rejections = [Rejection("refused", message[:400], "", "bigquery") for message in refused.values()]
        self.write(QUARANTINED, [quarantine_unwritten(rows, rejections)])
        if table.name == REPORTS.name:
            stored = f"{self._names.of(table.name)} AS t WHERE {touched('t', table, *spans(table, rows))}"
            identity = ("report_id", "source", "message_id")
            asked = [
                bigquery.ArrayQueryParameter(name, "STRING", rows[name].to_pylist()) for name in identity
            ]
            named = " AND ".join(f"t.`{each.name}` IN UNNEST(@{each.name})" for each in asked)
            self._query(f"DELETE FROM {stored} AND {named}", asked)

    def check(self) -> Iterator[Finding]:
        steps = {
            "credentials, and the dataset's location": lambda: (
                self._located() or f"made in {self.location or made.LOCATION} later"
            ),
            "an output of kpiflow, or a dataset without its tables": self.read_description,
            "the columns of the tables": lambda: made.conflicts(self._service, self.dataset),
            "permission to run jobs, and the clock": self._clock,
            "permission to append and to merge": self._permitted,
        }
        for what, look in steps.items():
            try:
                told = look()
                yield Finding(f"{what}: {told}" if isinstance(told, str) and told else what)
            except (Refused, Unavailable) as error:
                yield Finding.of(what, error)
                return

    def read_description(self) -> dict[str, Any] | None:
        if self._located() is None:
            return None
        if self._service.table(self.dataset, made.DESCRIPTION) is None:
            if held := [name for name in self.tables if self._service.table(self.dataset, name) is not None]:
                raise Refused(
                    f"{self.name} holds {', '.join(held)} but no {made.DESCRIPTION}; name another dataset as the output"
                )
            return None
        texts = {
            text for (text,) in self._query(f"SELECT description FROM {self._names.of(made.DESCRIPTION)}")
        }
        try:
            (text,) = texts
            description = json.loads(text)
            if not isinstance(description, dict):
                raise ValueError("it is no JSON object")
        except (ValueError, TypeError) as error:
            where = f"{made.DESCRIPTION} of {self.name}"
            raise Refused(
                f"{where} is damaged ({error}); put its one row back from a copy, or name another output"
            ) from error
        return description

    def prepare(self, description: dict[str, Any]) -> None:
        if self._located() is None:
            made.make_dataset(self._service, self.dataset, self.location)
        known = self.read_description()
        if known != description:
            how = "CREATE TABLE" if known is None else "CREATE OR REPLACE TABLE"
            text = bigquery.ScalarQueryParameter("text", "STRING", json.dumps(description, indent=2))
            try:
                self._query(
                    f"{how} {self._names.of(made.DESCRIPTION)} AS SELECT @text AS description", [text]
                )
            except Refused:
                if (other := self.read_description()) is None:
                    raise
                if other != description:
                    raise Refused(
                        f"another job has begun {self.name} otherwise at the same time; run this one again"
                    ) from None
        for table in _ALL:
            made.make(self._service, self.dataset, table, self._query)

    def has_reports(self) -> bool:
        return bool(self._query(f"SELECT COUNT(*) > 0 FROM {self._names.of(REPORTS.name)}")[0][0])

    def read_reports(self, hour: int) -> Iterator[pa.RecordBatch]:
        if found := list(self._read(REPORTS, _hours(REPORTS, hour, hour))):
            rows = concat(found)
            order = sort_by_columns(rows.select([REPORTS.time]), (REPORTS.time,))
            for portion in split_by_rows(rows.take(pa.array(order)), BATCH_ROWS):
                yield from split_by_bytes(portion, REPORTS.schema)

    def copy_to(self, folder: Path) -> None:
        files = ParquetFiles(LocalFolder(folder))
        if (description := self.read_description()) is not None:
            files.prepare(description)
        for table in _ALL:
            for condition in self._portions(table):
                files.write(table, list(self._read(table, condition)))

    def _portions(self, table: Table) -> Iterator[str]:
        """Conditions that part the rows of a table into spans of time of about COPY_ROWS, or of an hour."""
        hour, place = f"UNIX_SECONDS(TIMESTAMP_TRUNC(`{table.time}`, HOUR))", self._names.of(table.name)
        counts = self._query(
            f"SELECT {hour} AS second, COUNT(*) AS amount FROM {place} GROUP BY second ORDER BY second"
        )
        if any(second is None for second, _ in counts):
            yield f"`{table.time}` IS NULL"
        gathered, span = 0, list[int]()
        for second, amount in (each for each in counts if each[0] is not None):
            gathered, span = gathered + amount, [*span[:1], second // 3600]
            if gathered >= COPY_ROWS:
                yield _hours(table, span[0], span[-1])
                gathered, span = 0, []
        if span:
            yield _hours(table, span[0], span[-1])

    def _read(self, table: Table, condition: str) -> Iterator[pa.RecordBatch]:
        for batch in self._service.read(self.dataset, table.name, condition):
            yield restored(batch, table.schema)

    def _query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._service.query(sql, _location(self), parameters)

    def _located(self) -> str | None:
        """Where the dataset lies; None where there is none."""
        dataset = self._service.dataset(self.dataset)
        if dataset is not None and self.location and dataset.location.lower() != self.location.lower():
            there = f"{self.name} lies in {dataset.location}, not in {self.location}"
            raise Refused(f"{there}; leave location out, or name another dataset")
        return None if dataset is None else str(dataset.location)

    def _clock(self) -> None:
        """That jobs run, and that the clocks agree."""
        before = datetime.now(UTC)
        ((there,),) = self._service.query(
            "SELECT CURRENT_TIMESTAMP()", self._located() or self.location or None
        )
        off = max((before - there).total_seconds(), (there - datetime.now(UTC)).total_seconds())
        if off > SKEW_SECONDS:
            raise Refused(f"this machine's clock is {off:,.0f} s away from BigQuery's; set it by NTP")

    def _permitted(self) -> str:
        """That a merge is allowed, as far as its tables are there, and that appending is."""
        there = [
            each for each in _ALL if self._service.table(self.dataset, made.inbox_name(each)) is not None
        ]
        for table in there:
            self._service.query(
                f"DELETE FROM {self._names.of(table.name)} WHERE FALSE", _location(self), dry=True
            )
            self._service.ready_for_rows(self.dataset, made.inbox_name(table))
        return "" if there else "it is seen once the tables are made"


def _hours(table: Table, first: int, last: int) -> str:
    """The condition that a row's time lies in one of some hours, counted from 1970."""
    starts = pa.array([first * 3600, last * 3600 + 3599], pa.timestamp("s")).cast(pa.string()).to_pylist()
    return during(f"`{table.time}`", f"{starts[0]}+00", f"{starts[1]}.999999+00")


@cache
def _location(store: BigQuery) -> str:
    """Where the dataset lies; jobs must run there."""
    location = store._located()
    if location is None:
        raise Refused(f"{store.name} is not there any more; start the job again, which makes it")
    return location
