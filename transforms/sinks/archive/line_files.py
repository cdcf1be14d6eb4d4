"""Files of lines to which only whole lines are appended, and what a crash can leave at their end."""

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from transforms.core.durable_files import append_bytes

_TAIL = 1 << 16
"""Bytes that are read at once from the end of a file."""
UNSYNCED_BYTES = 1 << 28
"""At most so many bytes at the end of a file may not be on disk yet."""


class LineFiles(Protocol):
    """How an archive keeps its lines: plain (`PlainLines`), or encrypted
    (`transforms.sinks.archive.encrypted_lines`). Hold the lock of the folder to append, close or cut."""

    @property
    def ending(self) -> str:
        """What its files have behind their names."""

    def append(self, path: Path, size: int, lines: memoryview) -> int:
        """Append whole lines to a file of `size` bytes, which it has again if that fails; its size then.

        Raises:
            OSError: they cannot be written.
        """

    def close(self, path: Path, size: int) -> None:
        """Say in a file of `size` bytes that no more lines follow, if that can be said."""

    def cut_torn_end(self, path: Path) -> int:
        """Cut what a killed writer or a power cut has left behind the last whole line; the file's size then.

        Raises:
            DamagedFile: the end is as no crash leaves it.
        """

    def read_last_line(self, path: Path) -> bytes | None:
        """The last line of a file of whole lines; None if it has none."""

    def read_lines(self, path: Path, is_before: Callable[[bytes], bool]) -> Iterator[bytes]:
        """The lines of a file, without their newlines, from the first on that is not before what is looked
        for, or from an earlier one; none if the file is missing. `is_before` is true for the first lines."""


class PlainLines:
    """Lines as they are: the `LineFiles` of an archive that is not encrypted."""

    ending = ""

    def append(self, path: Path, size: int, lines: memoryview) -> int:
        append_lines(path, size, lines)
        return size + len(lines)

    def close(self, path: Path, size: int) -> None:
        """The name of the next file says it."""

    def cut_torn_end(self, path: Path) -> int:
        return cut_torn_end(path)

    def read_last_line(self, path: Path) -> bytes | None:
        with path.open("rb") as file:
            start = size = file.seek(0, os.SEEK_END)
            tail = b""
            while start and tail.count(b"\n") < 2:
                start = max(0, start - _TAIL)
                file.seek(start)
                tail = file.read(size - start)
        return tail.splitlines()[-1] if tail else None

    def read_lines(self, path: Path, is_before: Callable[[bytes], bool]) -> Iterator[bytes]:
        with _map_file(path) as octets:
            start = _bisect_lines(octets, is_before)
            while start < len(octets):
                line, start = _read_line_at(octets, start)
                yield line


def append_lines(path: Path, size: int, data: memoryview) -> None:
    """Append lines to a file of `size` bytes. If that fails, the file has its old size again.

    Raises:
        OSError: the lines cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        append_bytes(descriptor, data)
    except BaseException:
        os.ftruncate(descriptor, size)
        raise
    finally:
        os.close(descriptor)


def cut_torn_end(path: Path) -> int:
    """Cut a file after its last whole line; its size then.

    A killed writer can leave a torn line, a power cut also zeros in place of lines. What follows such zeros
    is not committed either, so it is cut with them and read from the stream again.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = _find_zeros(file, size)
        while end:
            start = max(0, end - _TAIL)
            file.seek(start)
            if newline := file.read(end - start).rfind(b"\n") + 1:
                end = start + newline
                break
            end = start
        if end < size:
            file.truncate(end)
    return end


@contextmanager
def _map_file(path: Path) -> Iterator[mmap.mmap | bytes]:
    """The bytes of a file, mapped into memory; no bytes if it is missing or empty."""
    if not path.exists() or not path.stat().st_size:
        yield b""
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        yield octets


def _read_line_at(octets: mmap.mmap | bytes, start: int) -> tuple[bytes, int]:
    """The line that starts at an offset, without its newline, and the offset of the next one."""
    end = octets.find(b"\n", start)
    return (octets[start:end], end + 1) if end >= 0 else (octets[start:], len(octets))


def _bisect_lines(octets: mmap.mmap | bytes, is_before: Callable[[bytes], bool]) -> int:
    """The offset of the first line for which `is_before` is false."""
    low, high = 0, len(octets)
    while low < high:
        start = octets.rfind(b"\n", low, (low + high) // 2) + 1 or low
        line, end = _read_line_at(octets, start)
        if is_before(line):
            low = end
        else:
            high = start
    return low


def _find_zeros(file: BinaryIO, size: int) -> int:
    """The offset of the first zero byte among the newest bytes of a file; its size if there is none."""
    if not size:
        return 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        found = octets.find(b"\0", max(0, size - UNSYNCED_BYTES))
    return size if found < 0 else found
