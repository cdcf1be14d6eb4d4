"""AES-256-GCM over one key: 32 bytes are wrapped by another key, with a context that must be the same.

A wrapped key is a random nonce of 12 bytes, the encrypted key, and a tag of 16 bytes.
"""

import secrets
from dataclasses import dataclass
from typing import Any, Protocol

KEY_BYTES = 32
_NONCE = 12
WRAPPED_BYTES = _NONCE + KEY_BYTES + 16
ID_LENGTH = len("2026-11-1a2b3c4d")


class NotOpened(ValueError):  # noqa: N818 (an answer, not only an error)
    """A wrapped key was changed, or the wrapping key or the context is another one."""

    def __init__(self) -> None:
        super().__init__("its own key does not open: it was changed after it was written")


@dataclass(frozen=True)
class MonthKey:
    """A monthly key that is open: never stored, shown, or sent to another process."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"MonthKey({self.id})"

    def __reduce__(self) -> Any:
        raise TypeError("a key does not leave its process")


class KeyFinder(Protocol):
    """Finds the key of an archive's file. It can be sent to another process, which then opens keys itself."""

    def find_key(self, key_id: str, file: str) -> MonthKey | None:
        """The monthly key with an id, for a file of this path or URL; None if no list of keys has it.

        Raises:
            Refused: the master key is not given, or it or a list is wrong, missing or revoked.
            Unavailable: a storage, or the service of the master key, does not answer.
        """


def wrap_key(wrapping: bytes, key: bytes, context: bytes) -> bytes:
    """uint8[WRAPPED_BYTES]: `key` (uint8[32]) wrapped by `wrapping` (uint8[32])."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # an extra; 0.1 s that others do not need

    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(wrapping).encrypt(nonce, key, context)


def unwrap_key(wrapping: bytes, wrapped: bytes, context: bytes) -> bytes:
    """uint8[32]: the key again.

    Raises:
        NotOpened: see there.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(wrapped) != WRAPPED_BYTES:
        raise NotOpened
    try:
        return AESGCM(wrapping).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], context)
    except InvalidTag:
        raise NotOpened from None
