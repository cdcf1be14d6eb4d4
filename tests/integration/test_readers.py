"""The readers that the README names read the folder of every table as a whole."""

import importlib
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from pipelines.cli import run
from pipelines.verify.table_scan import scan
from schemas.kinds import KINDS
from schemas.tables import FLEET, TABLES, find_table
from tests.builders import NOON, agent_record, health, report, result, task
from tests.integration.archives import envelope, write

pytestmark = pytest.mark.threads


def polars() -> Any:
    """The library, whose import begins a thread: no other test of a run may find it."""
    return importlib.import_module("polars")


NAMES = [*TABLES, FLEET.name]
EDGES = [NOON, NOON + timedelta(hours=9), datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
RECORDS = {"task": task(), "execution_result": result(), "agent": agent_record(), "system_health": health()}
READERS: dict[str, Callable[[Path], int]] = {
    "duckdb": lambda table: len(duckdb.sql(f"SELECT * FROM '{table}/**/*.parquet'")),
    "duckdb, hive": lambda table: len(
        duckdb.sql(f"SELECT * FROM read_parquet('{table}/**/*.parquet', hive_partitioning = true)")
    ),
    "pandas": lambda table: len(pd.read_parquet(table)),
    "polars": lambda table: len(polars().read_parquet(table)),
    "polars, scanned": lambda table: len(polars().scan_parquet(table, hive_partitioning=True).collect()),
}
SPARK = "TEST_SPARK_PYTHON"
"""A Python that has pyspark 4, with Java 17 on the path: `python -m venv S && S/bin/pip install
'pyspark==4.*'`."""
SCRIPT = """
import sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
spark = spark.config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
spark = spark.config("spark.sql.session.timeZone", "UTC").getOrCreate()
for folder in sys.argv[1:]:
    table = spark.read.parquet(folder)
    table.write.format("noop").mode("overwrite").save()  # reads every column
    print(table.count())
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every table, with messages that have no time, and at the edges of the calendar."""
    folder = tmp_path_factory.mktemp("readers")
    documents = [report(number, at) for number, at in enumerate(EDGES)] + ["{"]
    lines = [
        envelope(each, f"{number}-{copy}", None) for number, each in enumerate(documents) for copy in range(3)
    ]
    lines += [envelope(each, f"timed {copy}", NOON) for copy, each in enumerate([report(9), report(9), "{"])]
    lines += [
        envelope(record, str(received), received, KINDS[kind].stream)
        for kind, record in RECORDS.items()
        for received in (None, NOON)
    ]
    assert (
        run(["backfill", "--input", str(write(folder / "a.ndjson", lines)), "--output", str(folder / "out")])
        == 0
    )
    return folder / "out"


def stored(output: Path, name: str) -> int:
    return sum(rows.num_rows for rows in scan(output, find_table(name)))


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_reader_reads_a_table_as_a_whole(output: Path, name: str, reader: Callable[[Path], int]) -> None:
    assert reader(output / name) == stored(output, name) > 0


def test_an_hour_of_a_window_size_is_found_by_its_folders(output: Path) -> None:
    found = duckdb.sql(
        f"SELECT granularity, hour(time_window_start AT TIME ZONE 'UTC') "
        f"FROM read_parquet('{output}/kpi_fleet/**/*.parquet', "
        "hive_partitioning = true) WHERE window_size = '1h' AND date = '2025-10-22' AND hour = '21'"
    )
    assert found.fetchall() == [("1h", 21)]


@pytest.mark.skipif(SPARK not in os.environ, reason=f"{SPARK} names no Python that has pyspark")
def test_spark_reads_every_table_as_a_whole(output: Path) -> None:
    command = [os.environ[SPARK], "-c", SCRIPT, *(str(output / name) for name in NAMES)]
    counts = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert [int(count) for count in counts] == [stored(output, name) for name in NAMES]
