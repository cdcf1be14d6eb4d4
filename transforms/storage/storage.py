"""Where files are kept: the few operations that a place must offer so that tables can be stored there.

`LocalFolder` and `ObjectStorage` implement them. A name is relative to the place, with slashes between its
parts. A file is put as a whole, on the condition that it still is what was read: of two writers at once one
puts, and the other merges again.
"""

from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager
from mmap import mmap
from typing import NamedTuple, Protocol

from transforms.core.errors import Finding


class Stored(NamedTuple):
    """The bytes of a file, and its version: a value that only its storage understands."""

    data: bytes
    version: Hashable


class Conflict(Exception):  # noqa: N818 (an answer, not only an error)
    """A file is no longer at the version on which it was to be put."""


class Storage(Protocol):
    """A place for files. A frozen dataclass of options, as a sink is. Any call may raise `Unavailable` or
    `Refused`."""

    @property
    def name(self) -> str:
        """Its URL or path, without secrets."""

    @property
    def threads(self) -> int:
        """How many calls are worth making at once."""

    def locate(self, name: str) -> str:
        """The path or URL of a file, for messages."""

    def verify_reach(self, name: str) -> None:
        """Check, once in a process, that this is the place in which the job's launcher put a file.

        Raises:
            Refused: this is another machine, whose folder of that name is another one.
        """

    def get(self, name: str) -> Stored | None:
        """A file; None if there is none."""

    def put(self, name: str, data: bytes | bytearray | mmap, version: Hashable | None) -> None:
        """Replace a file by `data`, atomically; on return it is safe.

        Raises:
            Conflict: the file is no longer at `version`, or exists although `version` is None. A put whose
                answer was lost and that is sent again may conflict with itself; who then merges again finds
                nothing left to put.
        """

    def list_files(self, folder: str) -> Iterator[str]:
        """The names of all finished files at any depth below a folder, in any order."""

    def list_names(self, folder: str) -> Iterator[str]:
        """What is in a folder, or at the top (empty): files, and the next parts of the names of others."""

    def list_versions(self, folder: str) -> Iterator[tuple[str, Hashable]]:
        """The names of all finished files at any depth below a folder, with their versions."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def lock(self, folder: str) -> AbstractContextManager[None]:
        """Keep out other writers of the files of a folder, not of folders below it, if there are locks."""

    def check(self) -> Iterator[Finding]:
        """Test whether files can be kept here; the first problem ends it."""
