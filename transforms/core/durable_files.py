"""Local files that survive a crash: each holds all of its old or all of its new bytes, whenever power fails.

The order of a replacement is: write a file with a temporary name, fsync it, rename it, fsync the folder. A
folder's lock (flock on the folder itself) keeps other writers out; it ends with the process and leaves no
file.
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path

from transforms.core.errors import OutputFull

TEMPORARY = ".kpiflow"
"""Suffix of unfinished files. Their names also start with a dot, so listings skip them."""
FileVersion = tuple[int, int, int]
"""Inode, size and time of change in nanoseconds."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers that say that no space is left."""


def replace_file(path: Path, data: bytes | bytearray | mmap, owner: os.stat_result | None = None) -> None:
    """Make `path` hold `data`, safe on disk. Hold the folder's lock if others may write the file too.

    `owner`: whose user and group it gets; without it, those of this process.

    Raises:
        OutputFull: the disk, or a quota, is full.
        PermissionError: this process may not give it to them.
    """
    with explain_full(path.parent):
        make_folder(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
        try:
            _write_new(temporary, data, owner)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_path(path.parent)


def remove_file(path: Path) -> None:
    """Remove `path`, if it is there, so that it is gone after a crash too. Hold the folder's lock."""
    path.unlink(missing_ok=True)
    sync_path(path.parent)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Wait for a folder's lock and hold it. Creates the folder; removes leftovers of killed writers.

    Raises:
        OutputFull: the folder cannot be created because the disk is full.
    """
    with explain_full(folder):
        make_folder(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for stale in folder.glob(f".*{TEMPORARY}"):
            stale.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; each name is safe on disk before anything is created below it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_path(folder.parent)


def sync_path(path: Path) -> None:
    """fsync a file, or a folder: the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_version(stat: os.stat_result) -> FileVersion:
    """The version of a file: one that was replaced has another."""
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def append_bytes(descriptor: int, data: bytes | bytearray | memoryview | mmap) -> None:
    """Write all of `data` to an open file; `os.write` may write less."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


@contextmanager
def explain_full(folder: Path) -> Iterator[None]:
    """Raise `OutputFull` in place of the errors of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        fix = "free some and run the same command again: what was written is complete"
        raise OutputFull(f"no space left for {folder}; {fix}") from error


def _write_new(path: Path, data: bytes | bytearray | mmap, owner: os.stat_result | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        if owner is not None:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        append_bytes(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
