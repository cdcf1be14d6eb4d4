"""How a file of an encrypted archive is laid out: segments, each of whole lines that were appended at once.

    segment   "kpiarch1" | id of a monthly key, 16 bytes | wrapped key, 60 bytes | length, 8 bytes | chunks
    chunk     CHUNK_BYTES of the lines, or what is left of them, by AES-256-GCM, and its tag of 16 bytes

`length` is that of the lines. The chunks of a segment are the STREAM construction (Hoang, Reyhanitabar,
Rogaway and Vizard, 2015) in the form of the program age: the nonce is the chunk's number in 11 bytes and,
in one byte, whether it is the last. So no chunk can be left out, repeated or moved. The associated data are
the segment's head and the last tag before the segment, zeros at the beginning of a file. So the same is true
of segments.

Each segment has a random key of its own, wrapped by the monthly key: an append that failed is never written
again under the same key and nonce. An empty segment closes a file.
"""

import secrets
from collections.abc import Generator
from typing import BinaryIO, NamedTuple

from transforms.core.key_wrapping import (
    ID_LENGTH,
    KEY_BYTES,
    WRAPPED_BYTES,
    MonthKey,
    NotOpened,
    unwrap_key,
    wrap_key,
)

ENDING = ".enc"
"""Behind the name that the file would have in plain."""
CHUNK_BYTES = 1 << 18
TAG_BYTES = 16
BEGIN = bytes(TAG_BYTES)
"""In place of the tag before the first segment of a file."""
_FORM = b"kpiarch1"
_LENGTH_BYTES = 8
HEAD_BYTES = len(_FORM) + ID_LENGTH + WRAPPED_BYTES + _LENGTH_BYTES


class CutShort(ValueError):  # noqa: N818 (an answer, not only an error)
    """A file ends within a segment."""


class Changed(ValueError):  # noqa: N818 (an answer, not only an error)
    """A segment is not as it was written, or not where it was written."""


class SegmentHead(NamedTuple):
    """The head of a segment: all of it, the id of the monthly key, and how many bytes of lines follow."""

    octets: bytes
    key_id: str
    length: int

    @property
    def chunks(self) -> int:
        """How many chunks follow."""
        return max(1, -(-self.length // CHUNK_BYTES))

    @property
    def body_bytes(self) -> int:
        """How many bytes follow."""
        return self.length + TAG_BYTES * self.chunks


def encrypt_segment(lines: memoryview, key: MonthKey, before: bytes) -> bytes:
    """Whole lines as a segment. `before`: the TAG_BYTES before it in the file, or BEGIN."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # an extra; 0.1 s that others do not need

    own, label = secrets.token_bytes(KEY_BYTES), _FORM + key.id.encode()
    octets = label + wrap_key(key.secret, own, label) + len(lines).to_bytes(_LENGTH_BYTES)
    head, cipher = SegmentHead(octets, key.id, len(lines)), AESGCM(own)
    parts = [octets]
    for number in range(head.chunks):
        chunk = lines[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        parts.append(cipher.encrypt(_make_nonce(head, number), chunk, octets + before))
    return b"".join(parts)


def read_head(file: BinaryIO) -> SegmentHead | None:
    """The head that is next in a file; None at its end.

    Raises:
        CutShort: the file ends within it.
        Changed: it is no head.
    """
    octets = file.read(HEAD_BYTES)
    if not octets:
        return None
    if not octets.startswith(_FORM[: len(octets)]):
        raise Changed("no segment of kpiflow begins here")
    if len(octets) < HEAD_BYTES:
        raise CutShort("its last segment ends too early")
    key_id = octets[len(_FORM) : len(_FORM) + ID_LENGTH].decode("ascii", "replace")
    return SegmentHead(octets, key_id, int.from_bytes(octets[-_LENGTH_BYTES:]))


def decrypt_segment(
    file: BinaryIO, head: SegmentHead, key: MonthKey, before: bytes
) -> Generator[bytes, None, bytes]:
    """The lines behind a head, a chunk at a time, each of them as it was written; returns the last tag.

    Raises:
        CutShort: the file ends within the segment.
        Changed: the segment was changed, or another one was before it when it was written.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    label = head.octets[: len(_FORM) + ID_LENGTH]
    wrapped = head.octets[len(label) : len(label) + WRAPPED_BYTES]
    chunk, left = b"", head.body_bytes
    try:
        cipher = AESGCM(unwrap_key(key.secret, wrapped, label))
        for number in range(head.chunks):
            size = min(left, CHUNK_BYTES + TAG_BYTES)
            chunk, left = file.read(size), left - size
            if len(chunk) < size:
                raise CutShort("its last segment ends too early")
            yield cipher.decrypt(_make_nonce(head, number), chunk, head.octets + before)
    except (InvalidTag, NotOpened):
        raise Changed("a segment was changed, moved or left out after it was written") from None
    return chunk[-TAG_BYTES:]


def _make_nonce(head: SegmentHead, number: int) -> bytes:
    return number.to_bytes(11) + bytes([number == head.chunks - 1])
