"""The file of a sealed day out of its files of hours."""

from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.tables import DUPLICATES, REPORTS, Table
from tests.pipelines.maintenance.stored import FIRST, make_rows
from transforms.core.grouping import sort_by_columns
from transforms.core.time_units import HOUR_US
from transforms.sinks.parquet.day_file import BLOCK_HOURS, encode_day_file, write_day_file
from transforms.sinks.parquet.day_merge import divide_rows, merge_day
from transforms.sinks.parquet.file_merge import write_rows
from transforms.sinks.parquet.parquet_file import read_file, verify_file
from transforms.storage.local_folder import LocalFolder

COUNT = 500


def merge(output: Path, table: Table, part_rows: int) -> list[pa.RecordBatch]:
    """Write a day in files of hours; the parts of its merge."""
    write_rows(table, LocalFolder(output), [make_rows(table, FIRST, COUNT)], 30)
    names = sorted(LocalFolder(output).list_files(table.name))
    assert len(names) > 20
    work = output / "_work"
    work.mkdir()
    read = lambda name, columns: read_file(output / name, columns)  # noqa: E731
    parts = list(merge_day(table, names, read, work, part_rows))
    assert not [path for path in work.rglob("*") if path.is_file()]
    return parts


def sort_day(rows: pa.RecordBatch) -> pa.Table:
    """Rows of reports by blocks of hours, agent and time."""
    numbers = rows["recorded_at"].cast(pa.int64()).to_numpy() // (BLOCK_HOURS * HOUR_US)
    table = pa.Table.from_batches([rows]).append_column("block", pa.array(numbers))
    return table.sort_by([(name, "ascending") for name in ("block", *REPORTS.file_order)]).drop("block")


@pytest.mark.parametrize("part_rows", [1, 7, 60, 10_000])
def test_a_day_is_sorted_by_block_agent_and_time_whatever_the_size_of_its_parts(tmp_path, part_rows):
    parts = merge(tmp_path, REPORTS, part_rows)
    rows = pa.Table.from_batches(parts)
    assert rows.equals(sort_day(make_rows(REPORTS, FIRST, COUNT)))


def test_a_late_row_leaves_the_file_of_the_day_as_a_seal_writes_it(tmp_path):
    rows, path = make_rows(REPORTS, FIRST, COUNT), tmp_path / "day.parquet"
    write_day_file(path, REPORTS.schema, merge(tmp_path, REPORTS, 60), COUNT)
    in_order = rows.take(pa.array(sort_by_columns(rows.select(REPORTS.file_order), REPORTS.file_order)))
    assert encode_day_file(REPORTS, in_order) == path.read_bytes()
    assert pq.read_metadata(path).num_row_groups == 1


def test_a_part_has_about_as_many_rows_as_asked_for(tmp_path):
    parts = merge(tmp_path, REPORTS, 60)
    assert max(part.num_rows for part in parts) <= 60
    assert len(parts) < 30


def test_an_agent_with_more_rows_than_a_part_is_divided_by_time():
    busy = [pa.array(["a", "b", "b", "b", "c"]), pa.array(["b", "b", "b", "d"])]
    parts = divide_rows([each.dictionary_encode() for each in busy], 3)
    assert [each.tolist() for each in parts] == [[0, 1, 1, 1, 3], [2, 2, 2, 3]]


def test_a_table_without_agents_is_its_hours_one_after_the_other(tmp_path):
    parts = merge(tmp_path, DUPLICATES, 60)
    assert len(parts) > 20
    times = np.concatenate([part["received_at"].cast(pa.int64()).to_numpy() for part in parts])
    hours = times // timedelta(minutes=30).total_seconds() / 1_000_000
    assert (np.diff(hours.astype(int)) >= 0).all()
    assert len(times) == COUNT


def test_a_day_file_has_a_digest_and_a_filter_for_each_id(tmp_path):
    rows, path = make_rows(REPORTS, FIRST, COUNT), tmp_path / "day.parquet"
    assert write_day_file(path, REPORTS.schema, [rows.slice(0, 9), rows.slice(9)], COUNT) == COUNT
    assert verify_file(path) is None
    assert read_file(path).equals(rows)
    query = f"select path_in_schema from parquet_metadata('{path}') where bloom_filter_offset is not null"
    assert {"task_id", "report_id"} <= {name for (name,) in duckdb.sql(query).fetchall()}
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    assert "does not match its digest" in (verify_file(path) or "")


def test_an_empty_file_is_damaged_not_an_error(tmp_path):
    (tmp_path / "day.parquet").touch()
    assert "cannot be read" in (verify_file(tmp_path / "day.parquet") or "")
