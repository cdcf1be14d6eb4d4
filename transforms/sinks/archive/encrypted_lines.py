"""The files of an encrypted archive: each append is a segment (`transforms.envelopes.encrypted_segments`).

A crash can leave a torn segment, which is cut off: none of its lines was committed. So it does not matter
that its whole lines go as well, which a plain file keeps.
"""

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from transforms.core.errors import DamagedFile
from transforms.core.key_wrapping import MonthKey
from transforms.encryption.key_list import KEYS
from transforms.encryption.key_ring import KeySource
from transforms.envelopes.encrypted_segments import (
    BEGIN,
    ENDING,
    HEAD_BYTES,
    TAG_BYTES,
    Changed,
    CutShort,
    SegmentHead,
    decrypt_segment,
    encrypt_segment,
    read_head,
)
from transforms.sinks.archive.line_files import UNSYNCED_BYTES, append_lines

_ZEROS = bytes(16)
"""What encrypted bytes have by chance in one of 10^38 places, and a page that was lost in a power cut has."""
_SECTOR = 512
"""A page that was lost begins at a multiple of it, in bytes."""


class _UnknownKey(Changed):
    """The list of keys has no such key. No crash leaves that."""


class _Segment(NamedTuple):
    """A segment, and where in its file it begins and ends."""

    start: int
    end: int
    head: SegmentHead


@dataclass(frozen=True)
class EncryptedLines:
    """`transforms.sinks.archive.line_files.LineFiles` under the keys of an archive."""

    keys: KeySource
    ending = ENDING

    def append(self, path: Path, size: int, lines: memoryview) -> int:
        segment = encrypt_segment(lines, self.keys.find_writing_key(), _read_tag(path, size))
        append_lines(path, size, memoryview(segment))
        return size + len(segment)

    def close(self, path: Path, size: int) -> None:
        self.append(path, size, memoryview(b""))

    def cut_torn_end(self, path: Path) -> int:
        """See `LineFiles`. Only the newest UNSYNCED_BYTES are decrypted."""
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            end = 0
            try:
                for each in _list_segments(file):
                    if each.end > size - UNSYNCED_BYTES:
                        self._decrypt(file, each)
                    end = each.end
            except CutShort:
                file.truncate(end)
            except Changed as error:
                if isinstance(error, _UnknownKey) or not _has_lost_page(file, end):
                    raise _explain_change(path, error) from error
                file.truncate(end)
        return end

    def read_last_line(self, path: Path) -> bytes | None:
        with _open_whole(path) as file:
            for each in reversed(list(_list_segments(file))):
                if each.head.length:
                    return self._decrypt(file, each).splitlines()[-1]
        return None

    def read_lines(self, path: Path, is_before: Callable[[bytes], bool]) -> Iterator[bytes]:
        """See `LineFiles`: the lines begin where a segment does."""
        if not path.exists():
            return
        with _open_whole(path) as file:
            segments = [each for each in _list_segments(file) if each.head.length]
            low, high = 0, len(segments)
            while high - low > 1:
                middle = (low + high) // 2
                if is_before(self._decrypt(file, segments[middle]).partition(b"\n")[0]):
                    low = middle
                else:
                    high = middle
            for each in segments[low:]:
                yield from self._decrypt(file, each).splitlines()

    def _decrypt(self, file: BinaryIO, segment: _Segment) -> bytes:
        """The lines of a segment."""
        file.seek(max(0, segment.start - TAG_BYTES))
        before = file.read(TAG_BYTES) if segment.start else BEGIN
        file.seek(segment.start + HEAD_BYTES)
        key = self._find_key(segment.head.key_id)
        return b"".join(decrypt_segment(file, segment.head, key, before))

    def _find_key(self, key_id: str) -> MonthKey:
        key = self.keys.find_reading_key(key_id)
        if key is None:
            kind = Changed if "\0" in key_id else _UnknownKey  # zeros: of a page that was lost
            raise kind(f"the key {key_id}, which is not in {self.keys.storage.locate(KEYS)}")
        return key


def _list_segments(file: BinaryIO) -> Iterator[_Segment]:
    """The segments of a file, without what is in them.

    Raises:
        CutShort, Changed: what follows is not a whole segment.
    """
    size, start = file.seek(0, os.SEEK_END), 0
    file.seek(0)
    while (head := read_head(file)) is not None:
        end = start + HEAD_BYTES + head.body_bytes
        if end > size:
            raise CutShort("its last segment ends too early")
        yield _Segment(start, end, head)
        start = file.seek(end)


@contextmanager
def _open_whole(path: Path) -> Iterator[BinaryIO]:
    """A file whose torn end was cut."""
    try:
        with path.open("rb") as file:
            yield file
    except (CutShort, Changed) as error:
        raise _explain_change(path, error) from error


def _explain_change(path: Path, error: Exception) -> DamagedFile:
    if isinstance(error, _UnknownKey):
        fix = "put back the list of keys of this archive, or move the file away"
        return DamagedFile(f"{path} needs {error}; {fix}")
    return DamagedFile(f"{path} was changed after it was written ({error}); move the file away")


def _read_tag(path: Path, size: int) -> bytes:
    """The last tag of a file of `size` bytes."""
    if not size:
        return BEGIN
    with path.open("rb") as file:
        file.seek(size - TAG_BYTES)
        return file.read(TAG_BYTES)


def _has_lost_page(file: BinaryIO, start: int) -> bool:
    """Whether there are zeros behind an offset, in place of what was not on disk when power failed."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        newest = octets[(len(octets) - 1) // _SECTOR * _SECTOR :]
        return not any(newest) or octets.find(_ZEROS, start) >= 0
