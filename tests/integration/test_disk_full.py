"""A disk that fills up ends the run with a clear message and whole files; with space again, the same command
completes."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.disks import make_disk
from tests.integration.archives import Typed, make_output, stream
from tests.integration.processes import count_files
from transforms.sinks.parquet.parquet_file import verify_file


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that has space, beside its archive."""
    return make_output(tmp_path_factory.mktemp("full"), stream(1200, agents=4, seconds=40, seed=13))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    with make_disk(tmp_path, "4m") as disk:
        yield disk


def check_full(output: Path, typed: Callable[[], tuple[int, str, str]]) -> None:
    """The run ends as it must, and every file there is whole."""
    code, _, err = typed()
    assert (code, "no space left" in err, "run the same command again" in err, "while running" in err) == (
        3,
        True,
        True,
        False,
    )
    assert [(path, verify_file(path)) for path in output.rglob("*.parquet") if verify_file(path)] == []


def test_a_full_disk_ends_the_run_and_tears_no_file(clean: Path, small_disk: Path, typed: Typed) -> None:
    command = ["backfill", "--input", clean.parent / "a.ndjson", "--output", small_disk / "out"]
    command += ["--workers", "1"]  # so that the spool is complete before the first file is written
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((4 << 20) - 700_000))
    check_full(small_disk / "out", lambda: typed(*command))
    assert 0 < count_files(small_disk / "out") < count_files(clean)
    ballast.unlink()
    assert typed(*command)[0] == 0
    assert typed("reconcile", small_disk / "out", "--input", clean.parent / "a.ndjson")[0] == 0
    assert typed("parity", clean, small_disk / "out", "--identity")[0] == 0


@pytest.mark.parametrize("writes", [0, 1, 9])
def test_a_write_that_finds_no_space_half_way_tears_no_file(
    clean: Path, tmp_path: Path, writes: int, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["backfill", "--input", clean.parent / "a.ndjson", "--output", tmp_path / "out"]
    command += ["--workers", "1"]  # so that one process counts all writes
    with monkeypatch.context() as patched:
        patched.setattr("transforms.core.durable_files.os.write", full_after(writes))
        check_full(tmp_path / "out", lambda: typed(*command))
    assert typed(*command)[0] == 0
    assert typed("parity", clean, tmp_path / "out", "--identity")[0] == 0


def full_after(writes: int) -> Callable[[int, bytes], int]:
    """`os.write` on a disk that takes a number of writes and half of the next one."""
    write, left = os.write, [writes + 1]

    def write_or_fail(descriptor: int, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data if left[0] else data[: len(data) // 2])

    return write_or_fail
