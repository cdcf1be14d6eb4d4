"""Which entries of a stream are in the files of an archive, by their ids."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transforms.core.errors import DamagedFile
from transforms.envelopes.envelope_lines import NO_DATA, read_line
from transforms.redis.entry_ids import EntryId, parse_id
from transforms.sinks.archive.line_files import LineFiles


def parse_entry_id(text: str) -> EntryId:
    """The id that a text is.

    Raises:
        ValueError: it is not the id of a stream's entry.
    """
    try:
        return parse_id(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no id of a stream's entry, such as 1761134400000-0: only streams are archived"
        ) from None


def parse_entry_ids(texts: pa.Array) -> NDArray[np.uint64]:
    """uint64[n, 2]: the ids that string[n] are, as (milliseconds, sequence).

    Raises:
        ValueError: one of them is not the id of a stream's entry.
    """
    if not len(texts):
        return np.empty((0, 2), np.uint64)
    try:
        parts = pc.split_pattern(texts, "-", max_splits=1)
        return pc.list_flatten(parts).cast(pa.uint64()).to_numpy().reshape(len(texts), 2)
    except (pa.ArrowInvalid, ValueError):
        return np.array([parse_entry_id(text) for text in texts.to_pylist()], np.uint64)


def read_id(line: bytes) -> EntryId | None:
    """The id of the entry that an archived line holds; None if it holds none."""
    envelope = read_line(line)
    if envelope is None or envelope.problem not in ("", NO_DATA):
        return None
    try:
        return parse_id(envelope.message_id)
    except ValueError:
        return None


def read_last_id(files: LineFiles, path: Path) -> EntryId | None:
    """The id of the last entry of a file of whole lines; None if it is empty.

    Raises:
        DamagedFile: its last line is not an entry's envelope.
    """
    if (line := files.read_last_line(path)) is None:
        return None
    if (found := read_id(line)) is None:
        problem = "does not end in an entry's envelope, so where the archive ends is unknown"
        raise DamagedFile(f"{path} {problem}; move the file away")
    return found


def find_ids(files: LineFiles, path: Path, first: EntryId, last: EntryId) -> set[EntryId]:
    """The ids from `first` to `last`, both included, in a file that is in the order of ids; none if it is
    missing.

    Reads the lines between them, and a few to find where they start. A line without an id counts as one
    before `first`.
    """

    def is_before(line: bytes) -> bool:
        entry = read_id(line)
        return entry is None or entry < first

    found: set[EntryId] = set()
    for line in files.read_lines(path, is_before):
        entry = read_id(line)
        if entry is not None and entry > last:
            break
        if entry is not None and entry >= first:
            found.add(entry)
    return found


def read_ids(files: LineFiles, path: Path) -> set[EntryId]:
    """The ids in a file, in any order; none if it is missing."""
    lines = files.read_lines(path, lambda _: False)
    return {entry for line in lines if (entry := read_id(line)) is not None}
