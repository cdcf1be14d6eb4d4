"""Files in a folder of this machine, or of a network file system that has flock and atomic renames."""

import errno
import os
import secrets
import shutil
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path

from transforms.core.durable_files import (
    FileVersion,
    explain_full,
    lock_folder,
    read_version,
    remove_file,
    replace_file,
)
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.core.reach import get_machine, verify_reach
from transforms.storage.storage import Conflict, Stored

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
"""Errors of a network file system, or of a busy machine, that pass."""


@dataclass(frozen=True)
class LocalFolder:
    """A `Storage`; the folder is created by the first write.

    After a crash at any point a file holds all of its old or all of its new bytes. Hold the folder's lock to
    put: the version is compared before the file is replaced, not in one step with it. `launcher`: the machine
    on which the folder was named.
    """

    path: Path
    launcher: str = field(default_factory=get_machine, compare=False, repr=False)

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def threads(self) -> int:
        return 2

    def locate(self, name: str) -> str:
        return str(self.path / name)

    def verify_reach(self, name: str) -> None:
        verify_reach(self.locate(name), self.launcher, "output")

    def get(self, name: str) -> Stored | None:
        with as_sink_error(self.path):
            try:
                with (self.path / name).open("rb") as file:
                    return Stored(file.read(), read_version(os.fstat(file.fileno())))
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes | bytearray | mmap, version: Hashable | None) -> None:
        path = self.path / name
        with as_sink_error(self.path):
            try:
                current = read_version(path.stat())
            except FileNotFoundError:
                current = None
            if current != version:
                raise Conflict(f"{path} was changed by another writer")
            replace_file(path, data)

    def list_files(self, folder: str) -> Iterator[str]:
        with as_sink_error(self.path):
            yield from _walk(str(self.path / folder), f"{folder}/" if folder else "")

    def list_names(self, folder: str) -> Iterator[str]:
        with as_sink_error(self.path):
            try:
                yield from os.listdir(self.path / folder)
            except FileNotFoundError:
                return

    def list_versions(self, folder: str) -> Iterator[tuple[str, FileVersion]]:
        for name in self.list_files(folder):
            with as_sink_error(self.path), suppress(FileNotFoundError):  # gone since the folder was read
                yield name, read_version(os.stat(f"{self.path}/{name}"))

    def remove(self, name: str) -> None:
        with as_sink_error(self.path):
            remove_file(self.path / name)

    @contextmanager
    def lock(self, folder: str) -> Iterator[None]:
        with ExitStack() as stack:
            with as_sink_error(self.path):  # errors of taking the lock, not of what is done under it
                stack.enter_context(lock_folder(self.path / folder))
            yield

    def check(self) -> Iterator[Finding]:
        exists = self.path.exists()
        what = f"the folder {self.path}" + ("" if exists else ", which can be made")
        above = next(each for each in (self.path, *self.path.absolute().parents) if each.exists())
        if not above.is_dir() or not os.access(above, os.R_OK | os.W_OK | os.X_OK):
            problem = f"{above} cannot be written to" if above.is_dir() else f"{above} is a file"
            fix = "name another output, or change its permissions"
            yield Finding(f"the folder {self.path}", problem, fix)
            return
        yield Finding(what)
        if above == self.path:
            yield self._try_write()
        free = shutil.disk_usage(above).free
        few = f"{free / 1e6:,.0f} MB are free, less than {LEAST_FREE / 1e6:,.0f}" if free < LEAST_FREE else ""
        yield Finding("free space", few, few and "free some, or name an output on another disk")

    def _try_write(self) -> Finding:
        """Write a file and remove it again."""
        what, probe = "write, lock and rename a file", f"_probe{secrets.token_hex(4)}"
        try:
            with self.lock(""):
                self.put(probe, b"probe", None)
                self.remove(probe)
        except (Refused, Unavailable) as error:
            return Finding.of(what, error)
        return Finding(what)


@contextmanager
def as_sink_error(folder: Path) -> Iterator[None]:
    """Raise `Unavailable` or `Refused` in place of the errors of a file system."""
    try:
        with explain_full(folder):
            yield
    except OSError as error:
        if error.errno in _PASSING:
            raise Unavailable(
                f"{folder} cannot be used now ({error.strerror}); its file system may be unavailable"
            ) from error
        if isinstance(error, IsADirectoryError) and error.filename:
            raise Refused(
                f"{error.filename} cannot be used: Is a directory; move away what is in its place"
            ) from error
        if isinstance(error, NotADirectoryError | FileExistsError):
            raise Refused(f"{folder} is a file, or is below one; name a folder as the output") from error
        raise Refused(
            f"{folder} cannot be used ({error.strerror}); name another output, or change its permissions"
        ) from error


def _walk(folder: str, name: str) -> Iterator[str]:
    """The names of the files below a folder; `name` is the beginning of theirs."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, f"{name}{entry.name}/")
        else:
            yield name + entry.name
