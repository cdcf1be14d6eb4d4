"""The inserts that one would write with each plain client library."""

import os
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as fs
import pyarrow.parquet as pq
from google.cloud import bigquery as google
from influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS

from schemas.tables import Table
from tests.bigquery import Emulator, store

Rows = Sequence[pa.RecordBatch]


def s3(endpoint: str) -> fs.FileSystem:
    """Arrow's own S3 client."""
    return fs.S3FileSystem(
        endpoint_override=endpoint, access_key="id", secret_key="secret", region="us-east-1"
    )


def dataset(table: Table, rows: Rows, base: str, where: fs.FileSystem | None) -> None:
    """Each batch as Parquet files of its hours, beside those of the batches before."""
    options = ds.ParquetFileFormat().make_write_options(compression="zstd", compression_level=1)
    for number, batch in enumerate(rows):
        times = batch[table.time]
        columns = {"date": pc.strftime(times, "%Y-%m-%d"), "hour": pc.strftime(times, "%H")}
        whole = pa.table(dict(zip(batch.schema.names, batch.columns)) | columns)
        ds.write_dataset(
            whole, base, format="parquet", filesystem=where, partitioning=["date", "hour"],
            partitioning_flavor="hive", basename_template=f"{number}-{{i}}.parquet", file_options=options,
            existing_data_behavior="overwrite_or_ignore",
            max_partitions=10_000, create_dir=where is None, file_visitor=None if where else _synced,
        )  # fmt: skip


def _synced(written: ds.WrittenFile) -> None:
    """A file that a crash of the machine does not lose."""
    descriptor = os.open(written.path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def bigquery(table: Table, emulator: Emulator, dataset_id: str) -> Callable[[Rows], None]:
    """Each batch as a load job of Parquet into a staging table, and a MERGE by key that takes the larger
    revision."""
    made = store(dataset_id, emulator)
    made.prepare({})
    client = google.Client(
        "demo", client_options={"api_endpoint": f"http://localhost:{emulator.rest}"}, credentials=_anonymous()
    )
    target = f"demo.{dataset_id}.{table.name}"
    fields = client.get_table(target).schema
    client.create_table(google.Table(f"{target}_staging", fields))
    names = [field.name for field in fields]
    keys = " AND ".join(f"t.{name} = s.{name}" for name in table.key)
    columns, values = ", ".join(names), ", ".join(f"s.{name}" for name in names)
    sets = ", ".join(f"{name} = s.{name}" for name in names)
    merge = (
        f"MERGE `{target}` t USING `{target}_staging` s ON {keys} "
        f"WHEN MATCHED AND t.revision < s.revision THEN UPDATE SET {sets} "
        f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values})"
    )

    def insert(rows: Rows) -> None:
        config = google.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_TRUNCATE")
        for batch in rows:
            buffer = BytesIO()
            pq.write_table(
                pa.table({name: _listed(batch[name]) for name in names}),
                buffer,
                use_compliant_nested_type=True,
            )
            buffer.seek(0)
            client.load_table_from_file(buffer, f"{target}_staging", job_config=config).result()
            client.query_and_wait(merge)

    return insert


def _listed(column: pa.Array) -> pa.Array:
    """A map as the list of structs that BigQuery has in its place."""
    if not pa.types.is_map(column.type):
        return column
    return column.cast(pa.list_(pa.struct([("key", column.type.key_type), ("value", column.type.item_type)])))


def _anonymous() -> Any:
    from google.auth.credentials import AnonymousCredentials

    return AnonymousCredentials()


def influx(rows: Rows, url: str, measurement: str) -> None:
    """Each batch as a data frame."""
    with (
        InfluxDBClient(url, token="none", org="none") as client,
        client.write_api(write_options=SYNCHRONOUS) as api,
    ):
        for batch in rows:
            frame: pd.DataFrame = batch.drop_columns(["time_window_end", "target_agent_type"]).to_pandas()
            frame = frame.set_index("time_window_start")
            tags = ["granularity", "agent_id"]
            api.write(
                "bucket", record=frame, data_frame_measurement_name=measurement, data_frame_tag_columns=tags
            )
