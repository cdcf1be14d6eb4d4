"""The stored files of a table as a view of DuckDB."""

from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from transforms.derived.registry import find_stored_table
from transforms.sinks.parquet.parquet_file import is_encrypted, open_dataset


def create_stored_view(
    connection: duckdb.DuckDBPyConnection, name: str, schemas: Mapping[Path, pa.Schema]
) -> None:
    """The view `stored_NAME` over files, in the columns of the table; one that they lack is null.

    `schemas`: those of the files. Only if they differ does DuckDB open all files whenever it plans a query.
    """
    schema = find_stored_table(name).schema
    connection.register(f"empty_{name}", schema.empty_table())
    if not schemas:
        connection.execute(f"CREATE TEMP VIEW stored_{name} AS SELECT * FROM empty_{name}")
        return
    paths = list(schemas)
    if is_encrypted(paths[0]):
        connection.register(f"stored_{name}", open_dataset(paths, schema))
        return
    listed, kinds = ", ".join(f"'{path}'" for path in schemas), set(schemas.values())
    source = f"read_parquet([{listed}], union_by_name = {len(kinds) > 1}, hive_partitioning = false)"
    present = {each for kind in kinds for each in kind.names}
    lacking = [each for each in schema.names if each not in present]
    columns = ", ".join(f'"{each}"' for each in schema.names if each in present)
    text = f"SELECT {columns} FROM {source}"
    if lacking:
        text = f"SELECT * FROM ({text}) UNION ALL BY NAME SELECT * FROM empty_{name}"
    connection.execute(f"CREATE TEMP VIEW stored_{name} AS {text}")
