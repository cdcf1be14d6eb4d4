"""Where files are kept: the same promises of a folder and of object storage, and what a folder keeps through
crashes and full disks."""

import errno
import os
import threading
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from transforms.core.durable_files import lock_folder, remove_file, replace_file
from transforms.core.errors import OutputFull, Refused, Unavailable
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Conflict, Storage


def put(storage: Storage, name: str, data: bytes) -> None:
    """Whatever is there."""
    with storage.lock(name.rpartition("/")[0]):
        stored = storage.get(name)
        storage.put(name, data, stored and stored.version)


def content(storage: Storage, name: str) -> bytes | None:
    stored = storage.get(name)
    return stored and stored.data


def test_a_file_is_what_was_put_last(storage: Storage) -> None:
    assert storage.get("a/b") is None
    put(storage, "a/b", b"one")
    put(storage, "a/b", b"another")
    assert content(storage, "a/b") == b"another"


@pytest.mark.parametrize("data", [b"", bytes(range(256)) * 40_000], ids=["empty", "10 MB"])
def test_any_bytes_come_back(storage: Storage, data: bytes) -> None:
    put(storage, "a", bytearray(data))
    assert content(storage, "a") == data


def test_a_new_file_is_not_put_over_one_that_is_there(storage: Storage) -> None:
    storage.put("a", b"first", None)
    with pytest.raises(Conflict):
        storage.put("a", b"second", None)
    assert content(storage, "a") == b"first"


def test_a_file_is_put_only_over_the_version_that_was_read(storage: Storage) -> None:
    storage.put("a", b"first", None)
    read = storage.get("a")
    assert read is not None
    storage.put("a", b"second", read.version)
    with pytest.raises(Conflict):
        storage.put("a", b"third", read.version)
    storage.remove("a")
    with pytest.raises(Conflict):
        storage.put("a", b"fourth", read.version)
    assert storage.get("a") is None


def test_a_removed_file_may_be_removed_again(storage: Storage) -> None:
    put(storage, "a/b", b"one")
    storage.remove("a/b")
    storage.remove("a/b")
    assert (storage.get("a/b"), list(storage.list_files(""))) == (None, [])


UNSAFE = ["a b/date=2025-10-22/c%20d.parquet", "a b/%2E%2F", "a b/+&?#;.x", "ä/日本 語.parquet", "a b/~'()!*"]


def test_names_with_unsafe_characters_stay_what_they_are(storage: Storage) -> None:
    for name in UNSAFE:
        put(storage, name, name.encode())
    assert {name: content(storage, name) for name in storage.list_files("")} == {
        name: name.encode() for name in UNSAFE
    }
    assert sorted(storage.list_files("a b")) == sorted(name for name in UNSAFE if name.startswith("a b/"))
    assert sorted(storage.list_names("")) == ["a b", "ä"]


def test_a_folder_holds_its_own_files_and_not_those_of_a_folder_with_a_longer_name(storage: Storage) -> None:
    for name in ("a/1", "a/b/2", "ab/3", "a.b"):
        put(storage, name, b"x")
    assert sorted(storage.list_files("a")) == ["a/1", "a/b/2"]
    assert list(storage.list_files("gone")) == []
    assert sorted(storage.list_names("")) == ["a", "a.b", "ab"]


def test_a_place_that_is_new_holds_nothing(storage: Storage) -> None:
    assert (list(storage.list_files("")), list(storage.list_names("")), storage.get("a")) == ([], [], None)


def test_a_check_finds_all_well_and_leaves_nothing(storage: Storage) -> None:
    before = list(storage.list_names(""))
    findings = list(storage.check())
    assert len(findings) > 1
    assert [finding.problem for finding in findings] == [""] * len(findings)
    assert list(storage.list_names("")) == before


def test_a_check_of_a_folder_that_is_there_writes_and_takes_it_back(tmp_path: Path) -> None:
    findings = [finding for finding in LocalFolder(tmp_path).check() if "write" in finding.what]
    assert [finding.problem for finding in findings] == [""]
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (LocalFolder(tmp_path / "file"), LocalFolder(tmp_path / "file" / "below")):
        with pytest.raises(Refused, match=r"is a file.*; name a folder"):
            put(folder, "a", b"x")
        (finding,) = folder.check()
        assert (finding.problem, finding.fix) == (
            f"{tmp_path / 'file'} is a file",
            "name another output, or change its permissions",
        )


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EACCES, Refused, "Permission denied.*change its permissions"),
        (errno.EROFS, Refused, "Read-only file system"),
        (errno.ESTALE, Unavailable, "cannot be used now"),
        (errno.EIO, Unavailable, "cannot be used now"),
    ],
)
def test_errors_of_a_file_system_become_those_of_a_sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], words: str
) -> None:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(kind, match=words):
        LocalFolder(tmp_path).put("a", b"x", None)


def test_little_space_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.storage.local_folder.LEAST_FREE", 1 << 60)
    (finding,) = [finding for finding in LocalFolder(tmp_path).check() if finding.problem]
    assert (finding.what, finding.fix) == ("free space", "free some, or name an output on another disk")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "date=2025-10-22" / "hour=12" / "1200.parquet"
    replace_file(path, b"old")
    return path


def folder_names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def test_a_removed_file_is_gone_and_may_be_removed_again(file: Path) -> None:
    remove_file(file)
    remove_file(file)
    assert folder_names(file) == []


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_names_the_folder_and_leaves_the_old_file_alone(
    file: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = file.read_bytes()
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OutputFull, match=str(file.parent)):
        replace_file(file, b"new")
    assert (file.read_bytes(), folder_names(file)) == (before, ["1200.parquet"])


def test_a_disk_that_fills_up_in_the_middle_of_a_write_leaves_no_torn_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.write, [10]

    def filling(descriptor: int, data: memoryview) -> int:
        if not left[0]:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        left[0] -= 1
        return real(descriptor, data[:1])

    monkeypatch.setattr(os, "write", filling)
    with pytest.raises(OutputFull):
        replace_file(file, b"n" * 20)
    assert (file.read_bytes(), folder_names(file)) == (b"old", ["1200.parquet"])


def test_short_writes_are_continued(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    replace_file(file, b"0123456789")
    assert file.read_bytes() == b"0123456789"


def test_other_errors_keep_their_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "fsync", denied)
    with pytest.raises(PermissionError):
        replace_file(file, b"new")


def test_what_a_killed_writer_left_is_removed_by_the_next(file: Path) -> None:
    (file.parent / ".1210.parquet.0a1b2c3d.kpiflow").write_bytes(b"torn")
    (file.parent / ".another program's.tmp").write_bytes(b"not ours")
    with lock_folder(file.parent):
        pass
    assert folder_names(file) == [".another program's.tmp", "1200.parquet"]


def test_a_lock_waits_for_the_other_holder_and_leaves_no_file(tmp_path: Path) -> None:
    entered: list[str] = []

    def second() -> None:
        with lock_folder(tmp_path / "x"):
            entered.append("second")

    with lock_folder(tmp_path / "x"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        entered.append("first")
    thread.join(PATIENCE)
    assert (entered, list((tmp_path / "x").iterdir())) == (["first", "second"], [])
