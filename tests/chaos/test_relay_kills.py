"""A relay that is killed again and again, at a Layer 4 with every fault, loses no report."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs.relay import LEASE_SECONDS
from tests.patience import PATIENCE
from tests.pipelines.relay.running import wait_for
from tests.servers import RedisServer, free_port
from transforms.envelopes.envelope_lines import read_line

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

STREAM = "reports"
FAULTS = "429=0.05,500=0.05,cut=0.05,short=0.05,repeated=0.05,false-last=0.05,count=0.05"


class Programs:
    """Programs of a test; they end with it."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.folder, self.server, self.port = folder, server, free_port()
        self.record = folder / "offered.ndjson"
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{words[0]}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        self.running.append(process)
        return process

    def simulate(self, *words: str) -> subprocess.Popen[bytes]:
        listen = ("--listen", f"127.0.0.1:{self.port}", "--record", str(self.record))
        return self.start("simulate", *listen, *words)

    def relay(self, *words: str, home: str = "relay") -> subprocess.Popen[bytes]:
        place = ("--redis", self.server.url, "--stream", STREAM, "--archive", str(self.folder / home))
        export = f"http://127.0.0.1:{self.port}/kpi/export"
        return self.start("relay", "--export", export, *place, *words)

    @property
    def live(self) -> tuple[str, str]:
        return "--live", f"ws://127.0.0.1:{self.port}/kpi/stream"

    def count(self) -> int:
        with self.server.client() as client:
            return int(client.xlen(STREAM))

    def read(self) -> list[bytes]:
        """The reports in the stream and in the archive of late ones."""
        with self.server.client() as client:
            entries: Any = client.xrange(STREAM)
        lines = [
            line for path in self.folder.glob("*/late-*.ndjson") for line in path.read_bytes().splitlines()
        ]
        late = [envelope.data for line in lines if (envelope := read_line(line)) is not None]
        return [fields[b"data"] for _, fields in entries] + late

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait(PATIENCE)


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(tmp_path, appendonly=True))
        programs = Programs(tmp_path, server)
        stack.callback(programs.end)
        yield programs


def test_kills_at_random_moments_lose_no_report_of_a_faulty_layer4(programs: Programs, seed: int) -> None:
    draw = random.Random(seed)
    programs.simulate(
        "--rate", "10000", "--history", "3000", "--faults", FAULTS, "--fault-seed", str(seed),
        "--ties", "0.2", "--drop-every", "3s",
    )  # fmt: skip
    wait_for(programs.record.exists)
    for _ in range(6):
        relay = programs.relay(*programs.live)
        before = programs.count()
        wait_for(lambda: programs.count() > before)  # noqa: B023 (called at once)
        time.sleep(draw.uniform(0, 2))
        relay.kill()
        relay.wait(PATIENCE)
    assert programs.relay("--once").wait(PATIENCE) == 0
    offered = programs.record.read_bytes().splitlines()
    found = set(programs.read())
    kept = offered[: len(offered) - 2000]  # the simulator goes on
    assert len(kept) > 3000
    assert [each for each in kept if each not in found] == []
    assert found <= set(programs.record.read_bytes().splitlines())


def test_another_relay_takes_over_after_a_kill_and_waits_for_the_lease_alone(programs: Programs) -> None:
    programs.simulate("--rate", "3000")
    first = programs.relay(*programs.live, home="first")
    wait_for(lambda: programs.count() > 0)
    programs.relay(*programs.live, home="second")
    log = programs.folder / "relay.log"
    wait_for(lambda: b"waiting" in log.read_bytes())
    first.send_signal(signal.SIGKILL)
    first.wait(PATIENCE)
    with programs.server.client() as client:
        (lease,) = client.keys("kpiflow:*:owner")
        assert client.pttl(lease) <= 1000 * LEASE_SECONDS  # after that, whoever waits has it
    before = programs.count()
    wait_for(lambda: programs.count() > before)
