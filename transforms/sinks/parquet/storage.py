"""Where files lie: the few things that a place must offer so that tables can be kept there, and a folder that offers them.

A name is relative to the place, its parts between slashes. A file is put whole, on condition that it still is what was read: of
two writers at once, one puts and the other is told to merge again.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from transforms.core.durable_files import explain_full, lock_folder, remove_file, replace_file
from transforms.core.errors import Finding, Refused, Unavailable

LEAST_FREE = 100 << 20
"""Bytes that a folder's file system should have free."""

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
    """A place for files. A frozen dataclass of options, as a sink is. Any call may raise `Unavailable` or `Refused`."""

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
        with as_sink_error(self.path):
            try:
                with (self.path / name).open("rb") as file:
                    return Stored(file.read(), _version(os.fstat(file.fileno())))
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes | bytearray, version: Hashable | None) -> None:
        path = self.path / name
        with as_sink_error(self.path):
            try:
                current = _version(path.stat())
            except FileNotFoundError:
                current = None
            if current != version:
                raise Conflict(f"{path} was changed by another writer")
            replace_file(path, data)

    def names(self, folder: str) -> Iterator[str]:
        with as_sink_error(self.path):
            for place, _, files in os.walk(self.path / folder, onerror=_raise_unless_gone):
                for file in files:
                    if not file.startswith("."):
                        yield (Path(place) / file).relative_to(self.path).as_posix()

    def entries(self) -> Iterator[str]:
        with as_sink_error(self.path):
            yield from os.listdir(self.path) if self.path.exists() else ()

    def remove(self, name: str) -> None:
        with as_sink_error(self.path):
            remove_file(self.path / name)

    @contextmanager
    def locked(self, folder: str) -> Iterator[None]:
        with ExitStack() as held:
            with as_sink_error(self.path):  # only taking the lock, not what is done under it
                held.enter_context(lock_folder(self.path / folder))
            yield

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
            return Finding.of(what, error)
        return Finding(what)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _version(stat: os.stat_result) -> Hashable:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@contextmanager
def as_sink_error(folder: Path) -> Iterator[None]:
    """What the file system has against a call, as a sink says it."""
    try:
        with explain_full(folder):
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
