"""Measure sealing a day of many reports.

The reports of a day of OUT are written again and again, with other agents and ids, into the files of hours of
a new output in a temporary folder, which is then sealed. Prints lines of Markdown: reports, files and bytes
before and after, wall and CPU time, and the peak memory of the process that seals.

    python -m tests.benchmarks.sealing OUT --reports 10000000
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.maintenance.plan import SEAL, Step
from pipelines.maintenance.steps import Upkeep
from schemas.tables import REPORTS
from transforms.core.durable_files import make_folder
from transforms.core.grouping import sort_by_columns
from transforms.core.record_batches import concat
from transforms.sinks.parquet.local_folder import LocalFolder
from transforms.sinks.parquet.maintenance_ledger import HOT, locate_day
from transforms.sinks.parquet.parquet_file import encode_file, read_file


def main() -> None:
    """Make the day, have it sealed by a process of its own, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--reports", type=int, default=10_000_000)
    parser.add_argument("--near", type=Path, help="where the temporary folder is made")
    parser.add_argument("--seal", metavar="DAY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.seal:
        seal(arguments.output, date.fromisoformat(arguments.seal))
        return
    with TemporaryDirectory(prefix="kpiflow-sealing-", dir=arguments.near) as folder:
        top = Path(folder)
        day = make_day(arguments.output, top, arguments.reports)
        files = list((top / REPORTS.name).rglob("*.parquet"))
        before = sum(path.stat().st_size for path in files)
        command = [sys.executable, "-m", __spec__.name, str(top), "--seal", day.isoformat()]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        after = (top / locate_day(REPORTS.name, day)).stat().st_size
        print(
            "| reports | files, MB before | MB after | wall s | CPU s | peak MB |\n|---|---|---|---|---|---|"
        )
        print(
            f"| {found['rows']:,} | {len(files)}, {before / 1e6:,.0f} | {after / 1e6:,.0f} "
            f"| {found['wall']:.0f} | {found['cpu']:.0f} | {found['peak']:,.0f} |"
        )


def make_day(output: Path, top: Path, reports: int) -> date:
    """Write so many reports into the files of hours of one day; the day."""
    source = sorted((output / REPORTS.name).glob("date=2*"))[0]
    files = sorted(source.rglob("*.parquet"))
    each = reports // len(files)
    for path in files:
        rows = read_file(path)
        copies = [change_names(rows, number) for number in range(-(-each // rows.num_rows))]
        merged = concat(copies).slice(0, each)
        order = sort_by_columns(merged.select(REPORTS.file_order), REPORTS.file_order)
        target = top / path.relative_to(output)
        make_folder(target.parent)
        target.write_bytes(encode_file(merged.take(pa.array(order))))
    return date.fromisoformat(source.name.removeprefix("date="))


def change_names(rows: pa.RecordBatch, number: int) -> pa.RecordBatch:
    """The reports of other agents, with other ids."""
    for name in ("agent_id", "report_id", "task_id", "message_id"):
        place = rows.schema.get_field_index(name)
        changed = pc.binary_replace_slice(rows[name], 0, 2, f"{number:02}")
        rows = rows.set_column(place, rows.schema.field(place), changed)
    return rows


def seal(top: Path, day: date) -> None:
    """Seal a day, and print what it took as JSON."""
    now = datetime.combine(day, datetime.min.time(), UTC) + timedelta(days=9)
    began = time.perf_counter()
    work = Upkeep({HOT: LocalFolder(top)}, lambda: now)
    work.run(Step(SEAL, REPORTS.name, day))
    used = resource.getrusage(resource.RUSAGE_SELF)
    ledger = json.loads((top / "_maintenance.json").read_text())
    took = {"wall": time.perf_counter() - began, "cpu": used.ru_utime + used.ru_stime}
    took |= {"rows": ledger["days"][REPORTS.name][day.isoformat()]["rows"], "peak": used.ru_maxrss / 1024}
    print(json.dumps(took))


if __name__ == "__main__":
    main()
