"""Keys that open only what they should, and that survive a kill at any point."""

import base64
import errno
import json
import os
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from transforms.core.errors import OutputFull, Refused
from transforms.core.key_wrapping import MonthKey
from transforms.encryption import key_ring, rotation
from transforms.encryption.key_list import KEYS, drop_old, parse_list
from transforms.encryption.key_ring import KeySource, find_key, forget_keys
from transforms.encryption.master_key import KeyFile, KeyRefused, open_wrapper
from transforms.encryption.rotation import plan_rotation, rotate_due_keys, rotate_keys
from transforms.storage.local_folder import LocalFolder

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def ring() -> Iterator[None]:
    forget_keys()
    yield
    forget_keys()


@pytest.fixture
def master(tmp_path: Path) -> KeyFile:
    master = KeyFile(tmp_path / "secrets" / "master.key")
    master.create(NOW)
    return master


@pytest.fixture
def source(tmp_path: Path, master: KeyFile) -> KeySource:
    source = KeySource(LocalFolder(tmp_path / "out"), master.name)
    source.begin()
    return source


def read_entries(source: KeySource) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(Path(source.storage.locate(KEYS)).read_bytes())["keys"]
    return entries


def change_file(source: KeySource, change: Callable[[dict[str, Any]], None]) -> None:
    path = Path(source.storage.locate(KEYS))
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def find_error(source: KeySource) -> str:
    forget_keys()
    with pytest.raises(KeyRefused) as caught:
        source.check()
    return str(caught.value)


def test_a_month_has_one_key_for_all_writers(source: KeySource, monkeypatch: pytest.MonkeyPatch) -> None:
    first = source.find_writing_key()
    forget_keys()
    assert source.find_writing_key() == first
    assert first.id[:8] == f"{datetime.now(UTC):%Y-%m}-"

    class NextYear(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2028, 2, 1, tzinfo=UTC)

    monkeypatch.setattr(key_ring, "datetime", NextYear)
    later = source.find_writing_key()
    assert (later.id[:8], later.secret == first.secret) == ("2028-02-", False)
    forget_keys()
    key_ring.add_source(source.storage, source.master)
    assert [find_key(each.id) for each in (first, later)] == [first, later]


def test_a_key_is_not_shown_and_does_not_leave_its_process(source: KeySource) -> None:
    key = source.find_writing_key()
    shown = f"{key!r} {key} {source!r} {pickle.dumps(source)!r}"
    forms = (repr(key.secret)[2:-1], key.secret.hex(), base64.b64encode(key.secret).decode())
    assert not [form for form in forms if form in shown]
    with pytest.raises(TypeError, match="does not leave"):
        pickle.dumps(key)


def test_a_swapped_or_a_foreign_entry_does_not_open(
    tmp_path: Path, source: KeySource, master: KeyFile
) -> None:
    other = KeySource(LocalFolder(tmp_path / "other"), master.name)
    other.begin()
    other.check()
    foreign = read_entries(other)[0]

    change_file(source, lambda content: content["keys"][0].update(wrapped=foreign["wrapped"]))
    assert "does not open" in find_error(source)
    change_file(other, lambda content: content["keys"][0].update(id="2020-01-00000000"))
    assert "does not open" in find_error(other)


def test_each_wrong_or_missing_key_says_what_to_do(
    source: KeySource, master: KeyFile, tmp_path: Path
) -> None:
    text = master.path.read_text()
    before = Path(source.storage.locate(KEYS)).read_bytes()
    other = KeyFile(tmp_path / "other.key")
    other.create(NOW)
    wrong = {
        "has no version": other.path.read_text(),
        "is revoked": text.rpartition(" ")[0] + " revoked\n",
        "is no master key": text[:-9] + "\n",
        "does not open": text.rpartition(" ")[0] + " " + base64.b64encode(b"\0" * 32).decode() + "\n",
    }
    for problem, content in wrong.items():
        master.path.write_text(content)
        message = find_error(source)
        assert problem in message
        assert "; " in message
        assert not [word for word in content.split() if len(word) == 44 and word in message]
    master.path.write_text(text)
    master.path.chmod(0o640)
    assert "chmod 600" in find_error(source)
    master.path.unlink()
    assert "no master key" in find_error(source)
    assert "--master-key" in find_error(KeySource(source.storage, None))
    assert "entry point" in find_error(KeySource(source.storage, "vault://secret/kpiflow"))
    assert Path(source.storage.locate(KEYS)).read_bytes() == before
    Path(source.storage.locate(KEYS)).write_bytes(before[:-9])
    assert "is damaged" in find_error(source)
    Path(source.storage.locate(KEYS)).unlink()
    assert "is missing" in find_error(source)


def test_what_is_no_file_is_refused_at_once_and_named(
    source: KeySource, master: KeyFile, tmp_path: Path
) -> None:
    master.path.unlink()
    os.mkfifo(master.path)
    assert "is no regular file" in find_error(source)
    master.path.unlink()
    master.path.mkdir()
    assert "is no regular file" in find_error(source)
    assert "is no regular file" in find_error(KeySource(source.storage, "/dev/null"))
    (tmp_path / "large").write_bytes(b"#" * (1 << 21))
    (tmp_path / "large").chmod(0o600)
    assert "is no master key" in find_error(KeySource(source.storage, str(tmp_path / "large")))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in find_error(KeySource(source.storage, str(tmp_path / "loop")))


