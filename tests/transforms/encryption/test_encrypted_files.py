"""Encrypted files: equal rows, no byte that can change, nothing of a row in plain."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from schemas.tables import REPORTS
from transforms.core.errors import DamagedFile
from transforms.core.key_wrapping import MonthKey
from transforms.core.record_batches import conform
from transforms.encryption.key_ring import KeySource, add_source, forget_keys
from transforms.encryption.master_key import KeyFile, KeyRefused
from transforms.sinks.parquet.parquet_file import (
    encode_file,
    open_dataset,
    open_parquet,
    read_file,
    read_whole,
    verify_file,
)
from transforms.storage.local_folder import LocalFolder

NOON = 1_761_000_000_000_000


def make_rows(count: int) -> pa.RecordBatch:
    times = pa.array(
        [NOON + number * 1_000_000 for number in range(count)], REPORTS.schema.field("recorded_at").type
    )
    values = {"report_id": [f"r{number}" for number in range(count)], "agent_id": ["a"] * count}
    return conform(pa.RecordBatch.from_pydict({**values, "recorded_at": times}), REPORTS.schema)


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    forget_keys()
    KeyFile(tmp_path / "master.key").create(datetime.now(UTC))
    source = KeySource(LocalFolder(tmp_path / "out"), str(tmp_path / "master.key"))
    source.begin()
    add_source(source.storage, source.master)
    yield tmp_path / "out"
    forget_keys()


@pytest.fixture
def key(output: Path) -> MonthKey:
    return add_source(LocalFolder(output)).find_writing_key()


@pytest.fixture
def few(key: MonthKey) -> bytes:
    rows = make_rows(2).select(["report_id", "agent_id", "recorded_at"])
    return bytes(encode_file(rows, {b"kpiflow.inputs": b"x"}, key))


def test_an_encrypted_file_has_the_rows_of_a_plain_one(key: MonthKey, output: Path) -> None:
    rows = make_rows(300)
    data = bytes(encode_file(rows, key=key))
    path = output / "1200.parquet"
    path.write_bytes(data)
    for file in (data, path):
        assert verify_file(file) is None
        assert read_file(file).equals(read_file(bytes(encode_file(rows))))
        assert read_file(file, ["agent_id"]).equals(read_file(data).select(["agent_id"]))
    assert read_whole(data, "it").equals(read_file(data))
    with path.open("rb") as opened, open_parquet(opened) as parquet:
        assert parquet.metadata.num_rows == 300


def test_a_change_of_any_byte_is_noticed(few: bytes) -> None:
    assert verify_file(few) is None
    plain = few.index(b"kpiflow1")
    places = {
        *range(0, len(few), 5),
        *range(8),
        *range(plain - 3, plain + 98),
        *range(len(few) - 8, len(few)),
    }
    for place in sorted(places):
        changed = bytearray(few)
        changed[place] ^= 1 << place % 8
        assert verify_file(bytes(changed)), place
        if place % 40 == 0:
            with pytest.raises(DamagedFile):
                read_whole(bytes(changed), "it")
    assert all(verify_file(few[:-count]) for count in (1, 8, 100, len(few) - 1))
    assert verify_file(few + b"\0")


def test_nothing_of_a_row_or_of_the_columns_is_in_plain(few: bytes, key: MonthKey) -> None:
    plain = bytes(encode_file(make_rows(1).select(["report_id", "agent_id"])))
    for word in (b"agent_id", b"kpiflow.inputs", b"kpiflow.rows", key.secret):
        assert word not in few
    assert b"agent_id" in plain


def test_two_files_of_equal_rows_have_nothing_in_common(few: bytes, key: MonthKey) -> None:
    again = bytes(encode_file(read_file(few), key=key))
    assert few[4:200] != again[4:200]


def test_a_file_is_read_by_its_path_alone_or_not_at_all(few: bytes, output: Path) -> None:
    """As `kpiflow metrics` does: the list of keys is looked for above the file."""
    path = output / "kpi_reports" / "1200.parquet"
    path.parent.mkdir()
    path.write_bytes(few)
    master = str(output.parent / "master.key")
    forget_keys()
    with pytest.raises(KeyRefused, match="--master-key"):
        read_file(path)
    with pytest.raises(KeyRefused, match="--master-key"):
        verify_file(path)
    add_source(LocalFolder(output), master)
    assert read_file(path).num_rows == 2


def test_a_file_of_another_output_is_damage_of_this_one(few: bytes, tmp_path: Path) -> None:
    forget_keys()
    other = KeySource(LocalFolder(tmp_path / "other"), str(tmp_path / "master.key"))
    other.begin()
    add_source(other.storage, other.master)
    assert "is in no _keys.json" in str(verify_file(few))


def test_duckdb_reads_files_as_a_dataset_with_nulls_for_columns_that_a_file_lacks(
    output: Path, key: MonthKey
) -> None:
    rows = make_rows(20)
    for name, columns, using in (("a", rows.schema.names, key), ("b", ["report_id", "recorded_at"], None)):
        (output / f"{name}.parquet").write_bytes(encode_file(rows.select(columns), key=using))
    dataset = open_dataset([output / "a.parquet", output / "b.parquet"], REPORTS.schema)
    with duckdb.connect() as connection:
        connection.register("stored", dataset)
        text = "SELECT count(*), count(agent_id) FROM stored WHERE recorded_at > '2000-01-01'"
        assert connection.sql(text).fetchall() == [(40, 20)]
    assert isinstance(dataset.schema, pa.Schema)
