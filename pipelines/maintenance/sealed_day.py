"""The file of a sealed day, made of its files of hours."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pipelines.jobs.work_folder import make_work_folder
from pipelines.maintenance.file_copies import count_verified, open_bytes, replace_whole
from pipelines.maintenance.plan import MaintenanceStep
from transforms.core.counts import format_count
from transforms.core.errors import Refused
from transforms.derived.footers import join_files
from transforms.derived.registry import DERIVED, find_stored_table
from transforms.encryption.key_ring import find_writing_key
from transforms.sinks.parquet.day_file import write_day_file
from transforms.sinks.parquet.day_merge import merge_day
from transforms.sinks.parquet.maintenance_ledger import DAY_FILE, locate_day
from transforms.sinks.parquet.output_files import OutputFile
from transforms.sinks.parquet.parquet_file import read_file
from transforms.storage.local_folder import LocalFolder

WORK = "_maintaining"
"""Below the output: what a seal needs while it runs."""


def write_day(hot: LocalFolder, step: MaintenanceStep, names: Sequence[str], part_rows: int) -> int:
    """Write the file of a day out of its files of hours (`names`), and check that it has as many rows; how
    many it has.

    Raises:
        DamagedFile: a file of an hour is not as it was written.
        Refused: the file of the day has other rows; it is not there then.
    """
    with make_work_folder(hot.path, WORK) as work:
        rows, expected = _merge_hours(hot, step, names, work, part_rows)
        if rows != expected:
            raise Refused(
                f"{rows:,} of {format_count(expected, 'row')} of {step} could be written; run it again"
            )
        with open_bytes(LocalFolder(work), DAY_FILE) as data:
            replace_whole(hot, locate_day(step.folder, step.day), data)
    return rows


def _merge_hours(
    hot: LocalFolder, step: MaintenanceStep, names: Sequence[str], work: Path, part_rows: int
) -> tuple[int, int]:
    """Write the file into a work folder: how many rows it has, and how many its files of hours have."""
    table, key = find_stored_table(step.folder.partition("/")[0]), find_writing_key(hot)
    expected = sum(count_verified(hot.path / name) for name in names)

    def read(name: str, columns: Sequence[str] | None) -> pa.RecordBatch:
        return read_file(hot.path / name, columns)

    merged = merge_day(table, names, read, work, part_rows, key)
    metadata = join_files(OutputFile(name, hot) for name in names) if table.name in DERIVED else {}
    return write_day_file(work / DAY_FILE, table.schema, merged, expected, key, metadata), expected
