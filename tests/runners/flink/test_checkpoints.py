"""Which checkpoint a run goes on from, whatever a power cut left of the newest one."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from runners.flink import checkpoints
from runners.flink.checkpoints import (
    Choice,
    choose_checkpoints,
    list_complete_checkpoints,
    remove_other_jobs,
    seal,
)

FILES = ("_metadata", "0a-1b", "2c-3d", "4e-5f")


def make_checkpoint(folder: Path, name: str, at: int, sealed: bool = True) -> Path:
    """A checkpoint of some files, of a size of their own each."""
    path = folder / "checkpoints" / name
    path.mkdir(parents=True)
    for place, file in enumerate(FILES):
        (path / file).write_bytes(random.Random(f"{name} {file}").randbytes(100 * (place + 1)))
    os.utime(path / "_metadata", (at, at))
    if sealed:
        seal(path)
    return path


def cut_to(length: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, length)


def flip_bit(path: Path) -> None:
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 1
    path.write_bytes(octets)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"cut to {length}": cut_to(length) for length in (0, 1, 50, 99)},
    "longer": lambda path: os.truncate(path, path.stat().st_size + 4096),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "garbage": lambda path: path.write_bytes(random.Random(0).randbytes(path.stat().st_size)),
    "a bit": flip_bit,
    "gone": Path.unlink,
    "a folder": replace_by_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_newest_checkpoint_is_left_out_for_the_one_before(
    tmp_path: Path, file: str, damage: str
) -> None:
    before, newest = (
        make_checkpoint(tmp_path, "a/chk-6", at=1000),
        make_checkpoint(tmp_path, "a/chk-7", at=2000),
    )
    assert choose_checkpoints(tmp_path) == Choice([newest], True, [])
    DAMAGES[damage](newest / file)
    choice = choose_checkpoints(tmp_path)
    assert (choice.checkpoints, choice.is_sealed, len(choice.left_out)) == ([before], True, 1)
    assert choice.left_out[0].startswith(f"{newest} is damaged: {file} ")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_torn_seal_is_none(tmp_path: Path, damage: str) -> None:
    before, newest = (
        make_checkpoint(tmp_path, "a/chk-6", at=1000),
        make_checkpoint(tmp_path, "a/chk-7", at=2000),
    )
    DAMAGES[damage](newest.with_name("chk-7.seal"))
    left_out = choose_checkpoints(tmp_path).left_out
    assert choose_checkpoints(tmp_path)[:2] == ([before], True)
    assert (
        left_out == [f"{newest} was not synced to disk before its run ended"] or "is damaged" in left_out[0]
    )


def test_a_checkpoint_that_was_not_sealed_is_left_out_for_one_that_was_also_of_the_job_before(
    tmp_path: Path,
) -> None:
    before = make_checkpoint(tmp_path, "old/chk-70", at=1000)
    make_checkpoint(tmp_path, "new/chk-1", at=2000, sealed=False)
    assert choose_checkpoints(tmp_path)[:2] == ([before], True)


def test_where_none_is_sealed_flink_may_try_each_from_the_newest_on(tmp_path: Path) -> None:
    older, newer = (make_checkpoint(tmp_path, f"a/chk-{n}", at=1000 * n, sealed=False) for n in (1, 2))
    assert choose_checkpoints(tmp_path) == Choice([newer, older], False, [])
    seal(newer)
    (newer / FILES[1]).unlink()
    assert choose_checkpoints(tmp_path)[:2] == ([older], False)


def test_where_all_are_damaged_each_is_named(tmp_path: Path) -> None:
    for n in (1, 2):
        (make_checkpoint(tmp_path, f"a/chk-{n}", at=1000 * n) / "_metadata").unlink()
    choice = choose_checkpoints(tmp_path)
    assert (choice.checkpoints, ["chk-2" in choice.left_out[0], "chk-1" in choice.left_out[1]]) == (
        [],
        [True, True],
    )


def test_without_checkpoints_there_is_no_choice_and_no_warning(tmp_path: Path) -> None:
    assert choose_checkpoints(tmp_path) == Choice([], False, [])


def test_a_seal_is_written_when_every_file_and_folder_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced, fsync = make_checkpoint(tmp_path, "a/chk-7", at=1000, sealed=False), [], os.fsync

    def note_sync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(tmp_path).as_posix())
        fsync(descriptor)

    monkeypatch.setattr(checkpoints.os, "fsync", note_sync)
    seal(path)
    whole = [f"checkpoints/a/chk-7/{name}" for name in sorted(FILES)] + [
        "checkpoints/a/chk-7",
        "checkpoints/a",
        "checkpoints",
        ".",
    ]
    assert (sorted(synced[:8]), synced[8:]) == (sorted(whole), ["checkpoints/a/chk-7.seal", "checkpoints/a"])
    seal(path)
    assert len(synced) == 10


def test_a_disk_that_fails_leaves_no_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_checkpoint(tmp_path, "a/chk-7", at=1000, sealed=False)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.os, "fsync", lambda descriptor: os.lseek(-1, 0, 0))
        with pytest.raises(OSError, match="Bad file descriptor"):
            seal(path)
    assert choose_checkpoints(tmp_path) == Choice([path], False, [])


def test_seals_of_retired_checkpoints_go(tmp_path: Path) -> None:
    paths = [make_checkpoint(tmp_path, f"a/chk-{n}", at=n) for n in (1, 2)]
    for file in paths[0].iterdir():
        file.unlink()
    paths[0].rmdir()
    make_checkpoint(tmp_path, "a/chk-3", at=3)
    left = sorted(path.name for path in (tmp_path / "checkpoints" / "a").iterdir())
    assert left == ["chk-2", "chk-2.seal", "chk-3", "chk-3.seal"]


def test_a_fresh_run_leaves_no_checkpoint_to_go_back_to(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "old/chk-1", at=1000)
    remove_other_jobs(tmp_path)
    assert (list_complete_checkpoints(tmp_path), choose_checkpoints(tmp_path)) == ([], Choice([], False, []))
