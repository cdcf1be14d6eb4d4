"""A spool: record batches in files of a folder, so that the processes of one machine can pass them on by
reference.

Every process appends to a file of its own and reads all files. A reference is the name of a file, the offset
and the length. The files are never changed or synced: they are of no use after the run that wrote them.
"""

import os
import threading
from pathlib import Path

import pyarrow as pa

from transforms.core.errors import Refused

_ALIGNMENT = 64
"""Arrow reads aligned buffers without a copy."""


class BatchSpool:
    """The spool in a folder. Threads may share it, and so may processes that are forked from this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._own: tuple[int, int, int] | None = None
        """The process, the descriptor of its file, and where this file ends."""
        self._opened: dict[int, int] = {}
        """The descriptor of each file that is read, by the process that writes it."""

    def write(self, batch: pa.RecordBatch) -> bytes:
        """Append a batch and return the reference to it.

        Raises:
            Refused: no space is left in the folder.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        data = sink.getvalue()
        try:
            with self._lock:
                process, file, start = self._find_own()
                _write_all(file, data, start)
                self._own = process, file, start + -(-data.size // _ALIGNMENT) * _ALIGNMENT
        except OSError as error:
            problem = f"batches cannot be kept in {self.folder} during the run ({error.strerror or error})"
            raise Refused(f"{problem}; free space there") from error
        return b"%d %d %d" % (process, start, data.size)

    def read(self, reference: bytes) -> pa.RecordBatch:
        """The batch of a reference."""
        process, start, size = map(int, reference.split())
        with self._lock:
            if process not in self._opened:
                self._opened[process] = os.open(self._locate(process), os.O_RDONLY)
            file = self._opened[process]
        # Read, not mapped: mapped pages would count as memory of the process until the end of the run.
        with pa.ipc.open_stream(pa.py_buffer(_read_all(file, size, start))) as stream:
            return stream.read_next_batch()

    def close(self) -> None:
        """Close the files that this process has opened."""
        files = [*self._opened.values(), *([self._own[1]] if self._own else [])]
        self._own, self._opened = None, {}
        for file in files:
            os.close(file)

    def _find_own(self) -> tuple[int, int, int]:
        if self._own is None or self._own[0] != os.getpid():  # a forked process begins a file of its own
            process = os.getpid()
            file = os.open(self._locate(process), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._own = process, file, 0
        return self._own

    def _locate(self, process: int) -> Path:
        return self.folder / f"{process}.arrows"


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
