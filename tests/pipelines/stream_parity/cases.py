"""One random case: a stream with restarts, and a backfill of the same messages, compared table by table."""

import shutil
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

from pipelines.cli import run
from pipelines.jobs.derive import derive, make_deriver
from pipelines.settings import Settings
from pipelines.verify.parity import compare_outputs
from pipelines.verify.table_scan import scan
from schemas.tables import Table
from tests.integration.archives import write
from tests.outputs import open_output
from tests.pipelines.stream_parity.deliveries import Streams, deliver, go_back, list_times, read
from tests.pipelines.stream_parity.memory_stream import Run
from transforms.derived.registry import TABLES

_VALUES: dict[str, Any] = {
    "min_samples": 4, "iqr_factor": 1.0, "shards": 2, "context_hours": 4, "fit_reports": 20,
    "correlation_reports": 3, "patience_seconds": 1,
}  # fmt: skip


def compare_case(seed: int, folder: Path) -> dict[str, list[str]]:
    """The differences between the outputs of a stream and of a backfill, by table."""
    random = Random(seed)
    streams = deliver(random, folder / "world")
    streamed, backfilled = folder / "streamed", folder / "backfilled"
    settings = Settings(**_VALUES, file_minutes=random.choice([5, 10]))
    open_output(streamed, settings, create=True)
    run_stream(random, streams, streamed, settings)
    derive(streamed, make_deriver(streamed, settings.derived_settings()))
    backfill(random, streams, backfilled)
    compared = compare_outputs(streamed, backfilled, identity=True)
    differences = {
        name: [f"{each.rows_a} and {each.rows_b} rows: {difference}" for difference in each.differences]
        for name, each in compared.items()
        if not each.same
    }
    for table in TABLES:
        if read_rows(streamed, table.table) != read_rows(backfilled, table.table):
            differences.setdefault(table.table.name, ["the rows are not exactly equal"])
    return differences


def run_stream(random: Random, streams: Streams, output: Path, settings: Settings) -> None:
    """Stream all messages into an output, in two or three jobs one after the other.

    A job that dies goes on from a checkpoint. The state of a checkpoint is what the same reads give again,
    over the same stored rows. A job that ends by itself has written all that it read; the next one begins
    without a checkpoint, some time before the group's offset. (A death without a checkpoint cannot be shown
    here: how much a job has written by then depends on real time, and hours pass between two reads.)
    """
    times = list_times(random, streams, random.randint(4, 7))
    stored = copy_output(output)
    done = read(random, streams, dict.fromkeys(streams, 0), times)
    for _ in range(random.choice([1, 1, 2])):
        last = random.randint(min(2, len(done)), len(done))
        steps = [step for step, _ in done[:last]]
        if random.random() < 0.5:
            Run(output, stored, steps, random.randint(1, 60)).start(settings)
            kept = random.randrange(last)
            positions, since = done[kept][1], times[kept]
            done, times = done[: kept + 1], times[: kept + 1]
        else:
            Run(output, stored, steps).start(settings)
            positions, since = done[last - 1][1], times[last - 1]
            positions = go_back(streams, positions, settings.reread_seconds)
            done, times, stored = [], [], copy_output(output)
        derive_some(random, output, settings, [*times, since])
        rest = list_times(random, streams, random.randint(2, 4), since)
        done, times = done + read(random, streams, positions, rest), times + rest
    Run(output, stored, [step for step, _ in done]).start(settings)


def copy_output(output: Path) -> Path:
    """The output as it is now, for recall."""
    copy = output.with_name(f"{output.name}-{sum(1 for _ in output.parent.iterdir())}")
    return Path(shutil.copytree(output, copy))


def derive_some(random: Random, output: Path, settings: Settings, times: list[datetime]) -> None:
    """Derive what a stream derives beside itself, up to some watermark."""
    if random.random() < 0.3:
        derive(output, make_deriver(output, settings.derived_settings()), random.choice(times))


def backfill(random: Random, streams: Streams, output: Path) -> None:
    """Backfill the same messages from archives with their lines in random order."""
    lines = [message.as_line() for messages in streams.values() for message in messages]
    random.shuffle(lines)
    cut = random.randrange(len(lines))
    archive = output.with_name("archive")
    for name, part in (("a", lines[:cut]), ("b", lines[cut:])):
        write(archive / f"{name}.ndjson", part)
    words = [word for name, value in _VALUES.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += ["--workers", "1", "--block-hours", random.choice(["1", "2", "24"])]
    words += ["--derive", "always", "--file-minutes", random.choice(["30", "60"])]
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        assert run(["backfill", "--input", str(archive), "--output", str(output), *words]) == 0


def read_rows(output: Path, table: Table) -> list[dict[str, Any]]:
    """All rows of a table, in the order of its key."""
    rows = [row for batch in scan(output, table) for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: [str(row[name]) for name in table.key])
