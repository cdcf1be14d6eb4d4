"""Files of lines to which only whole lines are appended, and what a crash can leave at their end."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from transforms.core.durable_files import append_bytes

_TAIL = 1 << 16
"""Bytes that are read at once from the end of a file."""
_UNSYNCED = 1 << 28
"""At most so many bytes at the end of a file may not be on disk yet."""


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


def read_last_line(path: Path) -> bytes | None:
    """The last line of a file of whole lines; None if it has none."""
    with path.open("rb") as file:
        start = size = file.seek(0, os.SEEK_END)
        tail = b""
        while start and tail.count(b"\n") < 2:
            start = max(0, start - _TAIL)
            file.seek(start)
            tail = file.read(size - start)
    return tail.splitlines()[-1] if tail else None


@contextmanager
def map_file(path: Path) -> Iterator[mmap.mmap | bytes]:
    """The bytes of a file, mapped into memory; no bytes if it is missing or empty."""
    if not path.exists() or not path.stat().st_size:
        yield b""
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        yield octets


def read_line_at(octets: mmap.mmap | bytes, start: int) -> tuple[bytes, int]:
    """The line that starts at an offset, without its newline, and the offset of the next one."""
    end = octets.find(b"\n", start)
    return (octets[start:end], end + 1) if end >= 0 else (octets[start:], len(octets))


def _find_zeros(file: BinaryIO, size: int) -> int:
    """The offset of the first zero byte among the newest bytes of a file; its size if there is none."""
    if not size:
        return 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        found = octets.find(b"\0", max(0, size - _UNSYNCED))
    return size if found < 0 else found
