"""Measure how small the tables of an output can be stored, against the JSON of its messages.

Prints a line of Markdown for each way of storing a table: bytes, the ratio to the JSON of the messages of its
rows, and seconds of CPU to write them. A table is put together in the order of a sealed day, in memory.

    python -m tests.benchmarks.storage ARCHIVE OUT
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.kinds import KIND_OF_TABLE
from schemas.tables import REPORT, REPORTS, RESULTS, TASKS, Table
from transforms.core.record_batches import concat
from transforms.sinks.parquet.day_file import FILTERED_COLUMNS, LEVEL, ROW_GROUP
from transforms.sinks.parquet.parquet_file import DICTIONARY_COLUMNS, STATISTICS_COLUMNS, read_file

FLOATS = pa.types.is_float64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    raw = count_raw(arguments.archive)
    for table in (REPORTS, TASKS, RESULTS):
        measure(table, arguments.output, *raw.get(KIND_OF_TABLE[table.name].stream, (0, 0)))


def count_raw(archive: Path) -> dict[str, tuple[int, int]]:
    """By source, how many messages the NDJSON files of an archive have, and the bytes of their JSON."""
    found: dict[str, tuple[int, int]] = {}
    for path in sorted(archive.glob("*.ndjson")):
        with path.open("rb") as lines:
            for line in lines:
                message = json.loads(line)
                source, data = message["source"], message["data"]
                size = len(data if isinstance(data, str) else json.dumps(data, separators=(",", ":")))
                count, total = found.get(source, (0, 0))
                found[source] = count + 1, total + size
    return found


def measure(table: Table, output: Path, messages: int, raw: int) -> None:
    """Print a line for each way of storing a table; `raw` bytes are those of `messages` messages."""
    files = sorted((output / table.name).glob("date=2*/**/*.parquet"))
    if not files or not messages:
        return
    batches = [read_file(path) for path in files]
    hours = sum(path.stat().st_size for path in files)
    rows = concat(batches)
    rows = rows.take(pc.sort_indices(rows, [(name, "ascending") for name in table.file_order]))
    size = raw / messages * rows.num_rows
    show(table, f"JSON, {raw / messages:,.0f} bytes a message", size, size, 0)
    show(table, f"{len(files)} files of hours", hours, size, 0)
    for name, part, options in list_ways(rows):
        began = time.process_time()
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_batches([part]), sink, row_group_size=ROW_GROUP, **options)
        show(table, name, sink.tell(), size, time.process_time() - began)


def list_ways(rows: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch, Mapping[str, Any]]]:
    """Ways of storing: a name, the rows, and the options of pyarrow's writer."""
    filters = {
        name: {"ndv": ROW_GROUP, "fpp": 0.01} for name in FILTERED_COLUMNS if name in rows.schema.names
    }
    plain: dict[str, Any] = {
        "compression": "zstd",
        "use_dictionary": DICTIONARY_COLUMNS,
        "write_statistics": STATISTICS_COLUMNS,
    }
    for level in (1, 3, 6, 9, 12):
        yield f"one file, zstd {level}", rows, plain | {"compression_level": level}
    chosen = plain | {"compression_level": LEVEL}
    yield f"zstd {LEVEL}, Bloom filters: a sealed day", rows, chosen | {"bloom_filter_options": filters}
    yield f"zstd {LEVEL}, a dictionary on every column", rows, chosen | {"use_dictionary": True}
    floats = [field.name for field in rows.schema if FLOATS(field.type)]
    split = {"use_byte_stream_split": floats, "use_dictionary": DICTIONARY_COLUMNS}
    yield f"zstd {LEVEL}, byte-stream split of floats", rows, chosen | split
    if "latency_low_fence" in rows.schema.names:
        kept = rows.select([name for name in rows.schema.names if name in {*REPORT.names, "revision"}])
        yield f"zstd {LEVEL}, without what can be computed again", kept, chosen


def show(table: Table, name: str, size: float, raw: float, seconds: float) -> None:
    """Print a line."""
    print(f"| {table.name} | {name} | {size / 1e6:,.1f} MB | {raw / size:.1f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
