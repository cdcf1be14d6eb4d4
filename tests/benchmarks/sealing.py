"""Measure sealing a day of many reports.

The reports of a day of OUT are written again and again, with other agents and ids, into the files of hours of
a new output in a temporary folder, which is then sealed. Prints lines of Markdown: reports, files and bytes
before and after, wall and CPU time, and the peak memory of the process that seals, sampled, without the pages
of files that it maps.

    python -m tests.benchmarks.sealing OUT --reports 10000000
"""

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.maintenance.plan import SEAL, MaintenanceStep
from pipelines.maintenance.steps import Upkeep
from schemas.tables import REPORTS
from transforms.core.durable_files import make_folder
from transforms.core.grouping import sort_by_columns
from transforms.core.record_batches import concat
from transforms.sinks.parquet.maintenance_ledger import HOT, locate_day
from transforms.sinks.parquet.parquet_file import encode_file, read_file
from transforms.storage.local_folder import LocalFolder


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
    """Write so many reports into the files of hours of the first day of an output; the day.

    Each file gets the reports of different files of the output, since zstd would notice copies of one.
    """
    files = sorted((output / REPORTS.name).glob("date=2*/**/*.parquet"))
    first = min(path.parts[-3] for path in files)
    targets = [path for path in files if first in path.parts]
    each = reports // len(targets)
    for number, path in enumerate(targets):
        copies, have = [], 0
        while have < each:
            source = files[(number + len(copies)) % len(files)]
            copies.append(change(read_file(source), len(copies), find_start(path) - find_start(source)))
            have += copies[-1].num_rows
        merged = concat(copies).slice(0, each)
        order = sort_by_columns(merged.select(REPORTS.file_order), REPORTS.file_order)
        target = top / path.relative_to(output)
        make_folder(target.parent)
        target.write_bytes(encode_file(merged.take(pa.array(order))))
    return date.fromisoformat(first.removeprefix("date="))


def find_start(path: Path) -> timedelta:
    """Where the span of a file of hours begins, since 1970."""
    day = date.fromisoformat(path.parts[-3].removeprefix("date="))
    hour, minute = int(path.stem[:2]), int(path.stem[2:])
    return (day - date(1970, 1, 1)) + timedelta(hours=hour, minutes=minute)


def change(rows: pa.RecordBatch, number: int, later: timedelta) -> pa.RecordBatch:
    """The reports of other agents, with other ids, recorded so much later."""
    changed = {
        name: pc.binary_replace_slice(rows[name], 0, 2, f"{number:02}")
        for name in ("agent_id", "report_id", "task_id", "message_id")
    }
    for name in ("recorded_at", "received_at"):
        moment = pc.add(rows[name].cast(pa.int64()), int(later.total_seconds()) * 1_000_000)
        changed[name] = moment.cast(rows[name].type)
    return pa.RecordBatch.from_arrays(
        [changed.get(name, rows[name]) for name in rows.schema.names], schema=rows.schema
    )


def seal(top: Path, day: date) -> None:
    """Seal a day, and print what it took as JSON."""
    now = datetime.combine(day, datetime.min.time(), UTC) + timedelta(days=9)
    began = time.perf_counter()
    work = Upkeep({HOT: LocalFolder(top)}, lambda: now)
    peak, ended = [0.0], threading.Event()
    sampler = threading.Thread(target=sample_memory, args=(peak, ended))
    sampler.start()
    work.run([MaintenanceStep(SEAL, REPORTS.name, day)])
    ended.set()
    sampler.join()
    used = resource.getrusage(resource.RUSAGE_SELF)
    ledger = json.loads((top / "_maintenance.json").read_text())
    took = {"wall": time.perf_counter() - began, "cpu": used.ru_utime + used.ru_stime}
    took |= {"rows": ledger["days"][REPORTS.name][day.isoformat()]["rows"], "peak": peak[0]}
    print(json.dumps(took))


def sample_memory(peak: list[float], ended: threading.Event) -> None:
    """Keep the largest number of MB of this process that are no pages of files in `peak[0]`."""
    while not ended.wait(0.05):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        peak[0] = max(peak[0], int(status["RssAnon"].split()[0]) / 1024)


if __name__ == "__main__":
    main()
