"""Files of days, verified before and after they are written."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import BinaryIO

from transforms.sinks.parquet.parquet_file import describe_damage, open_parquet, read_footer, verify_file
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage


def count_verified(path: Path) -> int:
    """The number of rows of a file that is as it was written.

    Raises:
        DamagedFile: it is not.
    """
    if problem := verify_file(path):
        raise describe_damage(path, problem)
    with open_parquet(path) as parquet:
        return int(parquet.metadata.num_rows)


@contextmanager
def open_bytes(storage: Storage, name: str) -> Iterator[bytes | mmap.mmap]:
    """The bytes of a file, verified; of a file on this machine not in memory.

    Raises:
        DamagedFile: it is not there, or not as it was written.
    """
    where = storage.locate(name)
    if isinstance(storage, LocalFolder):
        if problem := verify_file(storage.path / name):
            raise describe_damage(where, problem)
        with (storage.path / name).open("rb") as file, _map(file) as data:
            yield data
        return
    stored = storage.get(name)
    if problem := "is not there" if stored is None else verify_file(stored.data):
        raise describe_damage(where, problem)
    assert stored is not None
    yield stored.data


def replace_whole(storage: Storage, name: str, data: bytes | mmap.mmap) -> None:
    """Put a file that no reader knows, in place of what a killed run may have left, and read it back.

    Raises:
        DamagedFile: what is read is not what was put.
    """
    with storage.lock(name.rpartition("/")[0]):
        storage.remove(name)
        storage.put(name, data if isinstance(storage, LocalFolder) else bytes(data), None)
    with open_bytes(storage, name) as copy:
        if read_footer(copy) != read_footer(data):
            raise describe_damage(storage.locate(name), "is not what was written there")


def remove_empty(root: Path, folder: str, day: date) -> None:
    """Remove the folders of a day that have nothing in them."""
    top = root / folder / f"date={day.isoformat()}"
    for place in (*sorted(top.glob("hour=*")), top):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def _map(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
