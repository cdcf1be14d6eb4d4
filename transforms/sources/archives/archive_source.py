"""Archive files as a source of kpiflow (`transforms.sources.source.Source`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core import stage_counters
from transforms.core.counts import format_count
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.core.run_metrics import count_incomplete
from transforms.sources.archives.archive_files import ArchiveFiles, FileRange, open_file
from transforms.sources.archives.archive_reader import CHUNK_BYTES, ReadArchives, Unreadable, read_files
from transforms.sources.archives.decompression import PAYLOAD_BYTES
from transforms.sources.archives.encrypted_files import verify_key
from transforms.sources.source import Gathered, OnProgress, OnUnreadable


@dataclass(frozen=True)
class Archives:
    """Archive files. The other fields are options of `archive_reader.ReadArchives`."""

    files: ArchiveFiles
    chunk_bytes: int = CHUNK_BYTES
    payload_bytes: int = PAYLOAD_BYTES

    @property
    def name(self) -> str:
        """How many files, and the first of them."""
        more = f" and {format_count(len(self.files) - 1, 'other file')}" if len(self.files) > 1 else ""
        return f"{next(iter(self.files), 'no file')}{more}"

    def check(self) -> Iterator[Finding]:
        """Open each file, and the keys of those that are encrypted."""
        unreadable = [finding for file in self.files.whole if (finding := _try_open(file))]
        yield from unreadable
        if not unreadable:
            count = format_count(len(self.files), "file")
            yield Finding(f"{count}, {self.files.total_bytes / 1e6:,.1f} MB, can be opened")

    def read(self) -> beam.PTransform:
        """The transform that reads the files."""
        return ReadMessages(self)

    @contextmanager
    def snapshot(self, gaps: pa.RecordBatch) -> Iterator["ArchivesSnapshot"]:
        """What the files contain; an archive has no gaps."""
        yield ArchivesSnapshot(self)


class ReadMessages(beam.PTransform):
    """The root -> `Gathered` from archives. Files that cannot be read to their end are counted in the run's
    results."""

    def __init__(self, archives: Archives) -> None:
        super().__init__()
        self.archives = archives

    def expand(self, root: beam.pvalue.PBegin) -> Gathered:
        given = self.archives
        found = root | ReadArchives(
            given.files, given.chunk_bytes, count_bytes, payload_bytes=given.payload_bytes
        )
        _ = found.unreadable | "Count incomplete" >> beam.MapTuple(count_incomplete)
        return Gathered(found.messages, found.rejected)


@dataclass(frozen=True)
class ArchivesSnapshot:
    """The messages of archive files: all that was in them still is.

    See `transforms.sources.source.SourceSnapshot`.
    """

    archives: Archives
    can_lose = False

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.archives.files.total_bytes

    def messages(self, on_progress: OnProgress, on_unreadable: OnUnreadable) -> Iterator[pa.RecordBatch]:
        """The messages of each file."""
        options = self.archives
        for chunk in read_files(options.files, options.chunk_bytes, on_progress, options.payload_bytes):
            if isinstance(chunk, Unreadable):
                on_unreadable(chunk.file, chunk.reason)
            else:
                yield chunk.messages
                yield chunk.rejected

    def payloads(self) -> Iterator[pa.RecordBatch]:
        """The messages of each file again."""
        return self.messages(lambda _: None, lambda _, __: None)

    def has_left(self, messages: pa.RecordBatch) -> NDArray[np.bool_]:
        """bool[n]: none."""
        return np.zeros(messages.num_rows, np.bool_)


def count_bytes(number: int) -> None:
    """Count bytes of input as read."""
    stage_counters.add("read", bytes=number)


def _try_open(file: FileRange) -> Finding | None:
    try:
        with open_file(file._replace(version=None)) as opened:
            if file.is_encrypted:
                verify_key(opened, file.path, file.keys)
        return None
    except OSError as error:
        problem = f"cannot be opened ({error.strerror or error})"
        return Finding(file.path, problem, "correct its path or permissions")
    except (Refused, Unavailable) as error:
        return Finding.of(file.path, error)
