"""Seals that notice any change."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.core.errors import DamagedFile
from transforms.sinks.parquet.parquet_file import encode_file, read_file, verify_file


def rows(count: int = 50) -> pa.RecordBatch:
    times = pa.array(np.arange(count), pa.timestamp("us", tz="UTC"))
    return pa.RecordBatch.from_pydict(
        {
            "report_id": [f"{i:032x}" for i in range(count)],
            "recorded_at": times,
            "agent_id": ["a"] * count,
            "metrics": pa.array(
                [[("tokens", float(i))] for i in range(count)], pa.map_(pa.string(), pa.float64())
            ),
            "score": pa.array([None if i % 7 == 0 else i / 3 for i in range(count)], pa.float64()),
        }
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "1200.parquet"
    path.write_bytes(encode_file(rows()))
    return path


def test_what_was_written_is_read_and_verifies(file: Path) -> None:
    assert read_file(file).equals(rows())
    assert read_file(file).schema.metadata is None
    assert verify_file(file) is None


def test_bytes_are_read_and_verified_as_files_are(file: Path) -> None:
    whole = file.read_bytes()
    assert read_file(whole, ["score"]).equals(read_file(file, ["score"]))
    assert (verify_file(whole), verify_file(whole[:-1]), verify_file(b"")) == (
        verify_file(file),
        *map(verify_on_disk(file), (whole[:-1], b"")),
    )
    with pytest.raises(DamagedFile, match=r"the name of it cannot be read.*backfill --replace"):
        read_file(whole[:-1], name="the name of it")


def verify_on_disk(file: Path) -> Callable[[bytes], str | None]:
    def verified(data: bytes) -> str | None:
        file.write_bytes(data)
        return verify_file(file)

    return verified


def test_only_the_columns_asked_for_are_read_and_absent_ones_are_no_error(file: Path) -> None:
    assert read_file(file, ["score", "nothing", "report_id"]).equals(rows().select(["report_id", "score"]))


def test_a_file_without_rows_is_read_in_its_columns(file: Path) -> None:
    file.write_bytes(encode_file(rows(0)))
    assert read_file(file).equals(rows(0))
    assert verify_file(file) is None


def test_several_row_groups_are_sealed_and_read_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.sinks.parquet.parquet_file.ROW_GROUP", 7)
    file.write_bytes(encode_file(rows()))
    assert pq.read_metadata(file).num_row_groups == 8
    assert (verify_file(file), read_file(file).equals(rows())) == (None, True)


def test_a_flip_of_any_byte_is_noticed(file: Path) -> None:
    whole = file.read_bytes()
    chance = random.Random(1)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    places = [*chance.sample(range(footer), 60), *chance.sample(range(footer, len(whole)), 60)]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << chance.randrange(8)
        file.write_bytes(changed)
        assert verify_file(file), place


@pytest.mark.parametrize("cut", [0, 3, 100, -1])
def test_a_cut_file_is_noticed_and_not_read(file: Path, cut: int) -> None:
    file.write_bytes(file.read_bytes()[:cut])
    assert "cannot be read" in str(verify_file(file))
    with pytest.raises(DamagedFile, match=f"{file} cannot be read.*backfill --replace"):
        read_file(file)


def changed_value(table: pa.Table) -> pa.Table:
    return table.set_column(4, "score", pa.array([1.0] * table.num_rows))


@pytest.mark.parametrize(
    "change",
    [lambda t: t.slice(1), lambda t: pa.concat_tables([t, t.slice(0, 1)]), changed_value, lambda t: t],
    ids=["removed", "added", "changed", "rewritten"],
)
def test_a_file_rewritten_by_another_program_is_noticed(
    file: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    with pq.ParquetFile(file) as stored:
        table, metadata = stored.read(), stored.metadata.metadata
    pq.write_table(change(table).replace_schema_metadata(), file)
    assert "no digest" in str(verify_file(file))
    pq.write_table(
        change(table).replace_schema_metadata({k: v for k, v in metadata.items() if k != b"ARROW:schema"}),
        file,
    )
    assert "does not match" in str(verify_file(file))


def test_a_missing_file_is_a_problem_in_words(tmp_path: Path) -> None:
    assert "cannot be read" in str(verify_file(tmp_path / "gone.parquet"))
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "gone.parquet")
