"""Hostile messages through validate, backfill and reconcile, or into a Redis stream; what they cost, and
whether each has one fate.

    python -m tests.integration.hostile_run --messages 200000 --folder DIR [--seed N]
    python -m tests.integration.hostile_run --messages 20000 --redis URL --stream KEY [--seed N]

The first also judges every chunk by the strict reader alone and compares verdicts and columns with those of
both readers together. The second only sends; run `kpiflow stream --until-idle --archive`, `reconcile
--redis`, a backfill of the archive and `parity`.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import redis

from schemas.readers import fast_reader
from schemas.readers.verdicts import MessageLimits
from schemas.registry import load
from tests.builders import NOON
from tests.integration.archives import write
from tests.integration.hostile_shapes import STEP, mutated, payloads
from transforms.core.record_batches import split_by_rows
from transforms.envelopes.envelope_lines import is_blank, write_envelope
from transforms.sources.archives.archive_files import find_files
from transforms.sources.archives.archive_reader import Chunk, read_files
from transforms.validation.validate import Judged, MessageRules, judge_messages

FEW = 6


class Cost(NamedTuple):
    """What a process took: seconds on the clock and of the processor, and its largest memory in MB; and what
    it printed."""

    seconds: float
    processor: float
    peak_mb: int
    code: int
    out: str


def write_archive(folder: Path, messages: Iterable[bytes], seed: int = 0) -> int:
    """Archive the messages, in turn as lines of a mixed file, as envelopes with a string, and as rows;
    returns how many there are.

    The mixed file has bare lines, and envelopes whose data is written as it is, and such with broken bytes.
    """
    draw = random.Random(seed)
    mixed: list[bytes] = []
    strings: list[bytes] = []
    rows: list[tuple[str, datetime | None, bytes]] = []
    for number, payload in enumerate(messages):
        received = draw.choice(
            [None, NOON + number * STEP + timedelta(seconds=draw.choice([1, 1, 1, 7200, -90]))]
        )
        said = None if received is None else received.isoformat().replace("+00:00", "Z")
        message_id, kind = f"m{number}-{draw.getrandbits(64):x}", draw.randrange(4)
        plain = b'{"message_id":"%b","received_at":%b,"data":%b}' % (
            message_id.encode(),
            json.dumps(said).encode(),
            payload,
        )
        line = payload if kind == 0 else plain if draw.random() < 0.7 else mutated(draw, number, plain)
        if kind <= 1 and b"\n" not in line and not is_blank(line):
            mixed.append(line)
        elif kind <= 2:
            strings.append(write_envelope("hostile", message_id, said, payload))
        else:
            rows.append((message_id, received, payload))
    write(folder / "mixed.ndjson.zst", mixed)
    write(folder / "strings.ndjson.gz", strings)
    ids, times, data = zip(*rows)
    columns = {
        "message_id": pa.array(ids),
        "received_at": pa.array(times, pa.timestamp("us")),
        "data": pa.array(data, pa.binary()),
    }
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    return len(mixed) + len(strings) + len(rows)


def judged_strictly(messages: pa.RecordBatch) -> Judged:
    """The messages as the strict reader alone judges them."""
    both = fast_reader.read_block
    with mock.patch.object(
        fast_reader,
        "read_block",
        lambda root, payload, limits: both(root, payload, MessageLimits(payload_bytes=0)),
    ):
        return judge_messages(messages, load("kpi_report"), MessageRules())


def differences(folder: Path) -> Iterator[tuple[str, str]]:
    """Messages that both readers together judge otherwise than the strict one, or of which they make other
    columns.

    Whole chunks are judged, and a FEW at a time: the fast reader leaves to the strict one what is odd beside
    its neighbours.
    """
    for chunk in read_files(find_files([str(folder)])):
        if isinstance(chunk, Chunk):
            strict = _by_id([judged_strictly(chunk.messages)])
            for parts in ([chunk.messages], split_by_rows(chunk.messages, FEW)):
                found = _by_id([judge_messages(part, load("kpi_report"), MessageRules()) for part in parts])
                yield from (
                    name for name in found.keys() | strict.keys() if found.get(name) != strict.get(name)
                )


def _by_id(parts: Iterable[Judged]) -> dict[tuple[str, str], str]:
    rows = (row for part in parts for batch in part for row in batch.to_pylist())
    return {(row["source"], row["message_id"]): repr(row) for row in rows}


def kpiflow(*arguments: object) -> Cost:
    """Run a command in a process of its own."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss >> 10, process.returncode, out)


def run(folder: Path, count: int, seed: int) -> list[str]:
    """Archive hostile messages in an empty folder and bring them into an output; returns what is wrong, and
    prints the costs."""
    archive, out, problems = folder / "archive", folder / "out", []
    with ProcessPoolExecutor(
        1, get_context("spawn")
    ) as other:  # what this process holds would count as memory of the commands
        expected = other.submit(_archived, archive, count, seed).result()
    fates = {}
    for name, *options in (
        ("validate", archive, "--json"),
        ("backfill", "--input", archive, "--output", out),
        ("reconcile", out, "--input", archive, "--json"),
    ):
        cost = kpiflow(name, *options)
        print(
            f"{name:10} {cost.seconds:7.1f} s {cost.processor:7.1f} s of the processor {cost.peak_mb:6,} MB",
            flush=True,
        )
        problems += [f"{name} exits with {cost.code}: {cost.out[-400:]}"] if cost.code else []
        fates[name] = json.loads(cost.out) if "--json" in options and not cost.code else {}
    read, kept = fates["validate"], fates["reconcile"]
    if read and kept:
        said = (
            read["reports"] + read["duplicates"] + sum(read["refused"].values()),
            kept["received"],
        )
        problems += (
            [f"{expected} messages, but (validate, reconcile) have {said}"]
            if said != (expected, expected)
            else []
        )
        print(
            f"{expected:,} messages: {read['reports']:,} reports, "
            f"{read['duplicates']:,} duplicates, refused {read['refused']}"
        )
    return problems + [f"the readers differ on {name}" for name in differences(archive)]


def _archived(folder: Path, count: int, seed: int) -> int:
    return write_archive(folder, payloads(count, seed), seed)


def send(client: redis.Redis, stream: str, messages: Iterable[bytes], seed: int = 0) -> int:
    """Add the messages to a stream, some of them without a field `data`, or with two; returns how many there
    are."""
    draw, sent = random.Random(seed), 0
    for payload in messages:
        others = draw.choice([["data"]] * 97 + [["note"], ["data", "data"], ["note", "data"]])
        words = [word for name in others for word in (name, payload)]
        client.execute_command("XADD", stream, "*", *words)
        sent += 1
    return sent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of this module; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--redis")
    parser.add_argument("--stream", default="hostile")
    asked = parser.parse_args(arguments)
    if asked.redis:
        start = datetime.now(UTC) - timedelta(minutes=20)
        sent = send(
            redis.Redis.from_url(asked.redis),
            asked.stream,
            payloads(asked.messages, asked.seed, start),
            asked.seed,
        )
        print(f"{sent:,} messages sent to {asked.stream}")
        return 0
    if asked.folder is None:
        parser.error("give --folder or --redis")
    problems = run(asked.folder, asked.messages, asked.seed)
    print(*problems[:50], f"{len(problems)} problems", sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
