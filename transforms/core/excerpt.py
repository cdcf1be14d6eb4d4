"""The excerpt that is kept of an oversize payload: its first bytes, its length, and a digest of all of it."""

import hashlib

KEPT_BYTES = 64 << 10
"""How many of its first bytes are kept."""


class Excerpt:
    """The first KEPT_BYTES of bytes that are added piece by piece, their number, and their SHA-256."""

    def __init__(self, octets: bytes = b"") -> None:
        self.head, self.length = b"", 0
        self._digest = hashlib.sha256()
        self.add(octets)

    def add(self, piece: bytes) -> None:
        """Add the next bytes."""
        if self.length < KEPT_BYTES:
            self.head += piece[: KEPT_BYTES - self.length]
        self.length += len(piece)
        self._digest.update(piece)

    @property
    def sha256(self) -> str:
        """64 hex digits of all bytes so far."""
        return self._digest.hexdigest()
