"""Which entries of a stream the files of an archive hold."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transforms.envelopes.envelope_lines import NO_DATA, read_line
from transforms.redis.entry_ids import EntryId, parse_id


def entry_id(text: str) -> EntryId:
    """The id that a text is.

    Raises:
        ValueError: it is none.
    """
    try:
        return parse_id(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no id of a stream's entry, such as 1761134400000-0: only streams are archived"
        ) from None


def archived_id(line: bytes) -> EntryId | None:
    """The id of the entry that an archived line holds; None if it holds none."""
    envelope = read_line(line)
    if envelope is None or envelope.problem not in ("", NO_DATA):
        return None
    try:
        return entry_id(envelope.message_id)
    except ValueError:
        return None


def ids_in_order(path: Path, first: EntryId, last: EntryId) -> set[EntryId]:
    """The ids from one to another, both included, in a file whose lines are in the order of their ids; none if it is missing.

    Reads the lines between them, and some to find where they begin.
    """
    found: set[EntryId] = set()
    with _octets(path) as octets:
        start = _start(octets, first)
        while start < len(octets):
            line, start = _line(octets, start)
            held = archived_id(line)
            if held is not None and held > last:
                break
            found |= {held} if held is not None else set()
    return found


def all_ids(path: Path) -> set[EntryId]:
    """The ids in a file, in whatever order; none if it is missing."""
    with _octets(path) as octets:
        return {held for line in octets[:].splitlines() if (held := archived_id(line)) is not None}


@contextmanager
def _octets(path: Path) -> Iterator[mmap.mmap | bytes]:
    if not path.exists() or not path.stat().st_size:
        yield b""
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        yield octets


def _start(octets: mmap.mmap | bytes, first: EntryId) -> int:
    """Where the first line begins whose id is not older, by bisection; a line without an id counts as older."""
    low, high = 0, len(octets)
    while low < high:
        begin = octets.rfind(b"\n", low, (low + high) // 2) + 1 or low
        line, end = _line(octets, begin)
        held = archived_id(line)
        if held is None or held < first:
            low = end
        else:
            high = begin
    return low


def _line(octets: mmap.mmap | bytes, start: int) -> tuple[bytes, int]:
    """The line that begins somewhere, and where the next one does."""
    end = octets.find(b"\n", start)
    return (octets[start:end], end + 1) if end >= 0 else (octets[start:], len(octets))
