"""Files that are replaced whole, and seals that notice any change."""

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.sinks.files import DamagedFile, OutputFull, encode, locked, read, remove, replace, verify


def rows(count: int = 50) -> pa.RecordBatch:
    times = pa.array(np.arange(count), pa.timestamp("us", tz="UTC"))
    return pa.RecordBatch.from_pydict(
        {
            "report_id": [f"{i:032x}" for i in range(count)],
            "recorded_at": times,
            "agent_id": ["a"] * count,
            "metrics": pa.array([[("tokens", float(i))] for i in range(count)], pa.map_(pa.string(), pa.float64())),
            "score": pa.array([None if i % 7 == 0 else i / 3 for i in range(count)], pa.float64()),
        }
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "date=2025-10-22" / "hour=12" / "1200.parquet"
    replace(path, encode(rows()))
    return path


def folder_names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def test_what_was_written_is_read_and_verifies(file: Path) -> None:
    assert read(file).equals(rows())
    assert read(file).schema.metadata is None
    assert verify(file) is None


def test_only_the_columns_asked_for_are_read_and_absent_ones_are_no_error(file: Path) -> None:
    assert read(file, ["score", "nothing", "report_id"]).equals(rows().select(["report_id", "score"]))


def test_a_file_without_rows_is_read_in_its_columns(file: Path) -> None:
    replace(file, encode(rows(0)))
    assert read(file).equals(rows(0))
    assert verify(file) is None


def test_a_removed_file_is_gone_and_may_be_removed_again(file: Path) -> None:
    remove(file)
    remove(file)
    assert folder_names(file) == []


def test_several_row_groups_are_sealed_and_read_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.sinks.files.ROW_GROUP", 7)
    replace(file, encode(rows()))
    assert pq.read_metadata(file).num_row_groups == 8
    assert (verify(file), read(file).equals(rows())) == (None, True)


def test_a_flip_of_any_byte_is_noticed(file: Path) -> None:
    whole = file.read_bytes()
    chance = random.Random(1)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    places = [*chance.sample(range(footer), 60), *chance.sample(range(footer, len(whole)), 60)]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << chance.randrange(8)
        file.write_bytes(changed)
        assert verify(file), place


@pytest.mark.parametrize("cut", [0, 3, 100, -1])
def test_a_cut_file_is_noticed_and_not_read(file: Path, cut: int) -> None:
    file.write_bytes(file.read_bytes()[:cut])
    assert "cannot be read" in str(verify(file))
    with pytest.raises(DamagedFile, match=f"{file} cannot be read.*backfill --replace"):
        read(file)


def changed_value(table: pa.Table) -> pa.Table:
    return table.set_column(4, "score", pa.array([1.0] * table.num_rows))


@pytest.mark.parametrize(
    "change",
    [lambda t: t.slice(1), lambda t: pa.concat_tables([t, t.slice(0, 1)]), changed_value, lambda t: t],
    ids=["removed", "added", "changed", "rewritten"],
)
def test_a_file_rewritten_by_another_program_is_noticed(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    with pq.ParquetFile(file) as stored:
        table, metadata = stored.read(), stored.metadata.metadata
    pq.write_table(change(table).replace_schema_metadata(), file)
    assert "no digest" in str(verify(file))
    pq.write_table(change(table).replace_schema_metadata({k: v for k, v in metadata.items() if k != b"ARROW:schema"}), file)
    assert "does not match" in str(verify(file))


def test_a_missing_file_is_a_problem_in_words(tmp_path: Path) -> None:
    assert "cannot be read" in str(verify(tmp_path / "gone.parquet"))
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "gone.parquet")


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_names_the_folder_and_leaves_the_old_file_alone(
    file: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = file.read_bytes()
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OutputFull, match=str(file.parent)):
        replace(file, b"new")
    assert (file.read_bytes(), folder_names(file)) == (before, ["1200.parquet"])


def test_a_disk_that_fills_up_in_the_middle_of_a_write_leaves_no_torn_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = os.write, [10]

    def filling(descriptor: int, data: memoryview) -> int:
        if not left[0]:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        left[0] -= 1
        return real(descriptor, data[:1])

    monkeypatch.setattr(os, "write", filling)
    with pytest.raises(OutputFull):
        replace(file, b"n" * 20)
    assert (read(file).equals(rows()), folder_names(file)) == (True, ["1200.parquet"])


def test_short_writes_are_continued(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    replace(file, b"0123456789")
    assert file.read_bytes() == b"0123456789"


def test_other_errors_keep_their_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "fsync", denied)
    with pytest.raises(PermissionError):
        replace(file, b"new")


def test_what_a_killed_writer_left_is_removed_by_the_next(file: Path) -> None:
    (file.parent / ".1210.parquet.0a1b2c3d.kpiflow").write_bytes(b"torn")
    (file.parent / ".another program's.tmp").write_bytes(b"not ours")
    with locked(file.parent):
        pass
    assert folder_names(file) == [".another program's.tmp", "1200.parquet"]


def test_a_lock_waits_for_the_other_holder_and_leaves_no_file(tmp_path: Path) -> None:
    entered: list[str] = []

    def second() -> None:
        with locked(tmp_path / "x"):
            entered.append("second")

    with locked(tmp_path / "x"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        entered.append("first")
    thread.join(5)
    assert (entered, list((tmp_path / "x").iterdir())) == (["first", "second"], [])
