"""Where files lie: the few things that a place must offer so that tables can be kept there, and a folder that offers them.

A name is relative to the place, its parts between slashes. A file is put whole, on condition that it still is what was read: of
two writers at once, one puts and the other is told to merge again.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from transforms.sinks.parquet.sealed_files import OutputFull
from transforms.sinks.sink import Finding, Refused, Unavailable

TEMPORARY = ".kpiflow"
"""How the names of unfinished files end; they start with a dot, and nobody who looks for files sees them."""
LEAST_FREE = 100 << 20
"""Bytes that a folder's file system should have free."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PASSING = (
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EBUSY,
    errno.EAGAIN,
    errno.EMFILE,
    errno.ENFILE,
)
"""What a network file system, or a busy machine, may get over."""


class Stored(NamedTuple):
    """The bytes of a file, and which version of it they are: a value that only its storage understands."""

    data: bytes
    version: Hashable


class Conflict(Exception):  # noqa: N818 (an answer, not only an error)
    """A file is no longer at the version on which it was to be put."""


class Storage(Protocol):
    """A place for files. A frozen dataclass of options, as a target is. Any call may raise `Unavailable` or `Refused`."""

    @property
    def name(self) -> str:
        """Its URL or path, without secrets."""

    @property
    def threads(self) -> int:
        """How many calls are worth having under way at once."""

    def where(self, name: str) -> str:
        """What to call a file when somebody is told of it."""

    def get(self, name: str) -> Stored | None:
        """A file; None where there is none."""

    def put(self, name: str, data: bytes | bytearray, version: Hashable | None) -> None:
        """Make a file hold `data`, and nothing else, from one moment to the next; on return it is safe.

        Raises:
            Conflict: the file is no longer at `version`, or is there though `version` is None. A put whose answer was lost and
                that is sent again may find itself in the way; who merges again then finds nothing left to put.
        """

    def names(self, folder: str) -> Iterator[str]:
        """The names of all finished files at any depth below a folder, in any order."""

    def entries(self) -> Iterator[str]:
        """What stands at the top: files, and the first parts of the names of others."""

    def remove(self, name: str) -> None:
        """Make a file be gone, if it is there."""

    def locked(self, folder: str) -> AbstractContextManager[None]:
        """Hold off, where the place knows locks, whoever else writes files of a folder (not of folders below it)."""

    def check(self) -> Iterator[Finding]:
        """Whether files can be kept here; what stands after a problem was not looked at."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a file system that has flock and atomic renames; it is made when it is first written to.

    After a crash at any point a file holds all of its old or all of its new bytes. Hold the folder's lock to put: the version is
    compared before the file is replaced, not as one step with it.
    """

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def threads(self) -> int:
        return 2

    def where(self, name: str) -> str:
        return str(self.path / name)

    def get(self, name: str) -> Stored | None:
        with told_as_target(self.path):
            try:
                with (self.path / name).open("rb") as file:
                    return Stored(file.read(), _version(os.fstat(file.fileno())))
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes | bytearray, version: Hashable | None) -> None:
        path = self.path / name
        with told_as_target(self.path):
            try:
                current = _version(path.stat())
            except FileNotFoundError:
                current = None
            if current != version:
                raise Conflict(f"{path} was changed by another writer")
            replace(path, data)

    def names(self, folder: str) -> Iterator[str]:
        with told_as_target(self.path):
            for place, _, files in os.walk(self.path / folder, onerror=_raise_unless_gone):
                for file in files:
                    if not file.startswith("."):
                        yield (Path(place) / file).relative_to(self.path).as_posix()

    def entries(self) -> Iterator[str]:
        with told_as_target(self.path):
            yield from os.listdir(self.path) if self.path.exists() else ()

    def remove(self, name: str) -> None:
        with told_as_target(self.path):
            remove(self.path / name)

    @contextmanager
    def locked(self, folder: str) -> Iterator[None]:
        with told_as_target(self.path):
            descriptor = _lock(self.path / folder)
        try:
            yield
        finally:
            os.close(descriptor)

    def check(self) -> Iterator[Finding]:
        what = (
            f"the folder {self.path}" if self.path.exists() else f"the folder {self.path}, which can be made"
        )
        above = next(each for each in (self.path, *self.path.absolute().parents) if each.exists())
        if not above.is_dir() or not os.access(above, os.R_OK | os.W_OK | os.X_OK):
            problem = f"{above} cannot be written to" if above.is_dir() else f"{above} is a file"
            yield Finding(
                f"the folder {self.path}", problem, "name another output, or change its permissions"
            )
            return
        yield Finding(what)
        if above == self.path:
            yield self._written()
        free = shutil.disk_usage(above).free
        few = f"{free / 1e6:,.0f} MB are free, less than {LEAST_FREE / 1e6:,.0f}" if free < LEAST_FREE else ""
        yield Finding("free space", few, few and "free some, or name an output on another disk")

    def _written(self) -> Finding:
        """Write a file, and take it away again."""
        what, probe = "write, lock and rename a file", f"_probe{secrets.token_hex(4)}"
        try:
            with self.locked(""):
                self.put(probe, b"probe", None)
                self.remove(probe)
        except (Refused, Unavailable) as error:
            return found(what, error)
        return Finding(what)


def found(what: str, error: Refused | Unavailable) -> Finding:
    """What an error, `problem; mend`, has to say of something that was looked at."""
    problem, _, mend = str(error).partition("; ")
    return Finding(what, problem, mend)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for one writer at a time; what a killed writer left behind is removed.

    The lock is on the folder's own descriptor (flock): it ends with the process and leaves no file.
    """
    descriptor = _lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)


def replace(path: Path, data: bytes | bytearray) -> None:
    """Make `path` hold `data`: after a crash at any point it holds all of the old or all of the new bytes. Hold the folder's lock.

    Raises:
        OutputFull: the disk, or a quota, is full.
    """
    with _told_when_full(path.parent):
        _make(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
        try:
            _write(temporary, data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def remove(path: Path) -> None:
    """Make `path` be gone, after a crash too. Hold the folder's lock."""
    path.unlink(missing_ok=True)
    _sync(path.parent)


def _lock(folder: Path) -> int:
    """The descriptor that holds a folder's lock until it is closed."""
    with _told_when_full(folder):
        _make(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for stale in folder.glob(f".*{TEMPORARY}"):
            stale.unlink(missing_ok=True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _version(stat: os.stat_result) -> Hashable:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _write(path: Path, data: bytes | bytearray) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make(folder: Path) -> None:
    """The folder and its parents, each name safe on disk before anything is put below it."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told_when_full(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OutputFull(
            f"no space left for {folder}: free some and run the same command again; what was written before is whole"
        ) from error


@contextmanager
def told_as_target(folder: Path) -> Iterator[None]:
    """What the file system has against a call, as a target says it."""
    try:
        with _told_when_full(folder):
            yield
    except OSError as error:
        if error.errno in _PASSING:
            raise Unavailable(
                f"{folder} cannot be used just now ({error.strerror}); its file system may be away"
            ) from error
        if isinstance(error, NotADirectoryError | FileExistsError):
            raise Refused(f"{folder} is a file, or lies below one; name a folder as the output") from error
        raise Refused(
            f"{folder} cannot be used ({error.strerror}); name another output, or change its permissions"
        ) from error
