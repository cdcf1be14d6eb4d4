"""The archive that a streaming job keeps of what it reads: safe on disk before an offset is committed.

A live source calls `sync` before it commits, so what the group's offset covers is always on disk. What came
after it may be lost in a power cut, although it was appended: `may_lack` tells, and the source reads it
again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import apache_beam as beam
import pyarrow as pa

from transforms.core.durable_files import lock_folder, replace_file
from transforms.core.stage_counters import time_stage
from transforms.encryption.key_ring import KeySource
from transforms.sinks.archive.archive_files import MESSAGES, REFUSED, SourceFiles
from transforms.sinks.archive.archive_writer import ArchiveWriter, sync_if_present
from transforms.sinks.archive.archived_ids import parse_entry_id

BOOT = "_boot"
"""A source's file with the boot id of the machine since whose start its archive is known to be complete."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class StreamArchive:
    """The archive in `folder`, as a live source needs it. Two of the same folder are equal.

    `keys`: those of the archive, if it is encrypted.
    """

    folder: Path
    keys: KeySource | None = None

    def sync(self, sources: Iterable[str]) -> None:
        """Make all that is archived of the sources safe on disk, whichever process wrote it.

        Only a reader that has archived, or archived again, all that it read may call this: afterwards the
        archive counts as complete since the machine's start.

        Raises:
            OSError: it cannot be synced.
            OutputFull: the disk is full.
        """
        sources = list(sources)
        _get_sync(self.folder).sync(sources)
        boot = _read_boot(_BOOT_ID)
        for source in sources:
            path = SourceFiles.of(self.folder, source).folder / BOOT
            with lock_folder(path.parent):
                if _read_boot(path) != boot:
                    replace_file(path, boot)

    def may_lack(self, source: str, message_id: str) -> bool:
        """Whether entries up to an id may be missing although they were appended.

        That is so if the machine was started, or is another one, since `sync`: the end of any file may be
        lost. It is so too if the archive ends before the id, or has no file that could tell.
        """
        boot = _read_boot(_BOOT_ID)
        if not boot or _read_boot(SourceFiles.of(self.folder, source).folder / BOOT) != boot:
            return True
        writer = ArchiveWriter(self.folder, self.keys)
        ends = [
            parse_entry_id(last) for kind in (MESSAGES, REFUSED) if (last := writer.find_last(source, kind))
        ]
        return not ends or max(ends) < parse_entry_id(message_id)


class ArchiveSync:
    """Syncs an archive to disk, except what it has synced before and has not grown since."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._synced: dict[Path, int] = {}

    def sync(self, sources: Iterable[str]) -> None:
        """Make all that is archived of the sources safe on disk, whichever process wrote it.

        Raises:
            OSError: it cannot be synced.
        """
        for source in sources:
            files = SourceFiles.of(self._folder, source)
            sizes = files.read_sizes()
            grown = {path: size for path, size in sizes.items() if self._synced.get(path) != size}
            for path in grown:
                sync_if_present(path)
            if grown.keys() - self._synced.keys():  # a new name: the folders have changed too
                sync_if_present(files.folder)
                sync_if_present(self._folder)
            self._synced.update(grown)


class WriteArchive(beam.PTransform):
    """(messages (RAW), refused entries (QUARANTINE)) of streams -> an archive, a writer for each stream.

    Put it beside the source, before anything that regroups: the entries of a stream must come in the order of
    their ids. Give the source the same `StreamArchive`: it then commits nothing that is not synced.
    """

    def __init__(self, archive: StreamArchive) -> None:
        super().__init__()
        self.archive = archive

    def expand(
        self, read: tuple[beam.PCollection, beam.PCollection]
    ) -> tuple[beam.PCollection, beam.PCollection]:
        messages, refused = read
        written = messages | "Messages" >> beam.ParDo(_Append(self.archive, MESSAGES))
        return written, refused | "Refused" >> beam.ParDo(_Append(self.archive, REFUSED))


class _Append(beam.DoFn):
    def __init__(self, archive: StreamArchive, kind: str) -> None:
        self.archive, self.kind = archive, kind

    def setup(self) -> None:
        self.writer = ArchiveWriter(self.archive.folder, self.archive.keys)

    def process(self, rows: pa.RecordBatch) -> None:
        with time_stage("archive", rows.num_rows):
            self.writer.append(rows, self.kind)


@cache
def _get_sync(folder: Path) -> ArchiveSync:
    """The one of this process, which knows what was synced before."""
    return ArchiveSync(folder)


def _read_boot(path: Path) -> bytes:
    """A boot id: what tells one start of one machine from any other; empty where there is none."""
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        return b""
