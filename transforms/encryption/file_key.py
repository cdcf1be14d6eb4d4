"""The key of a file, and where the file keeps it (Parquet modular encryption, AES-256-GCM, encrypted footer).

Each file has a random key of its own. It is wrapped by a monthly key and stored in the file as the prefix of
the associated data, which is authenticated with every page and with the footer:

```
kpiflow1 | id of the monthly key, 16 bytes | wrapped key, 60 bytes
```
"""

import os
import secrets
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow.parquet.encryption as pe

from transforms.core.key_wrapping import ID_LENGTH, KEY_BYTES, WRAPPED_BYTES, MonthKey, unwrap_key, wrap_key
from transforms.encryption.key_ring import find_key

MAGIC = b"PARE"
"""The first and the last bytes of a file with an encrypted footer; those of others are PAR1."""
_FORM = b"kpiflow1"
_PREFIX = len(_FORM) + ID_LENGTH + WRAPPED_BYTES
# Thrift's compact form of FileCryptoMetaData: algorithm AES_GCM_V1 with the prefix, 8 random bytes, and "the
# reader need not supply a prefix"; no key metadata.
_BEFORE = b"\x1c\x1c\x18" + bytes([_PREFIX])
_AFTER, _UNIQUE, _END = b"\x18\x08", 8, b"\x12\x00\x00\x00"
_HEAD = len(_BEFORE) + _PREFIX + len(_AFTER) + _UNIQUE + len(_END)

Source = Path | bytes | bytearray | BinaryIO


class FileHead(NamedTuple):
    """What an encrypted file says in plain before its footer."""

    key_id: str
    wrapped: bytes


def make_encryption(key: MonthKey) -> Any:
    """A new random key for one file, as pyarrow's writer takes it."""
    own = secrets.token_bytes(KEY_BYTES)
    label = _FORM + key.id.encode()
    return pe.create_encryption_properties(own, aad_prefix=label + wrap_key(key.secret, own, label))


def make_decryption(file: Source, place: object = None) -> Any:
    """The key of a file, as pyarrow's reader takes it. It is None if the file is not encrypted.

    `place`: its path, if it has one: the list of keys may be above it.

    Raises:
        KeyRefused: its monthly key is not available.
        ValueError: the file is damaged, or its monthly key is not in the list of its output.
    """
    head = read_head(file)
    if head is None:
        return None
    key = find_key(head.key_id, place if isinstance(place, Path) else None)
    if key is None:
        raise ValueError(f"its key {head.key_id} is in no _keys.json of the outputs that are read")
    own = unwrap_key(key.secret, head.wrapped, _FORM + head.key_id.encode())
    return pe.create_decryption_properties(own)


def read_head(file: Source) -> FileHead | None:
    """What a file says in plain; None if it is not encrypted.

    Raises:
        ValueError: it is encrypted, and not as kpiflow does it.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _read_head(opened)
    if isinstance(file, bytes | bytearray):
        start = len(file) - 8 - int.from_bytes(file[-8:-4], "little")
        return parse_head(bytes(file[max(start, 0) : max(start, 0) + _HEAD])) if file[-4:] == MAGIC else None
    place = file.tell()
    try:
        return _read_head(file)
    finally:
        file.seek(place)


def _read_head(file: BinaryIO) -> FileHead | None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    end = file.read(8)
    if end[4:] != MAGIC:
        return None
    file.seek(max(0, size - 8 - int.from_bytes(end[:4], "little")))
    return parse_head(file.read(_HEAD))


def parse_head(head: bytes) -> FileHead:
    """The key's id and the wrapped key out of the bytes with which the footer of a file begins.

    Raises:
        ValueError: any other byte than these and the random ones differs from what kpiflow writes.
    """
    prefix = head[len(_BEFORE) : len(_BEFORE) + _PREFIX]
    after = head[len(_BEFORE) + _PREFIX :]
    is_whole = (
        len(head) == _HEAD
        and head.startswith(_BEFORE + _FORM)
        and after.startswith(_AFTER)
        and after.endswith(_END)
    )
    if not is_whole:
        raise ValueError("it is encrypted by another program, or was changed after it was written")
    label = prefix[len(_FORM) : -WRAPPED_BYTES]
    return FileHead(label.decode("ascii", "replace"), prefix[-WRAPPED_BYTES:])
