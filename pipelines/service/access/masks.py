"""What a subject gets in place of a hash over content that it may not see, and in place of a cursor."""

import hmac
import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipelines.failures import WrongUse
from transforms.core.durable_files import sync_path

_BYTES = 32
_NONCE = 12


class Masks:
    """HMACs and encrypted cursors, with keys that are made of one secret."""

    def __init__(self, secret: bytes) -> None:
        self._hashes = hmac.digest(secret, b"hashes", sha256)
        self._cursors = AESGCM(hmac.digest(secret, b"cursors", sha256))

    @classmethod
    def open(cls, path: Path) -> "Masks":
        """Those of the secret in a file, which is made if there is none.

        Raises:
            WrongUse: the file is not a secret of this service, or others may read it.
        """
        try:
            with suppress(FileExistsError):
                _make_secret(path)
            found = path.read_bytes()
            if path.stat().st_mode & 0o077:
                raise WrongUse(f"others than its owner may read {path}", f"chmod 600 {path}")
        except OSError as error:
            raise WrongUse(f"cannot keep a secret in {path}: {error.strerror}", "name another") from error
        if len(found) != _BYTES:
            raise WrongUse(f"{path} does not contain {_BYTES} bytes", "remove it: another secret is made")
        return cls(found)

    def mask_text(self, text: str) -> str:
        """The HMAC of a text: 32 hexadecimal digits, the same for the same text."""
        return hmac.digest(self._hashes, text.encode(), sha256).hex()[:32]

    def mask_column(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """The HMACs of a column of texts; null where it is null."""
        values = [None if text is None else self.mask_text(text) for text in column.to_pylist()]
        return pa.chunked_array([pa.array(values, pa.string())])

    def seal_cursor(self, cursor: str, subject: str) -> str:
        """A cursor that only this service can read, and only for this subject: the plain one contains the
        last row's report_id."""
        nonce = secrets.token_bytes(_NONCE)
        sealed = nonce + self._cursors.encrypt(nonce, cursor.encode(), subject.encode())
        return urlsafe_b64encode(sealed).decode().rstrip("=")

    def open_cursor(self, text: str, subject: str) -> str:
        """The cursor in such a text.

        Raises:
            WrongUse: it is none, or that of another subject or service.
        """
        try:
            sealed = urlsafe_b64decode(text + "=" * (-len(text) % 4))
            return self._cursors.decrypt(sealed[:_NONCE], sealed[_NONCE:], subject.encode()).decode()
        except (ValueError, InvalidTag) as error:
            raise WrongUse(
                "this is not a cursor of this query", "copy it whole from the page before"
            ) from error


def _make_secret(path: Path) -> None:
    """Make the file with a new secret, whole or not at all.

    Raises:
        FileExistsError: it exists.
    """
    if path.exists():
        raise FileExistsError(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_path(path.parent)
