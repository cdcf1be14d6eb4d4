"""What Beam itself costs: the messages of an archive through the graph's two groupings, and no kernel; or the
same as a plain loop.

python -m tests.benchmarks.empty FOLDER --without-beam
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.jobs.engines import LocalEngine
from pipelines.settings import load
from runners import direct
from transforms.core import stage_counters
from transforms.core.grouping import split_rows
from transforms.sources.archives.archive_files import Files, find_files
from transforms.sources.archives.archive_reader import Chunk, ReadArchives, read_files

SETTINGS = load()[0]
CHUNK_BYTES = SETTINGS.read_mb << 20
COUNTED = "counted"
KEYS = 8
Keyed = tuple[int, pa.RecordBatch]


def by_row(batch: pa.RecordBatch) -> Iterator[Keyed]:
    """The batch dealt out over some keys, by row number."""
    return split_rows(batch, np.arange(batch.num_rows) % KEYS)


def again(shard: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
    """The batches of a shard, under its key."""
    for batch in shard[1]:
        yield shard[0], batch


def count(shard: tuple[int, Iterable[pa.RecordBatch]]) -> None:
    """Count the rows of a shard's batches."""
    stage_counters.add(COUNTED, rows=sum(batch.num_rows for batch in shard[1]))


def with_beam(files: Files) -> int:
    """Read, key, group, key and group on the runner of a backfill: the messages that arrive."""

    def build(root: beam.Pipeline) -> None:
        messages = (root | "Read" >> ReadArchives(files, CHUNK_BYTES, readers=1)).messages
        keyed = messages | "Key" >> beam.FlatMap(by_row).with_output_types(Keyed)
        grouped = keyed | "Group" >> beam.GroupByKey()
        rekeyed = grouped | "Key again" >> beam.FlatMap(again).with_output_types(Keyed)
        _ = rekeyed | "Group again" >> beam.GroupByKey() | "Count" >> beam.Map(count)

    stage_counters.reset()
    LocalEngine().run(build, None)
    return stage_counters.snapshot()[COUNTED].rows


def without_beam(files: Files) -> int:
    """Read and deal out in a loop that keeps every batch, with memory set up alike: the messages that
    arrive."""
    direct.prepare_memory()
    shards: dict[int, list[pa.RecordBatch]] = defaultdict(list)
    for chunk in read_files(files, CHUNK_BYTES):
        if not isinstance(chunk, Chunk):
            raise SystemExit(f"{chunk.file} {chunk.reason}")
        for shard, rows in by_row(chunk.messages):
            shards[shard].append(rows)
    return sum(batch.num_rows for batches in shards.values() for batch in batches)


def main() -> None:
    """Print the messages and the seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source")
    parser.add_argument("--without-beam", action="store_true", help="the same as a plain loop")
    arguments = parser.parse_args()
    start = time.perf_counter()
    messages = (without_beam if arguments.without_beam else with_beam)(find_files([arguments.source]))
    print(json.dumps({"seconds": time.perf_counter() - start, "messages": messages}))


if __name__ == "__main__":
    main()
