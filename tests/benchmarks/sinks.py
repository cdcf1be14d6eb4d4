"""Measure each kind of output beside the plain client library that does the same insert, on real servers of
this machine.

Rows are those of a backfill of generated reports. Both sides write all of them, in the same batches, in turn;
each time the place is new. kpiflow must have taken every row. Prints one Markdown table, which is also in
FOLDER/sinks.md.

    python -m tests.benchmarks.sinks --only folder bigquery --scale 0.2
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipelines.verify.table_scan import scan
from schemas.tables import AGGREGATIONS, REPORTS, Table
from tests.benchmarks import plain
from tests.bigquery import Emulator, store
from tests.s3 import S3Server
from tests.victoriametrics import VictoriaMetricsServer
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.sinks.sink import Sink
from transforms.sinks.timeseries.victoriametrics import VictoriaMetrics
from transforms.storage.local_folder import LocalFolder

REPORTS_AT_ALL = 200_000
BATCH = 50_000
"""Rows that are written at once."""
REPETITIONS = 3
KPIFLOW = [sys.executable, "-m", "pipelines.cli"]

Rows = Sequence[pa.RecordBatch]
Insert = Callable[[Rows], None]


class Cost(NamedTuple):
    """Of one insert of all rows: rows a second, and CPU microseconds a row of this process."""

    rate: float
    cpu: float


@dataclass(frozen=True)
class Contest:
    """A kind of output: its table, what makes a new sink for a round, and the plain client's insert into a
    place of its own."""

    name: str
    table: Table
    sink: Callable[[int], Sink]
    rival: str
    plain: Callable[[int], Insert]


def main() -> None:
    """Measure what is asked for, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the reports")
    parser.add_argument(
        "--only", nargs="+", choices=list(PLACES), default=list(PLACES), help="kinds of outputs to measure"
    )
    arguments = parser.parse_args()
    folder = arguments.folder.absolute() / "sinks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tables = _tables(folder, round(REPORTS_AT_ALL * arguments.scale))
    lines = [
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before, "
        f"batches of {BATCH:,} rows, {REPETITIONS} rounds in turn",
        "",
        "| output | rows | kpiflow rows/s | plain client rows/s | overhead "
        "| CPU/row | plain CPU/row | plain client |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    for name in arguments.only:
        with ExitStack() as servers:
            for contest in PLACES[name](folder, servers):
                lines.append(_line(contest, tables[contest.table.name]))
                print(lines[-1], flush=True)
    (arguments.folder / "sinks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.rmtree(folder)


def _tables(folder: Path, reports: int) -> dict[str, Rows]:
    """Rows of a backfill, by table, in batches."""
    for words in (
        [
            "generate",
            "--reports",
            str(reports),
            "--agents",
            "500",
            "--seed",
            "1",
            "--output",
            str(folder / "archive"),
        ],
        ["backfill", "--input", str(folder / "archive"), "--output", str(folder / "tables")],
    ):
        subprocess.run([*KPIFLOW, *words], check=True, stdout=subprocess.DEVNULL)
    found = {}
    for table in (REPORTS, AGGREGATIONS):
        rows = pa.Table.from_batches(scan(folder / "tables", table)).combine_chunks()
        found[table.name] = rows.to_batches(max_chunksize=BATCH)
    return found


def _line(contest: Contest, rows: Rows) -> str:
    """Both sides in turn, as a line of the table."""
    own, others = [], []
    for place in range(REPETITIONS):
        insert = contest.plain(place)
        others.append(_cost(rows, insert))
        sink = contest.sink(place)
        own.append(_cost(rows, lambda batches, sink=sink: _written(contest.table, sink, batches)))  # type: ignore[misc]
    overhead = statistics.median(other.rate / each.rate - 1 for each, other in zip(own, others))
    total = sum(batch.num_rows for batch in rows)
    rates = [f"{statistics.median(each.rate for each in costs):,.0f}" for costs in (own, others)]
    cpus = [f"{statistics.median(each.cpu for each in costs):.1f} µs" for costs in (own, others)]
    cells = [contest.name, f"{total:,}", *rates, f"{100 * overhead:+.0f} %", *cpus, contest.rival]
    return f"| {' | '.join(cells)} |"


def _cost(rows: Rows, insert: Insert) -> Cost:
    began, used = time.perf_counter(), _cpu_seconds()
    insert(rows)
    seconds, cpu = time.perf_counter() - began, _cpu_seconds() - used
    total = sum(batch.num_rows for batch in rows)
    return Cost(total / seconds, 1e6 * cpu / total)


def _written(table: Table, sink: Sink, rows: Rows) -> None:
    taken = sum(sink.write(table, [batch]).rows for batch in rows)
    if taken != (total := sum(batch.num_rows for batch in rows)):
        raise SystemExit(f"{sink.name} took {taken:,} of {total:,} rows")


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _folder(folder: Path, servers: ExitStack) -> Iterator[Contest]:
    def sink(place: int) -> Sink:
        return ParquetStore(LocalFolder(folder / f"own-{place}"))

    def rival(place: int) -> Insert:
        return lambda rows: plain.dataset(REPORTS, rows, str(folder / f"plain-{place}"), None)

    yield Contest("a folder", REPORTS, sink, "pyarrow.dataset.write_dataset", rival)


def _objects(folder: Path, servers: ExitStack) -> Iterator[Contest]:
    server = servers.enter_context(S3Server())
    server.make_bucket("bucket")

    def sink(place: int) -> Sink:
        return ParquetStore(server.storage("bucket", f"own-{place}"))

    def rival(place: int) -> Insert:
        return lambda rows: plain.dataset(REPORTS, rows, f"bucket/plain-{place}", plain.s3(server.endpoint))

    yield Contest("s3:// (moto)", REPORTS, sink, "pyarrow.dataset.write_dataset, S3FileSystem", rival)


def _bigquery(folder: Path, servers: ExitStack) -> Iterator[Contest]:
    emulator = servers.enter_context(Emulator())

    def sink(place: int) -> Sink:
        made = store(f"own_{place}", emulator)
        made.prepare({})
        return made

    def rival(place: int) -> Insert:
        return plain.bigquery(REPORTS, emulator, f"plain_{place}")

    yield Contest(
        "bigquery:// (bqemulator)", REPORTS, sink, "google-cloud-bigquery: load Parquet, MERGE", rival
    )


def _victoriametrics(folder: Path, servers: ExitStack) -> Iterator[Contest]:
    server = servers.enter_context(VictoriaMetricsServer(folder / "victoria"))

    def sink(place: int) -> Sink:
        return VictoriaMetrics(server.url, agent_id=True, labels=(("round", str(place)),))

    def rival(place: int) -> Insert:
        return lambda rows: plain.influx(rows, server.url, f"plain{place}")

    yield Contest(
        "victoriametrics+http:// with agent_id", AGGREGATIONS, sink, "influxdb-client, a data frame", rival
    )


PLACES: dict[str, Callable[[Path, ExitStack], Iterator[Contest]]] = {
    "folder": _folder,
    "s3": _objects,
    "bigquery": _bigquery,
    "victoriametrics": _victoriametrics,
}

if __name__ == "__main__":
    main()
