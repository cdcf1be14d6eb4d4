"""The same output in every layout that maintenance gives it, or leaves when it is killed."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa

from schemas.tables import FLEET, TABLES, TRIMMED
from transforms.core.record_batches import concat
from transforms.derived.footers import join_files
from transforms.derived.registry import DERIVED
from transforms.derived.run import sort_file
from transforms.sinks.parquet.maintenance_ledger import (
    COLD,
    HOT,
    WARM,
    DayPlace,
    Ledger,
    locate_day,
    put_ledger,
)
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import encode_file, read_file
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
EVERY = (
    TABLES | {FLEET.name: FLEET, TRIMMED.name: TRIMMED} | {name: each.table for name, each in DERIVED.items()}
)
_HOURS = re.compile(r"(.+)/date=(\d{4}-\d\d-\d\d)/hour=\d\d/[^/]+\.parquet")
Layout = Callable[[Path, Storage, Storage], None]
"""Gives an output of files of hours another layout; the storages are for warm and cold days."""


def keep_hours(output: Path, warm: Storage, cold: Storage) -> None:
    """Files of hours."""


def seal_hot(output: Path, warm: Storage, cold: Storage) -> None:
    """Sealed days on the first root."""
    _seal(output, HOT, LocalFolder(output), {})


def seal_warm(output: Path, warm: Storage, cold: Storage) -> None:
    """Sealed days in another folder."""
    _seal(output, WARM, warm, {WARM: warm.name})


def seal_cold(output: Path, warm: Storage, cold: Storage) -> None:
    """Sealed days on object storage."""
    _seal(output, COLD, cold, {COLD: cold.name})


def seal_in_grace(output: Path, warm: Storage, cold: Storage) -> None:
    """Sealed days, whose files of hours are still there."""
    _seal(output, HOT, LocalFolder(output), {}, remove=False)


def seal_half(output: Path, warm: Storage, cold: Storage) -> None:
    """Days whose files were written by a seal that was killed before the ledger was replaced."""
    _seal(output, HOT, LocalFolder(output), {}, remove=False)
    (output / "_maintenance.json").unlink()


def move_half(output: Path, warm: Storage, cold: Storage) -> None:
    """Sealed days that a move copied before it was killed; the copies are older than the days."""
    seal_hot(output, warm, cold)
    for path in output.rglob("day.parquet"):
        warm.put(path.relative_to(output).as_posix(), b"an unfinished copy", None)


def seal_reports_only(output: Path, warm: Storage, cold: Storage) -> None:
    """Days of which only the reports are sealed."""
    _seal(output, WARM, warm, {WARM: warm.name}, only="kpi_reports")


LAYOUTS: tuple[Layout, ...] = (
    *(keep_hours, seal_hot, seal_warm, seal_cold),
    *(seal_in_grace, seal_half, move_half, seal_reports_only),
)


def _seal(
    output: Path, tier: str, root: Storage, urls: dict[str, str], remove: bool = True, only: str = ""
) -> None:
    """Put the rows of each day into one file on a root."""
    ledger = Ledger().put_roots(urls)
    for (folder, day), files in _list_days(output, only).items():
        rows = _seal_day(folder, files, locate_day(folder, day), root)
        ledger = ledger.put_day(folder, day, DayPlace(True, tier, rows), WHEN)
        for file in files if remove else ():
            file.storage.remove(file.name)
    put_ledger(LocalFolder(output), ledger, None)


def _list_days(output: Path, only: str) -> dict[tuple[str, date], list[OutputFile]]:
    days = defaultdict[tuple[str, date], list[OutputFile]](list)
    for file in _list_files(output):
        if (found := _HOURS.fullmatch(file.name)) and file.name.startswith(only):
            days[found[1], date.fromisoformat(found[2])].append(file)
    return days


def _list_files(output: Path) -> Iterator[OutputFile]:
    files = OutputFiles.of(output)
    return (file for table in EVERY.values() for file in files.list_table(table))


def _seal_day(folder: str, files: list[OutputFile], name: str, root: Storage) -> int:
    table = EVERY[folder.partition("/")[0]]
    rows = concat([read_file(file.open()) for file in files])
    metadata = join_files(files) if table.name in DERIVED else None
    root.put(name, encode_file(rows.take(pa.array(sort_file(table, rows))), metadata), None)
    return rows.num_rows
