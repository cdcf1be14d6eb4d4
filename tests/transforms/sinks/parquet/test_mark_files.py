"""Marks are kept whole, once, in order, by several writers, whatever happens to one of them."""

import errno
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from transforms.core import durable_files
from transforms.core.errors import DamagedFile, OutputFull
from transforms.encryption.key_ring import KeySource, add_source, forget_keys
from transforms.encryption.master_key import KeyFile, KeyRefused
from transforms.sinks.parquet.mark_files import FOLDER, add_mark, list_mark_files
from transforms.sinks.parquet.parquet_file import read_file, verify_file
from transforms.storage.local_folder import LocalFolder

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


def mark(report: str = "r", verdict: str = "verified", **said: Any) -> dict[str, Any]:
    known = {"report_id": report, "agent_id": "a", "task_id": "t", "recorded_at": NOW, "value": 1.5}
    return {**known, "column": "latency_ms", "verdict": verdict, "note": None, "marked_by": "anna", **said}


def read(output: Path) -> list[dict[str, Any]]:
    files = [output / each.name for each in list_mark_files(LocalFolder(output))]
    assert [verify_file(each) for each in files] == [None] * len(files)
    return [row for each in files for row in read_file(each).to_pylist()]


def test_a_later_mark_replaces_the_earlier_and_both_are_kept(tmp_path: Path) -> None:
    first, is_new = add_mark(tmp_path, mark(), NOW)
    other, _ = add_mark(tmp_path, mark(column="accuracy"), NOW)
    second, _ = add_mark(tmp_path, mark(verdict="false", note="a spike"), LATER)
    assert (is_new, first["replaces"], other["replaces"]) == (True, None, None)
    assert second["replaces"] == first["marked_at"] == NOW
    assert read(tmp_path) == [first, other, second]


def test_a_mark_that_is_sent_again_is_not_kept_twice(tmp_path: Path) -> None:
    kept, _ = add_mark(tmp_path, mark(), NOW)
    assert add_mark(tmp_path, mark(), LATER) == (kept, False)
    assert add_mark(tmp_path, mark(marked_by="otto"), LATER)[1]
    assert add_mark(tmp_path, mark(), LATER)[1]
    assert len(read(tmp_path)) == 3


def test_two_months_have_two_files_and_a_mark_replaces_one_of_the_month_before(tmp_path: Path) -> None:
    first, _ = add_mark(tmp_path, mark(), NOW)
    second, _ = add_mark(tmp_path, mark(verdict="false"), NOW + timedelta(days=20))
    assert [each.name for each in list_mark_files(LocalFolder(tmp_path))] == [
        f"{FOLDER}/2026-11.parquet",
        f"{FOLDER}/2026-12.parquet",
    ]
    assert second["replaces"] == first["marked_at"]


def test_a_clock_that_is_set_back_changes_no_order(tmp_path: Path) -> None:
    times = [add_mark(tmp_path, mark(str(days)), NOW + timedelta(days=days))[0] for days in (0, 20, -300, 0)]
    assert [row["report_id"] for row in read(tmp_path)] == ["0", "20", "-300"]
    assert times[3] == times[0]
    assert times[2]["marked_at"] == times[1]["marked_at"] + timedelta(microseconds=1)


def test_marks_that_several_make_at_once_are_all_kept(tmp_path: Path) -> None:
    def work(name: str) -> None:
        for number in range(12):
            add_mark(tmp_path, mark(f"{name} {number}", marked_by=name), NOW)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("anna", "otto", "lea")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = read(tmp_path)
    assert len({row["report_id"] for row in rows}) == len({row["marked_at"] for row in rows}) == 36


class Killed(BaseException):
    """What ends a process ends this test's step."""


@pytest.mark.parametrize("step", ["fsync", "rename"])
@pytest.mark.parametrize("is_before", [True, False])
def test_a_kill_at_any_step_neither_loses_nor_doubles_a_mark(
    step: str, is_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _ = add_mark(tmp_path, mark("before"), NOW)
    owner, name = {"fsync": (durable_files.os, "fsync"), "rename": (Path, "replace")}[step]
    done = getattr(owner, name)

    def die(*arguments: Any) -> Any:
        if not is_before:
            done(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a process that is killed removes nothing
        with pytest.raises(Killed):
            add_mark(tmp_path, mark(), NOW)
    assert read(tmp_path)[0] == kept
    add_mark(tmp_path, mark(), LATER)
    assert [row["report_id"] for row in read(tmp_path)] == ["before", "r"]
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["2026-11.parquet"]


def test_a_full_disk_leaves_the_marks_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _ = add_mark(tmp_path, mark("before"), NOW)

    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable_files.os, "write", fail)
        with pytest.raises(OutputFull):
            add_mark(tmp_path, mark(), NOW)
    assert read(tmp_path) == [kept]
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["2026-11.parquet"]


def test_a_file_that_was_changed_is_not_written_over(tmp_path: Path) -> None:
    add_mark(tmp_path, mark(), NOW)
    path = tmp_path / FOLDER / "2026-11.parquet"
    path.write_bytes(path.read_bytes().replace(b"verified", b"verifies"))
    damaged = path.read_bytes()
    with pytest.raises(DamagedFile, match="put it back from a copy"):
        add_mark(tmp_path, mark("other"), NOW)
    assert path.read_bytes() == damaged


def test_marks_of_an_encrypted_output_are_encrypted(tmp_path: Path) -> None:
    master, output = KeyFile(tmp_path / "master"), tmp_path / "out"
    master.create(NOW)
    output.mkdir()
    try:
        KeySource(LocalFolder(output), str(tmp_path / "master")).begin()
        forget_keys()
        with pytest.raises(KeyRefused):
            add_mark(output, mark(note="private words"), NOW)
        assert list((output / FOLDER).iterdir()) == []
        add_source(LocalFolder(output), str(tmp_path / "master"))
        kept, _ = add_mark(output, mark(note="private words"), NOW)
        data = (output / FOLDER / "2026-11.parquet").read_bytes()
        assert data[:4] == b"PARE"
        assert b"private" not in data
        assert read(output) == [kept]
    finally:
        forget_keys()
