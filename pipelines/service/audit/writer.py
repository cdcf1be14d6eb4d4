"""Writes the lines of one chain, several with one sync."""

import errno
import fcntl
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.service.audit.chain import ChainHead, format_line
from pipelines.service.audit.tail import ChainDamaged, read_tail
from transforms.core.durable_files import sync_path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class AuditUnavailable(Exception):  # noqa: N818 (a state)
    """The audit cannot be written, so nothing may be answered."""


class ChainWriter:
    """The chain of one writer. Only one process at a time has it; use it from one thread.

    Files and folders are for their owner only. A file is only ever appended to. After a failed write the next
    one reads the end of the chain again and explains what was torn. After a failed sync nothing more is
    written: what the disk has is unknown until the process starts again. Nor is it after somebody removed or
    replaced the file.
    """

    def __init__(self, folder: Path, name: str, clock: Callable[[], datetime] | None = None) -> None:
        self._folder, self.name = folder / name, name
        self._clock = clock or (lambda: datetime.now(UTC))
        self.head = ChainHead()
        self._month = ""
        self._lock = self._file = -1
        self._failed_sync: str | None = None
        self._has_begun = False

    def open(self) -> None:
        """Lock the chain and write the line of a start.

        Raises:
            AuditUnavailable: it cannot be written, another process has it, or its last line was changed.
        """
        if not _NAME.fullmatch(self.name):
            raise AuditUnavailable(f"{self.name[:70]} cannot name a chain; use letters, digits and .-_")
        try:
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            sync_path(self._folder.parent)
            self._lock = os.open(self._folder / "lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise AuditUnavailable(f"another process writes the audit {self._folder}") from error
        except OSError as error:
            self.close()
            raise AuditUnavailable(f"{self._folder}: {error.strerror}") from error
        self.write([])

    def write(self, lines: Sequence[Mapping[str, Any]]) -> int:
        """Append lines, safe on disk when this returns; the number of the first.

        Raises:
            AuditUnavailable: they could not be written. A part of them may be in the chain.
        """
        if self._failed_sync:
            raise AuditUnavailable(self._failed_sync)
        try:
            if self._file < 0:
                self._begin()
            first = self.head.seq + 1
            self._append(lines, max(self._month, f"{self._clock():%Y-%m}"))
            return first
        except ChainDamaged as error:
            raise AuditUnavailable(f"{error}; see `kpiflow audit verify`") from error
        except OSError as error:
            self._close_file()
            raise AuditUnavailable(f"{self._folder}: {error.strerror}") from error

    def close(self) -> None:
        """Give the chain back."""
        self._close_file()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _begin(self) -> None:
        """Find the end of the chain and write that this process begins, into the file that has torn bytes."""
        tail = read_tail(self._folder)
        self.head, self._month = tail.head, tail.month
        month = tail.month if tail.torn else max(tail.month, f"{self._clock():%Y-%m}")
        kind = "resume" if self._has_begun else "start"
        self._append([{"type": kind, "pid": os.getpid(), **tail.describe_torn()}], month)
        self._has_begun = True

    def _append(self, lines: Sequence[Mapping[str, Any]], month: str) -> None:
        if self._file < 0 or month != self._month:
            self._open_file(month)
        head, data = self.head, bytearray()
        for fields in lines:
            line, head = format_line(head, fields, self._clock())
            data += line
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        if data:
            self._sync()
            self._require_place()
        self.head = head

    def _open_file(self, month: str) -> None:
        self._close_file()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(self._folder / f"{month}.jsonl", flags, 0o600)
        self._month = month
        sync_path(self._folder)

    def _sync(self) -> None:
        try:
            os.fdatasync(self._file)
        except OSError as error:
            self._failed_sync = f"{self._folder}: {error.strerror}; check the disk, then start again"
            raise

    def _require_place(self) -> None:
        """Check that what was written is where it will be looked for: an open file can be removed or moved.

        Raises:
            OSError: it is not; nothing more is written.
        """
        path = self._folder / f"{self._month}.jsonl"
        try:
            is_there = os.path.samestat(os.fstat(self._file), os.stat(path))
        except FileNotFoundError:
            is_there = False
        if not is_there:
            self._failed_sync = f"{path} was removed or replaced; put it back, then start again"
            raise OSError(errno.ENOENT, self._failed_sync)

    def _close_file(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1
