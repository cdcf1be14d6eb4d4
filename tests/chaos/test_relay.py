"""Layer 4 through the relay: whatever its sockets do, each report that it ever offered is in the tables once.

RELAY_SECONDS is how long Layer 4 offers reports; its clock is as long in each run.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.integration.streaming import KEY, ROOT
from tests.patience import PATIENCE
from tests.servers import RedisServer, free_port

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
SECONDS = float(os.environ.get("RELAY_SECONDS", "600"))
PER_MINUTE = 10_000
"""Reports a minute of a real clock."""
SPAN = timedelta(minutes=200)
"""What the clock of Layer 4 runs through."""
GAP_BEGIN, GAP = timedelta(minutes=70), timedelta(minutes=66)
DROPS = round(26 * SECONDS / 600)
FAULTS = "429=0.01,500=0.01,cut=0.01,short=0.03,repeated=0.01,false-last=0.02,count=0.05"
STALE = ("--stale-seconds", "9000")
"""The first reports are too old for the stream when they are relayed, the others are not."""


@pytest.fixture
def offered(seed: int) -> int:
    """How many reports Layer 4 offers."""
    return int(PER_MINUTE * SECONDS / 60)


def test_each_report_that_layer_4_ever_offered_is_in_the_tables_once(
    tmp_path: Path, seed: int, offered: int
) -> None:
    port, record = free_port(), tmp_path / "record.ndjson"
    with RedisServer(tmp_path, appendonly=True) as server:
        relay = ["relay", "--export", f"http://127.0.0.1:{port}/kpi/export", "--redis", server.url]
        relay += ["--stream", KEY, "--archive", str(tmp_path / "late"), *STALE]
        with start(tmp_path / "layer4.log", *describe_layer4(port, record, seed, offered)) as layer4:
            with start(tmp_path / "relay.log", *relay, "--live", f"ws://127.0.0.1:{port}/kpi/stream") as live:
                wait_for_offers(record, offered, [layer4, live])
                live.send_signal(signal.SIGINT)
                assert live.wait(PATIENCE) == 130
            ask(*relay, "--once")
            layer4.send_signal(signal.SIGTERM)
            assert layer4.wait(PATIENCE) == 0
        ask("archive", "--redis", server.url, "--stream", KEY, "--output", tmp_path / "stream")
    said = (tmp_path / "layer4.log").read_text()
    print(said, (tmp_path / "relay.log").read_text()[-2000:], sep="\n")
    dropped = re.search(r"([\d,]+) dropped", said)
    assert dropped is not None
    assert int(dropped[1]) >= DROPS
    inputs = [f"{tmp_path}/stream/**", f"{tmp_path}/late/late-*.ndjson"]
    ask("backfill", "--input", *inputs, "--output", tmp_path / "out", *STALE)
    ask("reconcile", tmp_path / "out", "--input", *inputs)
    ask("backfill", "--input", record, "--output", tmp_path / "expected")
    found, expected = count_reports(tmp_path / "out"), count_reports(tmp_path / "expected")
    assert len(expected) == offered
    assert set(expected) - set(found) == set()
    assert found == expected


def describe_layer4(port: int, record: Path, seed: int, offered: int) -> Iterator[object]:
    """The words of a Layer 4 that drops its sockets, and whose stream is down for more than an hour."""
    speed = SPAN.total_seconds() / SECONDS
    every = (SPAN - GAP) / (DROPS + 4)
    yield from ("simulate", "--listen", f"127.0.0.1:{port}", "--seed", seed, "--agents", 200, "--ties", 0.2)
    yield from ("--start", (datetime.now(UTC) - SPAN).isoformat(), "--speed", speed, "--record", record)
    yield from ("--rate", PER_MINUTE / speed, "--reports", offered, "--faults", FAULTS, "--fault-seed", seed)
    yield from ("--drop-every", f"{every.total_seconds():.0f}s")
    yield from ("--stream-down-after", f"{GAP_BEGIN.total_seconds():.0f}s")
    yield from ("--stream-down-for", f"{GAP.total_seconds():.0f}s")


@contextmanager
def start(log: Path, *words: object) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which ends with the block; what it prints goes to a file."""
    command = [sys.executable, "-m", "pipelines.cli", *map(str, words)]
    with log.open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait(PATIENCE)


def wait_for_offers(record: Path, offered: int, alive: list[subprocess.Popen[str]]) -> None:
    """Wait until Layer 4 has offered so many reports."""
    end = time.monotonic() + 2 * SECONDS + PATIENCE
    while not record.exists() or count_lines(record) < offered:
        assert all(process.poll() is None for process in alive), "Layer 4 or the relay ended"
        assert time.monotonic() < end, "Layer 4 does not offer what it should"
        time.sleep(2)


def count_lines(path: Path) -> int:
    """The lines of a file."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def ask(*words: object) -> None:
    """Run a command that ends well."""
    command = [sys.executable, "-m", "pipelines.cli", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"


def count_reports(output: Path) -> Counter[bytes]:
    """How often each report_id is in kpi_reports."""
    table = ds.dataset(output / "kpi_reports", format="parquet").to_table(columns=["report_id"])
    return Counter(table["report_id"].to_pylist())
