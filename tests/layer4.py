"""A Layer 4 in a thread of the test: see `pipelines.simulator`."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.simulator.clock import SimulatedClock
from pipelines.simulator.faults import Faults
from pipelines.simulator.offers import MOST_BEHIND, Offers
from pipelines.simulator.outages import Outages
from pipelines.simulator.reports import GeneratedReports, Reports, Schedule
from pipelines.simulator.server import Layer4
from pipelines.synthetic import KpiTestGenerator
from tests.patience import PATIENCE

START = 1_761_159_600_000_000
"""2025-10-22T19:00:00Z in microseconds since 1970."""


@dataclass(frozen=True)
class RunningLayer4:
    """Layer 4, and where it listens."""

    layer4: Layer4
    loop: asyncio.AbstractEventLoop
    host: str
    port: int
    secure: bool

    @property
    def export(self) -> str:
        """The URL of the export."""
        return f"http{'s' * self.secure}://{self.host}:{self.port}/kpi/export"

    @property
    def live(self) -> str:
        """The URL of the stream."""
        return f"ws{'s' * self.secure}://{self.host}:{self.port}/kpi/stream"

    def offered(self) -> list[bytes]:
        """Every report that was offered until now."""
        return list(self.layer4.offers.read(0, self.layer4.offers.end))

    def drop(self) -> None:
        """Drop all sockets."""
        self.loop.call_soon_threadsafe(self.layer4.sockets.drop)


def make_reports(schedule: Schedule, seed: int = 0, agents: int = 20, ties: float = 0.0) -> GeneratedReports:
    """Generated reports."""
    return GeneratedReports(KpiTestGenerator(agents=agents, seed=seed), schedule, ties)


@contextmanager
def run_layer4(
    *,
    rate: float = 0.0,
    history: int = 0,
    most: int | None = None,
    keep: int | None = None,
    ties: float = 0.0,
    seed: int = 0,
    start: int = START,
    speed: float = 1.0,
    monotonic: Callable[[], float] = time.monotonic,
    reports: Reports | None = None,
    record: Path | None = None,
    faults: str = "",
    fault_seed: int = 0,
    outages: Outages | None = None,
    most_behind: int = MOST_BEHIND,
    host: str = "localhost",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[RunningLayer4]:
    """A Layer 4 that offers `history` reports at once and `rate` a minute; the other parameters are those of
    `kpiflow simulate`."""
    schedule = Schedule(start, rate, history)
    every = make_reports(schedule, seed, ties=ties) if reports is None else reports
    offers = Offers(every, schedule, SimulatedClock(start, speed, monotonic), most, keep, record)
    layer4 = Layer4(offers, Faults.parse(faults, fault_seed), outages or Outages(), most_behind)
    offers.advance()
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()
    thread = threading.Thread(target=asyncio.run, args=(_serve(layer4, host, port, tls, ready),), daemon=True)
    thread.start()
    loop, stop, port = ready.result(20)
    try:
        yield RunningLayer4(layer4, loop, host, port, tls is not None)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)
        offers.close()


async def _serve(
    layer4: Layer4,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    ready: "Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]]",
) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(lambda *_: None)  # a handshake that is refused is part of tests
    runner, port = await layer4.listen(host, port, tls)
    offering = asyncio.create_task(layer4.offer())
    ready.set_result((loop, stop, port))
    await stop.wait()
    offering.cancel()
    layer4.sockets.end()
    await runner.cleanup()
