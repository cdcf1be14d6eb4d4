"""A chain of lines: each contains the hash of the line before it and its own.

A line is a JSON object whose last two members are `prev` and `hash`:

    {"seq":7,"time":"2026-11-27T12:00:00.000000+00:00","type":"begin",...,"prev":"<64 hex>","hash":"<64 hex>"}

`hash` is the SHA-256 of the bytes of the line before `,"hash":`, so it covers `prev` too. `seq` counts the
lines of a chain from 1. The lines of a month are in one file, FOLDER/WRITER/YYYY-MM.jsonl; a chain goes on
from month to month and from process to process.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

ORIGIN = "0" * 64
"""`prev` of the first line of a chain."""
_BEGINNING = b'{"seq":'
_MEMBERS = {"seq": int, "time": str, "type": str, "prev": str}
MONTH = re.compile(r"\d{4}-\d\d\.jsonl")
_END = re.compile(rb',"hash":"([0-9a-f]{64})"\}')


@dataclass(frozen=True)
class ChainHead:
    """The newest line of a chain: its number and its hash. A chain without lines has seq 0."""

    seq: int = 0
    hash: str = ORIGIN


def format_line(head: ChainHead, fields: Mapping[str, Any], at: datetime) -> tuple[bytes, ChainHead]:
    """The line with these fields after a head, with its newline, and the head that it makes."""
    time = at.astimezone(UTC).isoformat(timespec="microseconds")
    named = {"seq": head.seq + 1, "time": time, **fields, "prev": head.hash}
    body = json.dumps(named, separators=(",", ":"), ensure_ascii=True)[:-1].encode()
    digest = sha256(body).hexdigest()
    return body + f',"hash":"{digest}"}}\n'.encode(), ChainHead(head.seq + 1, digest)


def parse_line(line: bytes) -> dict[str, Any]:
    """The members of a line without its newline.

    Raises:
        ValueError: it is not a line of a chain, its hash is not that of its bytes, or it lacks a member that
            each line of its type has.
    """
    end = _END.search(line, max(0, len(line) - 75))
    if end is None or end.end() != len(line):
        raise ValueError("is not a line of a chain")
    if sha256(line[: end.start()]).hexdigest().encode() != end[1]:
        raise ValueError("was changed: its hash is not that of its text")
    try:
        found: dict[str, Any] = json.loads(line)
    except RecursionError:
        raise ValueError("is not a line of a chain") from None
    wanted = _MEMBERS | ({"of": int} if found.get("type") == "end" else {})
    if not all(type(found.get(name)) is kind for name, kind in wanted.items()):
        raise ValueError("has no number, or another form")
    return found


def find_start(line: bytes) -> int | None:
    """Where the line of a start begins that follows the torn bytes of a crash; None if it is not such a line.

    That line is not on a line of its own: a crash between a newline and it would leave another torn line.
    """
    at = line.rfind(_BEGINNING)
    if at < 0:
        return None
    try:
        return at if "torn" in parse_line(line[at:]) else None
    except ValueError:
        return None


def list_months(folder: Path) -> list[Path]:
    """The files of a chain, oldest first.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if MONTH.fullmatch(path.name))


def list_chains(folder: Path) -> list[Path]:
    """The folders of the chains below the folder of an audit.

    Raises:
        OSError: it cannot be read.
    """
    return sorted(path for path in folder.iterdir() if path.is_dir() and list_months(path))
