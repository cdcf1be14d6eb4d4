"""Which days the folders of an output have, by the names of their files."""

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import date

from schemas.partitioning import format_day_folder
from transforms.sinks.parquet.maintenance_ledger import locate_day
from transforms.storage.storage import Storage

_HOURS = re.compile(r"(?P<folder>.+)/date=(?P<day>\d{4}-\d\d-\d\d)/hour=\d\d/[^/]+\.parquet")


def list_days(storage: Storage, below: str = "") -> dict[str, frozenset[date]]:
    """By folder, the days that have files of hours, of all folders or those below one."""
    days: dict[str, set[date]] = defaultdict(set)
    for name in storage.list_files(below):
        if (found := _HOURS.fullmatch(name)) and not name.startswith("_"):
            days[found["folder"]].add(date.fromisoformat(found["day"]))
    return {folder: frozenset(each) for folder, each in days.items()}


def list_day(storage: Storage, folder: str, day: date, sealed: bool) -> Iterator[str]:
    """The names of the files of a day: those of its hours, or that of the day."""
    for name in storage.list_files(f"{folder}/{format_day_folder(day)}"):
        if name.endswith(".parquet") and (name == locate_day(folder, day)) == sealed:
            yield name
