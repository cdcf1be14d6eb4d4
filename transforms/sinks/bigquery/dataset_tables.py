"""The tables of a dataset: made where they are missing, given the columns that they lack, and refused where they do not fit.

Beside each table stand its inbox (`_kpiflow_inbox_...`, named by its columns, so that two versions of kpiflow have one each) and
its turn.
"""

import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import pyarrow as pa
from google.cloud import bigquery

from schemas.tables import AGGREGATIONS, DUPLICATES, QUARANTINED, REPORTS, TABLES, TRIMMED, Table
from transforms.core.errors import Refused
from transforms.sinks.bigquery.row_format import column, flat_schema, sql_type
from transforms.sinks.bigquery.service import ONCE, REQUEST_SECONDS, Service
from transforms.sinks.bigquery.sql import BATCH, BATCH_AT, ROW, Names, turn, turn_name

DESCRIPTION = "_kpiflow"
"""The table of one row that holds what the job says of its rows, as JSON."""
KEPT_DAYS = 2
"""How long a partition of an inbox is kept: a batch that is begun just before midnight has a whole day more."""
LOCATION = "US"
"""Where a dataset is made unless its URL says."""

_TEXTS = {
    REPORTS.name: "Every report once: as it came, enriched, and beside its agent's past hour. Of one report_id one row.",
    AGGREGATIONS.name: "Windows of 5 s, 1 min and 1 h of each agent.",
    QUARANTINED.name: "Messages that are no valid report: why, and their original bytes.",
    DUPLICATES.name: "Messages whose report another message already is.",
    TRIMMED.name: "What a stream lost before it was read.",
}
_CLUSTERS = {REPORTS.name: ["agent_id"], AGGREGATIONS.name: ["granularity", "agent_id"]}
_ALIASES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}
_BATCHES = [(ROW, "INTEGER"), (BATCH, "STRING"), (BATCH_AT, "TIMESTAMP")]
_CHANGES, _CHANGES_SECONDS = 5, 10
"""BigQuery lets a table be changed five times in ten seconds."""

Query = Callable[[str], Sequence[Any]]


def inbox_name(table: Table) -> str:
    """The inbox of a table with its columns as they are in this version."""
    columns = blake2b(str(flat_schema(table.schema)).encode(), digest_size=4).hexdigest()
    return f"_kpiflow_inbox_{table.name}_{columns}"


def make_dataset(service: Service, dataset: str, location: str) -> None:
    """Make a dataset, in LOCATION if none is given; one that is there by now stays as it is."""
    wanted = bigquery.Dataset(f"{service.project}.{dataset}")
    wanted.location = location or LOCATION
    wanted.description = "Tables of kpiflow"
    with service.told():
        service.rest.create_dataset(wanted, exists_ok=True, retry=ONCE, timeout=REQUEST_SECONDS)


def make(service: Service, dataset: str, table: Table, query: Query) -> None:
    """Make a table and what stands beside it, or add the columns that it lacks.

    Raises:
        Refused: a column, or the table itself, is of another kind.
    """
    existing = service.table(dataset, table.name)
    if existing is None:
        _create(service, _wanted(service, dataset, table))
    else:
        _add(Names(service.project, dataset).of(table.name), _lacking(existing, table, service.name), query)
    if service.table(dataset, inbox_name(table)) is None:
        _create(service, _inbox(service, dataset, table))
    if service.table(dataset, turn_name(table)) is None:
        query(turn(Names(service.project, dataset), table))


def conflicts(service: Service, dataset: str) -> str:
    """Which columns would be added, in words.

    Raises:
        Refused: a column, or a table itself, is of another kind.
    """
    added = []
    for table in (*TABLES.values(), TRIMMED):
        if (existing := service.table(dataset, table.name)) is not None:
            added += [f"{table.name}.{field.name}" for field in _lacking(existing, table, service.name)]
    return f"{', '.join(added)} will be added" if added else ""


def _create(service: Service, wanted: bigquery.Table) -> None:
    with service.told():
        service.rest.create_table(wanted, exists_ok=True, retry=ONCE, timeout=REQUEST_SECONDS)


def _add(name: str, fields: Sequence[pa.Field], query: Query) -> None:
    for place, field in enumerate(fields):
        if place and place % _CHANGES == 0:
            time.sleep(_CHANGES_SECONDS)
        query(f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS `{field.name}` {sql_type(field.type)}")


def _wanted(service: Service, dataset: str, table: Table) -> bigquery.Table:
    wanted = _partitioned(service, dataset, table.name, table.time, [column(field) for field in table.schema])
    wanted.clustering_fields = _CLUSTERS.get(table.name, ["source"])
    wanted.description = _TEXTS[table.name]
    return wanted


def _inbox(service: Service, dataset: str, table: Table) -> bigquery.Table:
    columns = [column(field) for field in flat_schema(table.schema)]
    columns += [{"name": name, "type": kind, "mode": "NULLABLE"} for name, kind in _BATCHES]
    wanted = _partitioned(service, dataset, inbox_name(table), BATCH_AT, columns, KEPT_DAYS)
    wanted.clustering_fields = [BATCH]
    wanted.description = f"Rows on their way into {table.name}; they expire"
    return wanted


def _partitioned(
    service: Service,
    dataset: str,
    name: str,
    time: str,
    columns: Sequence[dict[str, Any]],
    days: int | None = None,
) -> bigquery.Table:
    """A table by the day of a column, whose partitions are kept for some days or for good."""
    wanted = bigquery.Table(
        f"{service.project}.{dataset}.{name}", [bigquery.SchemaField.from_api_repr(each) for each in columns]
    )
    expiration = None if days is None else days * 86_400_000
    wanted.time_partitioning = bigquery.TimePartitioning(
        bigquery.TimePartitioningType.DAY, time, expiration_ms=expiration
    )
    return wanted


def _lacking(existing: bigquery.Table, table: Table, place: str) -> list[pa.Field]:
    """The fields of a table that have no column in the existing one."""
    if existing.table_type not in (None, "TABLE"):
        kind = existing.table_type.lower()
        raise Refused(
            f"{table.name} in {place} is a {kind} and no table; move it away, or name another dataset"
        )
    held = {each.name: each.to_api_repr() for each in existing.schema}
    for field in table.schema:
        there, wanted = _kind(held.get(field.name)), _kind(column(field))
        if there and there != wanted:
            raise Refused(
                f"the column {field.name} of {table.name} in {place} is {there} and should be {wanted}; "
                "move the table away, or name another dataset"
            )
    return [field for field in table.schema if field.name not in held]


def _kind(held: dict[str, Any] | None) -> str:
    """The type of a column, in words that are equal where types are."""
    if held is None:
        return ""
    kind = _ALIASES.get(held["type"].upper(), held["type"].upper())
    inner = ", ".join(f"{each['name']} {_kind(each)}" for each in held.get("fields", ()))
    kind = f"{kind} ({inner})" if inner else kind
    return f"REPEATED {kind}" if held.get("mode") == "REPEATED" else kind
