"""Master keys: what wraps the keys of an output.

`KeyWrapper` is the interface. A file on this machine is one kind (`KeyFile`); other kinds come from packages
that declare an entry point of the group `kpiflow.key_wrappers`, whose name is the scheme of their URLs.
"""

import base64
import binascii
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from transforms.core.durable_files import lock_folder, replace_file
from transforms.core.errors import Refused
from transforms.core.key_wrapping import KEY_BYTES, NotOpened, unwrap_key, wrap_key

ENTRY_POINTS = "kpiflow.key_wrappers"
REVOKED = "revoked"
"""What a key file has in place of a key that must not be used any more."""
_HEAD = (
    "# Master key of kpiflow: who has it can read the outputs, and without it nobody can. Keep a copy.\n"
    "# ID CREATED KEY, the newest last.\n"
)


_MOST_BYTES = 1 << 20


class KeyRefused(Refused):
    """A key is wrong, missing or revoked; nothing was written. It names the fix."""


class KeyWrapper(Protocol):
    """A master key with its versions. Keys of 32 bytes go in and out; a master key itself never does.

    Every call may raise `KeyRefused`, or `Unavailable` if a service does not answer.
    """

    @property
    def name(self) -> str:
        """Its path or URL, without secrets."""

    def find_current(self) -> str:
        """The id of the version that wraps now."""

    def rotate(self, now: datetime) -> str:
        """Make a new version the current one, safe before it returns; its id. Older ones can still unwrap."""

    def wrap(self, version: str, key: bytes, context: bytes) -> bytes:
        """A key wrapped by a version. `context` is authenticated: it must be the same to unwrap."""

    def unwrap(self, version: str, wrapped: bytes, context: bytes) -> bytes:
        """The key again.

        Raises:
            KeyRefused: the version is not there or revoked, or it or the context is another one.
        """


class _Version(NamedTuple):
    """A line of a key file."""

    id: str
    created: str
    text: str


@dataclass(frozen=True)
class KeyFile:
    """A master key in a file of mode 0600: a line `ID CREATED KEY` for each version, the newest last.

    KEY is 32 random bytes as base64, or the word `revoked`.
    """

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def _place(self) -> Path:
        """The file behind a link: the link stays, since others reach the file by its own path."""
        return self.path.resolve()

    def create(self, now: datetime) -> str:
        """Make the file with its first version; the id.

        Raises:
            KeyRefused: the file exists already.
        """
        with self._explain_unwritable(), lock_folder(self._place.parent):
            if self.path.exists():
                raise KeyRefused(f"{self.path} exists already; `kpiflow keys rotate` adds a version to it")
            return self._append([], now)

    def find_current(self) -> str:
        return self._read()[-1].id

    def rotate(self, now: datetime) -> str:
        with self._explain_unwritable(), lock_folder(self._place.parent):
            return self._append(self._read(), now)

    def wrap(self, version: str, key: bytes, context: bytes) -> bytes:
        return wrap_key(self._find(version), key, context)

    def unwrap(self, version: str, wrapped: bytes, context: bytes) -> bytes:
        try:
            return unwrap_key(self._find(version), wrapped, context)
        except NotOpened:
            problem = f"the version {version} in {self.path} does not open a key that is said to be under it"
            fix = "one of them is damaged or of another output: restore it from a copy"
            raise KeyRefused(f"{problem}; {fix}") from None

    def _find(self, version: str) -> bytes:
        for each in self._read():
            if each.id == version:
                return self._decode(each)
        problem = f"{self.path} has no version {version} of the master key"
        raise KeyRefused(f"{problem}; give the --master-key of this output, or restore it from a copy")

    def _decode(self, version: _Version) -> bytes:
        if version.text == REVOKED:
            problem = f"the version {version.id} of the master key in {self.path} is revoked"
            raise KeyRefused(f"{problem}; what only it can open cannot be read any more")
        try:
            key = base64.b64decode(version.text, validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise self._explain_damage()
        return key

    def _read(self) -> list[_Version]:
        """All versions, at least one."""
        try:
            # What is no regular file may never answer: it is opened without waiting, and not read.
            with open(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(_MOST_BYTES) if stat.S_ISREG(mode) else b""
        except FileNotFoundError:
            fix = "`kpiflow keys new` makes one; on each machine of a job it must be at the same path"
            raise KeyRefused(f"there is no master key {self.path} on this machine; {fix}") from None
        except IsADirectoryError:
            raise self._explain_kind() from None
        except OSError as error:
            problem = f"the master key {self.path} cannot be read ({error.strerror})"
            raise KeyRefused(f"{problem}; change its owner to the user of the job") from None
        if not stat.S_ISREG(mode):
            raise self._explain_kind()
        if stat.S_IMODE(mode) & 0o077:
            raise KeyRefused(f"others may read the master key {self.path}; run `chmod 600` on it")
        if not data.isascii() or len(data) == _MOST_BYTES:
            raise self._explain_damage()
        text = data.decode("ascii")
        lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
        if not lines or any(len(line) != 3 for line in lines):
            raise self._explain_damage()
        return [_Version(*line) for line in lines]

    def _append(self, versions: list[_Version], now: datetime) -> str:
        key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        new = _Version(f"mk-{secrets.token_hex(4)}", f"{now:%Y-%m-%dT%H:%M:%SZ}", key)
        lines = (" ".join(version) for version in [*versions, new])
        before = os.umask(0o077)
        try:
            owner = self._place.stat() if versions else None  # a job of another user goes on reading it
            replace_file(self._place, (_HEAD + "\n".join(lines) + "\n").encode(), owner)
        finally:
            os.umask(before)
        return new.id

    @contextmanager
    def _explain_unwritable(self) -> Iterator[None]:
        """Raise KeyRefused in place of the errors of a file system."""
        try:
            yield
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            why = error.strerror if isinstance(error, OSError) else "links in a circle"
            raise KeyRefused(f"cannot write {self.path} ({why}); name another file") from None

    def _explain_kind(self) -> KeyRefused:
        """The error to raise for a folder, a pipe or a device."""
        return KeyRefused(f"{self.path} is no regular file; give the path of the file with the master key")

    def _explain_damage(self) -> KeyRefused:
        """The error to raise for a file of another form. It shows nothing of the file."""
        return KeyRefused(f"{self.path} is no master key of kpiflow, or damaged; restore it from a copy")


def open_wrapper(master: str) -> KeyWrapper:
    """The master key that a path or a URL means; nothing is read yet.

    Raises:
        KeyRefused: no installed package knows this kind of URL.
    """
    scheme = urlsplit(master).scheme if "://" in master else ""
    if not scheme:
        return KeyFile(Path(master))
    for entry in entry_points(group=ENTRY_POINTS, name=scheme):
        wrapper: KeyWrapper = entry.load()(master)
        return wrapper
    problem = f"there is no kind of master key {scheme}://"
    raise KeyRefused(f"{problem}; give a file, or install a package with the entry point {ENTRY_POINTS}")
