"""Measure the first maintenance of an output with many days of few rows: it seals each day of three tables.

Then the run after the grace period, which removes the files of hours. Prints lines of Markdown: steps, wall
and CPU time. The output is made in a temporary folder, which should be in memory: each file is synced.

    python -m tests.benchmarks.first_maintenance --days 1096 --near /dev/shm
"""

import argparse
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.jobs.maintain import Maintenance
from schemas.tables import AGGREGATIONS, DUPLICATES, REPORTS
from tests.pipelines.maintenance.stored import FIRST, SETTINGS, make_output, make_rows
from transforms.core.record_batches import concat
from transforms.sinks.parquet.file_merge import write_rows
from transforms.storage.local_folder import LocalFolder

ROWS = 2
"""Of each day and table."""
KEPT = {"keep_reports_days": 9999, "keep_records_days": 9999, "keep_windows_1h_days": 9999}


def main() -> None:
    """Make the output, maintain it twice, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=int, default=1096)
    parser.add_argument("--near", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="kpiflow-first-", dir=arguments.near) as folder:
        output = make_output(Path(folder) / "out", 0)
        days = [FIRST + timedelta(days=number) for number in range(arguments.days)]
        for table in (REPORTS, AGGREGATIONS, DUPLICATES):
            write_rows(
                table, LocalFolder(output), [concat([make_rows(table, day, ROWS) for day in days])], 30
            )
        print("| run | steps | wall s | CPU s |\n|---|---|---|---|")
        at = datetime.combine(days[-1], datetime.min.time(), UTC) + timedelta(days=3)
        for name, moment in (("first", at), ("after the grace period", at + timedelta(hours=2))):
            print(f"| {name} | {measure(output, moment)} |", flush=True)


def measure(output: Path, at: datetime) -> str:
    """Maintain an output at a moment: the steps, and the wall and CPU time that they took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work = Maintenance(output, SETTINGS.model_copy(update=KEPT), {}, clock=lambda: at)
    steps = len(work.run(lambda *_: None).steps)
    return f"{steps:,} | {time.perf_counter() - wall:.0f} | {time.process_time() - cpu:.1f}"


if __name__ == "__main__":
    main()
