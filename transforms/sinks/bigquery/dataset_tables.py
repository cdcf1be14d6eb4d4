"""The tables of a dataset: created where they are missing, given missing columns, and refused where they do
not fit.

Beside each table there is its turn (`transforms.sinks.bigquery.merge`), and for a moment an inbox for each
write.
"""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from google.cloud import bigquery
from google.cloud.bigquery import SchemaField

from schemas.tables import (
    AGENTS,
    AGGREGATIONS,
    DUPLICATES,
    QUARANTINED,
    REPORTS,
    RESULTS,
    SYSTEM_HEALTH,
    TABLES,
    TASKS,
    TRIMMED,
    Table,
)
from transforms.core.errors import Refused
from transforms.sinks.bigquery.client import ONCE, REQUEST_SECONDS, Client
from transforms.sinks.bigquery.columns import schema_field, sql_type
from transforms.sinks.bigquery.merge import ROW, turn_name

ALL = (*TABLES.values(), TRIMMED)
DESCRIPTION = "_kpiflow"
"""The table of one row that holds the description of the output, as JSON."""
LOCATION = "US"
"""Where a dataset is created unless its URL says."""

_INBOX_DAYS = 2
_TEXTS = {
    REPORTS.name: "Every report once: as it came, enriched, and beside its agent's past hour.",
    AGGREGATIONS.name: "Windows of 5 s, 1 min and 1 h of each agent.",
    QUARANTINED.name: "Messages that are not valid: why, and their original bytes.",
    DUPLICATES.name: "Messages whose report or record another message already is.",
    TASKS.name: "Every version of each task.",
    RESULTS.name: "Every version of how each task ended.",
    AGENTS.name: "Every version of each agent, one an hour at least in which it was heard of.",
    SYSTEM_HEALTH.name: "Every message about the health of the system.",
    TRIMMED.name: "What a stream lost before it was read.",
}
_CLUSTERS = {
    REPORTS.name: ["agent_id"],
    AGGREGATIONS.name: ["granularity", "agent_id"],
    TASKS.name: ["task_id"],
    RESULTS.name: ["task_id"],
    AGENTS.name: ["agent_id"],
}


def create_dataset(client: Client, dataset: str, location: str) -> None:
    """Create a dataset, in LOCATION if none is given; an existing one stays as it is."""
    wanted = bigquery.Dataset(f"{client.project}.{dataset}")
    wanted.location = location or LOCATION
    wanted.description = "Tables of kpiflow"
    with client.sink_errors():
        client.rest.create_dataset(wanted, exists_ok=True, retry=ONCE, timeout=REQUEST_SECONDS)


def create_tables(client: Client, dataset: str, location: str) -> None:
    """Create all tables and their turns, and add columns that a table lacks.

    Raises:
        Refused: a column, or a table itself, is of another kind.
    """
    place = f"{client.project}.{dataset}"
    statements = []
    for table in ALL:
        missing = missing_columns(client, dataset, table)
        if missing is None:
            with client.sink_errors():
                wanted = _new_table(place, table)
                client.rest.create_table(wanted, exists_ok=True, retry=ONCE, timeout=REQUEST_SECONDS)
        alter = f"ALTER TABLE `{place}.{table.name}` ADD COLUMN IF NOT EXISTS"
        statements += [f"{alter} `{column.name}` {sql_type(column)}" for column in missing or ()]
        if client.table(f"{dataset}.{turn_name(table)}") is None:
            row = "SELECT 0 AS merges, CURRENT_TIMESTAMP() AS merged_at"
            statements.append(f"CREATE TABLE IF NOT EXISTS `{place}.{turn_name(table)}` AS {row}")
    for statement in statements:
        client.query(statement, location)


def missing_columns(client: Client, dataset: str, table: Table) -> list[SchemaField] | None:
    """Return the columns that an existing table lacks; None if there is no such table.

    Raises:
        Refused: a column, or the table itself, is of another kind.
    """
    existing = client.table(f"{dataset}.{table.name}")
    if existing is None:
        return None
    if existing.table_type not in (None, "TABLE"):
        kind = existing.table_type.lower()
        raise Refused(
            f"{table.name} in {client.name} is a {kind}, not a table; move it away, or name another dataset"
        )
    types = {column.name: sql_type(column) for column in existing.schema}
    wanted = [schema_field(field) for field in table.schema]
    for column in wanted:
        if types.get(column.name, sql_type(column)) != sql_type(column):
            raise Refused(
                f"the column {column.name} of {table.name} in {client.name} is {types[column.name]} "
                f"and should be {sql_type(column)}; move the table away, or name another dataset"
            )
    return [column for column in wanted if column.name not in types]


def new_inbox(dataset: str, table: Table) -> bigquery.Table:
    """Return an inbox of a new name, which is not yet created and expires by itself."""
    columns = [*map(schema_field, table.schema), SchemaField(ROW, "INTEGER")]
    inbox = bigquery.Table(f"{dataset}._kpiflow_inbox_{table.name}_{uuid4().hex}", columns)
    inbox.expires = datetime.now(UTC) + timedelta(days=_INBOX_DAYS)
    return inbox


def _new_table(dataset: str, table: Table) -> bigquery.Table:
    wanted = bigquery.Table(f"{dataset}.{table.name}", list(map(schema_field, table.schema)))
    if table.time:
        wanted.time_partitioning = bigquery.TimePartitioning(bigquery.TimePartitioningType.DAY, table.time)
    wanted.clustering_fields = _CLUSTERS.get(table.name, ["source"])
    wanted.description = _TEXTS[table.name]
    return wanted
