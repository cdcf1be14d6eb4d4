"""What encryption costs: backfill, reconcile and a query with and without it, in turns; and the same of an
archive: to write one as a stream does, in batches of 500 entries, and to backfill it.

    python -m tests.benchmarks.encryption --input ARCHIVE --folder bench --runs 3

CPU seconds are those of the command and its processes; of several runs the least is taken.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.record_batches import RAW
from transforms.encryption.key_ring import KeySource
from transforms.sinks.archive.archive_writer import ArchiveWriter
from transforms.sources.archives.archive_files import find_files
from transforms.sources.archives.archive_reader import Chunk, read_files
from transforms.storage.local_folder import LocalFolder

_NAMES = ("plain", "encrypted")


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="an archive")
    parser.add_argument("--folder", type=Path, required=True, help="where to write")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    folder = given.folder / "encryption"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    master = folder / "master.key"
    _run(["keys", "new", str(master)], {})
    key = {"KPIFLOW_MASTER_KEY": str(master)}
    entries = read_entries(given.input)
    for _ in range(given.runs):
        for name in _NAMES:
            _measure(folder / name, given.input, key, seconds)
            _measure_archive(folder / f"archive-{name}", entries, key, seconds)
    print(f"{'':14}{'plain':>10}{'encrypted':>12}{'ratio':>8}   CPU seconds, least of {given.runs}")
    for step in dict.fromkeys(step for step, _ in seconds):
        plain, encrypted = (min(seconds[step, name]) for name in _NAMES)
        print(f"{step:14}{plain:10.2f}{encrypted:12.2f}{encrypted / plain:8.2f}")
    sizes = [_size(folder / name) for name in _NAMES]
    print(f"{'MB':14}{sizes[0]:10.1f}{sizes[1]:12.1f}{sizes[1] / sizes[0]:8.2f}   of Parquet files")
    shutil.rmtree(folder)


def read_entries(archive: Path) -> pa.Table:
    """The messages (RAW) of an archive that are entries of streams, in the order of their ids."""
    chunks = [each for each in read_files(find_files([str(archive)])) if isinstance(each, Chunk)]
    messages = pa.Table.from_batches([each.messages for each in chunks])
    messages = messages.filter(pc.match_substring_regex(messages["message_id"], r"^\d+-\d+$"))
    for name, cut in (("millis", "-.*"), ("number", ".*-")):
        part = pc.replace_substring_regex(messages["message_id"], cut, "").cast(pa.int64())
        messages = messages.append_column(name, part)
    order = [("millis", "ascending"), ("number", "ascending")]
    return messages.sort_by(order).select(RAW.names).combine_chunks()


def _measure_archive(
    archive: Path, entries: pa.Table, key: Mapping[str, str], seconds: dict[tuple[str, str], list[float]]
) -> None:
    name = archive.name.removeprefix("archive-")
    shutil.rmtree(archive, ignore_errors=True)
    keys = KeySource(LocalFolder(archive), key["KPIFLOW_MASTER_KEY"]) if name == "encrypted" else None
    if keys is not None:
        keys.begin()
    writer, before = ArchiveWriter(archive, keys), time.process_time()
    for batch in entries.to_batches(500):
        writer.append(batch)
    seconds["write archive", name].append(time.process_time() - before)
    output = archive.with_name("from-archive")
    words = ["backfill", "--input", str(archive), "--output", str(output)]
    seconds["read archive", name].append(_run(words, key))
    shutil.rmtree(output)


def _measure(
    output: Path, archive: Path, key: Mapping[str, str], seconds: dict[tuple[str, str], list[float]]
) -> None:
    shutil.rmtree(output, ignore_errors=True)
    encrypt = ["--encrypt"] if output.name == "encrypted" else []
    for step, words in {
        "backfill": ["backfill", "--input", str(archive), "--output", str(output), *encrypt],
        "reconcile": ["reconcile", str(output), "--input", str(archive)],
        "query": ["query", str(output), "agent-summary", "--format", "csv"],
    }.items():
        seconds[step, output.name].append(_run(words, key))


def _run(words: Sequence[str], environment: Mapping[str, str]) -> float:
    """CPU seconds of a command and of all processes that it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pipelines.cli", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _size(output: Path) -> float:
    return sum(path.stat().st_size for path in output.rglob("*.parquet")) / 1e6


if __name__ == "__main__":
    main()
