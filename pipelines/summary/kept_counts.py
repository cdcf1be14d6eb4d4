"""Counts of the files of a folder, kept while these are the same: who counts often reads only what changed.

Files of a folder are replaced whole, by a rename. So its counts are those of the versions of its files that
were there before they were read: what was replaced meanwhile has another version the next time.
"""

import os
from collections.abc import Callable, Sequence
from itertools import groupby

import pyarrow as pa

from transforms.core.durable_files import FileVersion, read_version
from transforms.sinks.parquet.output_files import OutputFile

Count = Callable[[Sequence[OutputFile]], pa.Table]
Versions = tuple[tuple[str, FileVersion], ...]


class KeptCounts:
    """The counts of each folder of a table. One thread at a time may use it."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Versions, pa.Table]] = {}

    def count(self, files: Sequence[OutputFile], count: Count) -> pa.Table:
        """What `count` returns for the files of each folder, which are given in the order of their names, one
        after the other; for no files, if there are none."""
        found: dict[str, tuple[Versions, pa.Table]] = {}
        parts = []
        for folder, group in groupby(files, key=lambda file: file.name.rpartition("/")[0]):
            own = list(group)
            versions = _read_versions(own)
            kept = self._kept.get(folder)
            if kept is None or versions is None or kept[0] != versions:
                kept = versions or (), count(own)
            if versions is not None:
                found[folder] = kept
            parts.append(kept[1])
        self._kept = found
        return pa.concat_tables(parts or [count([])])


def _read_versions(files: Sequence[OutputFile]) -> Versions | None:
    """The versions of files; None if one is not on this machine."""
    if any(file.path is None for file in files):
        return None
    return tuple((str(file.path), read_version(os.stat(file.path))) for file in files if file.path)
