"""A spool: record batches in files of a folder, so that the processes of one machine can pass them on by
reference.

Every process appends to a file of its own and reads all files. A reference is the number of a file, the
offset and the length. The files are never changed or synced: they are of no use after their run.
"""

import os
import secrets
import threading
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from transforms.core.durable_files import explain_full

_ALIGNMENT = 64
"""Arrow reads aligned buffers without a copy."""


class _Own(NamedTuple):
    """The file that a process writes: its number and descriptor, the process, and where the file ends."""

    number: int
    file: int
    process: int
    end: int = 0


class BatchSpool:
    """The spool in a folder. Threads may share it, and so may processes that are forked from this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._own: _Own | None = None
        self._opened: dict[int, int] = {}
        """The descriptor of each file that is read, by its number."""

    def write(self, batch: pa.RecordBatch) -> bytes:
        """Append a batch and return the reference to it.

        Raises:
            OutputFull: no space is left for the folder.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        data = sink.getvalue()
        with self._lock, explain_full(self.folder):
            own = self._find_own()
            _write_all(own.file, data, own.end)
            self._own = own._replace(end=own.end + -(-data.size // _ALIGNMENT) * _ALIGNMENT)
        return b"%d %d %d" % (own.number, own.end, data.size)

    def read(self, reference: bytes) -> pa.RecordBatch:
        """The batch of a reference."""
        number, start, size = map(int, reference.split())
        with self._lock:
            if number not in self._opened:
                self._opened[number] = os.open(self._locate(number), os.O_RDONLY)
            file = self._opened[number]
        # Read, not mapped: mapped pages would count as memory of the process until the end of the run.
        with pa.ipc.open_stream(pa.py_buffer(_read_all(file, size, start))) as stream:
            return stream.read_next_batch()

    def close(self) -> None:
        """Close the files that this process has opened."""
        files = [*self._opened.values(), *([self._own.file] if self._own else [])]
        self._own, self._opened = None, {}
        for file in files:
            os.close(file)

    def _find_own(self) -> _Own:
        if self._own is None or self._own.process != os.getpid():  # a forked process begins a file of its own
            # Not the number of the process: one that died may have had the same, and its file is still read.
            number = secrets.randbits(48)
            file = os.open(self._locate(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._own = _Own(number, file, os.getpid())
        return self._own

    def _locate(self, number: int) -> Path:
        return self.folder / f"{number}.arrows"


def _write_all(file: int, data: pa.Buffer, start: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, start)
        left, start = left[written:], start + written


def _read_all(file: int, size: int, start: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
        done += (got := os.preadv(file, [view[done:]], start + done))
        if not got:
            raise EOFError(f"a batch of {size} bytes at {start} ends after {done}")
    return data
