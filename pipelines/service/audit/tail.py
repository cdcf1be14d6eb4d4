"""The end of a chain as a process finds it: its head, and what a crash left of an unfinished write."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipelines.service.audit.chain import ChainHead, find_start, list_months, parse_line

_BLOCK = 1 << 20
"""Bytes at the end of a file that are read: more than a line and an unfinished write together."""


class ChainDamaged(Exception):  # noqa: N818 (a finding)
    """The last complete line of a chain was changed."""


@dataclass(frozen=True)
class Tail:
    """`month`: the newest file, empty if there is none. `torn`: what follows its last complete line."""

    head: ChainHead
    month: str
    torn: bytes = b""

    def describe_torn(self) -> dict[str, Any]:
        """The field by which the next line explains the torn bytes; none if there are none."""
        if not self.torn:
            return {}
        return {"torn": {"bytes": len(self.torn), "sha256": sha256(self.torn).hexdigest()}}


def read_tail(folder: Path) -> Tail:
    """The end of the chain in a folder; of an empty one if there is no file.

    Raises:
        OSError: a file cannot be read.
        ChainDamaged: the last complete line was changed, so that nothing may be added to it.
    """
    torn, month = b"", ""
    for path in reversed(list_months(folder)):
        line, rest = _split_end(_read_end(path), path)
        torn, month = torn + rest, month or path.stem
        if line is not None:
            return Tail(ChainHead(line["seq"], line["hash"]), month, torn)
    return Tail(ChainHead(), month, torn)


def _read_end(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _BLOCK))
        return file.read()


def _split_end(data: bytes, path: Path) -> tuple[dict[str, Any] | None, bytes]:
    """The last complete line, None if there is none, and the bytes after it."""
    end = data.rfind(b"\n") + 1
    while end > 0:
        start = data.rfind(b"\n", 0, end - 1) + 1
        line = data[start : end - 1]
        try:
            return parse_line(line[find_start(line) or 0 :]), data[end:]
        except ValueError as error:
            # A power cut may leave a block that was never written: it is read as zeros.
            if b"\0" not in data[start:]:
                raise ChainDamaged(f"the last line of {path} {error}") from error
        end = start
    return None, data
