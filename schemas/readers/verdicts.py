"""What a document may be at most, and why one is not valid."""

from dataclasses import dataclass

OVERSIZE = "oversize"
"""The reason of a payload that is longer than the limit."""


@dataclass(frozen=True)
class Rejection:
    """Why a document is not valid: a reason (one word), the place and rule where there are such, and a message for people."""

    reason: str
    message: str
    field: str | None = None
    rule: str | None = None


@dataclass(frozen=True)
class Limits:
    """How large (bytes) and how deeply nested a document may be."""

    payload_bytes: int = 1 << 20
    depth: int = 32

    def oversize(self, length: int) -> Rejection | None:
        """Why a payload of so many bytes is rejected; None if it is not."""
        if length <= self.payload_bytes:
            return None
        return Rejection(OVERSIZE, f"{length} bytes are more than {self.payload_bytes}")
