"""Connections that are kept for many queries read the files of the output and no other."""

import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.queries.connections import DESCRIPTORS, KeptConnections
from pipelines.queries.limits import QueryLimits

LIMITS = QueryLimits(100, 5, 64)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "it's an output"
    folder.mkdir()
    pq.write_table(pa.table({"n": [1, 2]}), folder / "a.parquet")
    pq.write_table(pa.table({"n": [7]}), tmp_path / "b.parquet")
    return folder


@pytest.fixture
def descriptor(output: Path) -> Iterator[int]:
    number = os.open(output / "a.parquet", os.O_RDONLY)
    yield number
    os.close(number)


def read(connection: duckdb.DuckDBPyConnection, path: str) -> list[int]:
    return [row[0] for row in connection.execute(f"SELECT n FROM read_parquet('{path}')").fetchall()]


def test_a_connection_is_kept_and_reads_open_files_also_replaced_ones(output: Path, descriptor: int) -> None:
    connect = KeptConnections(output, LIMITS)
    with connect([descriptor], LIMITS) as first:
        assert read(first, f"{DESCRIPTORS}{descriptor}") == [1, 2]
    pq.write_table(pa.table({"n": [3]}), output / "new")
    (output / "new").rename(output / "a.parquet")
    with connect([descriptor], LIMITS) as second:
        assert second is first
        assert read(second, f"{DESCRIPTORS}{descriptor}") == [1, 2]


def test_a_descriptor_that_is_used_again_is_read_again(output: Path, descriptor: int) -> None:
    connect = KeptConnections(output, LIMITS)
    with connect([descriptor], LIMITS) as connection:
        assert read(connection, f"{DESCRIPTORS}{descriptor}") == [1, 2]
    pq.write_table(pa.table({"n": [5]}), output / "c.parquet")
    os.utime(output / "c.parquet", ns=(os.fstat(descriptor).st_atime_ns, os.fstat(descriptor).st_mtime_ns))
    other = os.open(output / "c.parquet", os.O_RDONLY)
    os.dup2(other, descriptor)
    os.close(other)
    with connect([descriptor], LIMITS) as connection:
        assert read(connection, f"{DESCRIPTORS}{descriptor}") == [5]


def test_nothing_else_is_read_and_no_setting_changed(output: Path, descriptor: int) -> None:
    with KeptConnections(output, LIMITS)([descriptor], LIMITS) as connection:
        for path in ("/etc/passwd", str(output.parent / "b.parquet"), f"{output.parent}/../b.parquet"):
            with pytest.raises(duckdb.Error):
                connection.execute("SELECT * FROM read_text(?)", [path]).fetchall()
        for text in (
            "SET threads = 1",
            "SET enable_external_access = true",
            "INSTALL httpfs",
            "ATTACH 'x.db'",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(text)


def test_a_connection_with_an_error_or_other_limits_or_files_is_not_kept(
    output: Path, descriptor: int
) -> None:
    connect = KeptConnections(output, LIMITS)
    with pytest.raises(duckdb.Error), connect([descriptor], LIMITS) as first:
        first.execute("SELECT nothing")
    with connect([descriptor], LIMITS) as second:
        assert second is not first
    with connect([descriptor], QueryLimits(100, 1, 64)) as third:
        assert third is not second
    outside = os.open(output.parent / "b.parquet", os.O_RDONLY)
    with connect([outside], LIMITS) as fourth:
        assert fourth is not second
        assert read(fourth, f"{DESCRIPTORS}{outside}") == [7]
    os.close(outside)