def test_a_master_key_that_cannot_be_written_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (tmp_path / "file" / "m.key", Path("/proc/m.key"), tmp_path / "loop" / "m.key"):
        with pytest.raises(KeyRefused, match=r"cannot write .*m\.key \(.*; name another file"):
            KeyFile(place).create(NOW)

    def fill(*anything: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", fill)
    with pytest.raises(OutputFull, match="free some"):
        KeyFile(tmp_path / "m.key").create(NOW)
    assert not (tmp_path / "m.key").exists()


def test_a_new_master_key_is_for_its_owner_only_and_replaces_none(master: KeyFile) -> None:
    assert master.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyRefused, match="exists already"):
        master.create(NOW)


def test_rotation_changes_the_list_only_and_both_versions_can_read(
    source: KeySource, master: KeyFile
) -> None:
    key, old = source.find_writing_key(), master.path.read_text()
    rotate_keys(source, NOW)
    assert len(read_entries(source)[0]["wrapped"]) == 2
    new = master.path.read_text()
    lines = new.splitlines(keepends=True)
    for content in (old, "".join([*lines[:2], lines[-1]])):
        master.path.write_text(content)
        forget_keys()
        assert source.find_writing_key() == key
    master.path.write_text(new)
    source.change_list(lambda keys: drop_old(keys, open_wrapper(master.name)))
    master.path.write_text(old)
    assert "has no version" in find_error(source)


def test_a_rotation_killed_at_any_write_can_be_read_and_completed(
    source: KeySource, master: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after each of the two writes: of the master key, and of the list."""
    key = source.find_writing_key()

    class Killed(BaseException):
        pass

    def kill(*anything: object) -> None:
        raise Killed

    for what, name in ((KeyFile, "_append"), (LocalFolder, "put"), (rotation, "wrap_again")):
        versions = len(master.path.read_text().splitlines())
        with monkeypatch.context() as patch:
            patch.setattr(what, name, kill)
            with pytest.raises(Killed):
                rotate_keys(source, NOW)
        forget_keys()
        assert source.find_writing_key() == key
        rotate_keys(source, NOW)
        forget_keys()
        assert source.find_writing_key() == key
        assert len(master.path.read_text().splitlines()) == versions + 1
    current = master.find_current()
    assert all(list(entry["wrapped"])[-1] == current for entry in read_entries(source))


def test_a_rotation_keeps_a_link_to_the_key_file(tmp_path: Path, source: KeySource, master: KeyFile) -> None:
    """Others, as a job on this machine, may name the file and not the link."""
    link = tmp_path / "link.key"
    link.symlink_to(master.path)
    rotate_keys(KeySource(source.storage, str(link)), NOW)
    assert link.is_symlink()
    assert KeyFile(link).find_current() == master.find_current()
    source.change_list(lambda keys: drop_old(keys, master))
    forget_keys()
    source.check()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_rotation_by_root_leaves_the_file_to_the_user_of_the_job(
    source: KeySource, master: KeyFile
) -> None:
    os.chown(master.path, 12345, 23456)
    rotate_keys(source, NOW)
    found = master.path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 23456, 0o600)


def test_nothing_is_written_in_plain_once_the_list_of_keys_is_gone(source: KeySource) -> None:
    forget_keys()
    key_ring.add_source(source.storage, source.master)
    Path(source.storage.locate(KEYS)).unlink()
    with pytest.raises(KeyRefused, match="is missing"):
        key_ring.find_writing_key(source.storage)


def test_keys_are_rotated_when_they_are_due_and_not_before(source: KeySource, master: KeyFile) -> None:
    made = source.read_list().rotated
    days = timedelta(days=1)
    assert plan_rotation(source.read_list(), made + 89 * days) is None
    assert rotate_due_keys(source.storage, source.master, made + 89 * days) is None
    before = Path(source.storage.locate(KEYS)).read_bytes()
    due = rotate_due_keys(source.storage, source.master, made + 91 * days, act=False)
    assert due is not None
    assert (due.keys, due.due) == (1, made + 90 * days)
    assert Path(source.storage.locate(KEYS)).read_bytes() == before
    rotate_due_keys(source.storage, source.master, made + 91 * days)
    assert parse_list(Path(source.storage.locate(KEYS)).read_bytes(), "").rotated == made + 91 * days
    assert rotate_due_keys(source.storage, source.master, made + 92 * days) is None


def test_an_output_without_keys_has_nothing_to_rotate(tmp_path: Path) -> None:
    assert rotate_due_keys(LocalFolder(tmp_path), None, NOW) is None


def test_a_missing_key_is_an_error_that_no_retry_helps() -> None:
    assert issubclass(KeyRefused, Refused)
    with pytest.raises(KeyRefused, match="give --master-key"):
        find_key("2026-11-00000000")
    assert str(MonthKey("2026-11-00000000", b"\1" * 32)) == "MonthKey(2026-11-00000000)"
