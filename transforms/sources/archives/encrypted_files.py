"""The lines of encrypted files of archives (`transforms.envelopes.encrypted_segments`)."""

import os
import re
from collections.abc import Collection, Iterator
from typing import BinaryIO

from transforms.core.key_wrapping import KeyFinder, MonthKey
from transforms.envelopes.encrypted_segments import (
    BEGIN,
    ENDING,
    Changed,
    CutShort,
    decrypt_segment,
    read_head,
)
from transforms.sources.archives.decompression import DamagedError

_HOUR_FILE = re.compile(
    r"(?P<hour>\d{4}-\d\d-\d\dT\d\d|unknown)(?P<kind>(?:\.refused)?\.ndjson)" + re.escape(ENDING)
)


def decrypt_lines(
    file: BinaryIO, name: str, keys: KeyFinder | None, must_be_closed: bool = False
) -> Iterator[bytes]:
    """The lines of a file, a piece at a time, each of them as it was written.

    `name`: its path or URL. `must_be_closed`: whether it was closed before it was found (`find_closed`).

    Raises:
        DamagedError: it is cut short or changed, or its key is unknown; after the lines before that.
        Refused, Unavailable: see `KeyFinder`.
    """
    before, is_closed = BEGIN, False
    try:
        while (head := read_head(file)) is not None:
            key = _find_key(head.key_id, name, keys)
            before = yield from decrypt_segment(file, head, key, before)
            is_closed = head.length == 0
    except CutShort as error:
        raise DamagedError(f"cut short ({error})") from error
    except Changed as error:
        raise DamagedError(f"corrupt ({error})") from error
    if must_be_closed and not is_closed:
        raise DamagedError("cut short (its end is missing, although a later file of its stream was begun)")


def verify_key(file: BinaryIO, name: str, keys: KeyFinder | None) -> None:
    """Open the key of a file that begins as it should.

    Raises:
        Refused, Unavailable: see `KeyFinder`.
    """
    try:
        if (head := read_head(file)) is not None:
            _find_key(head.key_id, name, keys)
    except (CutShort, Changed, DamagedError):
        return  # who reads it reports it


def find_closed(paths: Collection[str]) -> set[str]:
    """Those of the paths of encrypted files that their writer had closed, since it has begun a later one."""
    newest: dict[tuple[str, str], str] = {}
    found = {path: match for path in paths if (match := _HOUR_FILE.fullmatch(_split_name(path)[1]))}
    for path, match in found.items():
        series = _split_name(path)[0], match["kind"]
        newest[series] = max(newest.get(series, ""), match["hour"])
    return {
        path for path, match in found.items() if match["hour"] < newest[_split_name(path)[0], match["kind"]]
    }


def _split_name(path: str) -> tuple[str, str]:
    """The folder and the name of a file, without the options of a URL."""
    return os.path.split(path.rpartition("?")[0] if "://" in path and "?" in path else path)


def _find_key(key_id: str, name: str, keys: KeyFinder | None) -> MonthKey:
    key = None if keys is None else keys.find_key(key_id, name)
    if key is None:
        raise DamagedError(f"cannot be decrypted (its key {key_id} is in no _keys.json above it)")
    return key
