"""What Beam itself costs: the messages of an archive through the graph's two groupings, and no kernel; or the
same as a plain loop. Both in one process, and with batches in a spool.

python -m tests.benchmarks.empty FOLDER --without-beam
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.jobs.engines import LocalEngine
from pipelines.settings import load
from runners.memory import prepare_memory
from transforms.core import stage_counters
from transforms.core.batch_spool import BatchSpool
from transforms.core.grouping import split_rows
from transforms.sources.archives.archive_files import ArchiveFiles, find_files
from transforms.sources.archives.archive_reader import Chunk, ReadArchives, read_files

CHUNK_BYTES = load()[0].read_mb << 20
BLOCKS = 8
COUNTED = "counted"
Keyed = tuple[int, pa.RecordBatch]


def by_row(batch: pa.RecordBatch) -> Iterator[Keyed]:
    """The batch dealt out over as many keys as a run of two days has blocks, by row number."""
    return split_rows(batch, np.arange(batch.num_rows) % BLOCKS)


def again(block: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
    """The batches of a key, under it."""
    for batch in block[1]:
        yield block[0], batch


def count(block: tuple[int, Iterable[pa.RecordBatch]]) -> None:
    """Count the rows of the batches of a key."""
    stage_counters.add(COUNTED, rows=sum(batch.num_rows for batch in block[1]))


def with_beam(files: ArchiveFiles) -> int:
    """Read, key, group, key and group on the runner of a backfill: the messages that arrive."""

    def wire(root: beam.Pipeline) -> None:
        messages = (root | "Read" >> ReadArchives(files, CHUNK_BYTES)).messages
        keyed = messages | "Key" >> beam.FlatMap(by_row).with_output_types(Keyed)
        grouped = keyed | "Group" >> beam.GroupByKey()
        rekeyed = grouped | "Key again" >> beam.FlatMap(again).with_output_types(Keyed)
        _ = rekeyed | "Group again" >> beam.GroupByKey() | "Count" >> beam.Map(count)

    stage_counters.reset()
    LocalEngine().run(wire, near=None)
    return stage_counters.snapshot()[COUNTED].rows


def without_beam(files: ArchiveFiles) -> int:
    """Read and deal out twice in a loop, by the same spool and with memory set up alike: the messages that
    arrive."""
    prepare_memory()
    with TemporaryDirectory() as folder, closing(BatchSpool(Path(folder))) as spool:
        grouped, regrouped = defaultdict[int, list[bytes]](list), defaultdict[int, list[bytes]](list)
        for chunk in read_files(files, CHUNK_BYTES):
            if not isinstance(chunk, Chunk):
                raise SystemExit(f"{chunk.file} {chunk.reason}")
            for key, rows in by_row(chunk.messages):
                grouped[key].append(spool.write(rows))
        for key, references in grouped.items():
            regrouped[key] += [spool.write(spool.read(each)) for each in references]
        return sum(spool.read(each).num_rows for references in regrouped.values() for each in references)


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
