"""Files that a seal or a move has replaced: what else was written to them is saved before they are removed.

A writer that read the ledger before it changed can still write to them, after they were read. So the ledger
has a digest of what was read of them. If they have changed since, their rows are merged into the file that
took their place; those that it has already change nothing.
"""

from collections.abc import Hashable, Iterable
from datetime import date
from hashlib import blake2b

from pipelines.maintenance.stored_days import list_day
from schemas.partitioning import format_day_folder
from transforms.derived.registry import DERIVED, find_stored_table
from transforms.encryption.key_ring import find_writing_key
from transforms.sinks.parquet.file_merge import write_rows
from transforms.sinks.parquet.output_files import OutputFile
from transforms.sinks.parquet.parquet_file import map_file, read_footer, read_whole
from transforms.storage.storage import Storage

HOUR_MINUTES = 60
"""The span of a file of hours, when rows are only written to files of days."""


def read_versions(root: Storage, folder: str, day: date, sealed: bool) -> dict[str, Hashable]:
    """The files of a day on a root, those of its hours or that of the day, with their versions."""
    names = frozenset(list_day(root, folder, day, sealed))
    found = root.list_versions(f"{folder}/{format_day_folder(day)}")
    return {name: version for name, version in found if name in names}


def digest_files(root: Storage, names: Iterable[str]) -> str:
    """A digest (16 hex digits) of the names and contents of files, by their footers."""
    digest = blake2b(digest_size=8)
    for file in (OutputFile(name, root) for name in sorted(names)):
        data = map_file(file.path) if file.path else file.read()
        digest.update(f"{file.name}\0".encode() + read_footer(data))
    return digest.hexdigest()


def merge_again(hot: Storage, root: Storage, folder: str, names: Iterable[str]) -> None:
    """Merge the rows of replaced files into the files of their days, as the ledger at `hot` has them.

    Those of a derived table are not merged: what differs is stale, and is derived again.

    Raises:
        DamagedFile: one of them is not as it was written; it must not be removed.
    """
    table = find_stored_table(folder.partition("/")[0])
    if table.name in DERIVED:
        return
    for file in (OutputFile(name, root) for name in sorted(names)):
        if (stored := file.get()) is not None:
            rows = read_whole(stored.data, str(file))
            write_rows(table, hot, [rows], HOUR_MINUTES, key=find_writing_key(hot))
