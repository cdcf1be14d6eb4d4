"""A relay that runs in a thread of the test, with short pauses."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from pipelines.jobs.relay import RelayJob, relay
from pipelines.relay.home import RelayStatus
from pipelines.relay.tls import TlsFiles
from pipelines.settings import Settings
from tests.patience import PATIENCE
from tests.pipelines.relay.layer4 import Layer4
from tests.servers import RedisServer

STREAM = "reports"


class EndError(Exception):
    """The test ends the relay."""


class Running:
    """A relay in a thread."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.status: RelayStatus | None = None
        self.error: BaseException | None = None

    def follow(self, status: RelayStatus) -> None:
        self.status = status
        if self.ended.is_set():
            raise EndError

    def wait(self, is_so: Callable[[RelayStatus], bool]) -> None:
        """Wait until the status says so."""
        wait_for(lambda: self.status is not None and is_so(self.status))


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, "it never is"
        time.sleep(0.02)


@contextmanager
def run_relay(
    layer4: Layer4, server: RedisServer, home: Path, live: bool = True, tls: TlsFiles | None = None
) -> Iterator[Running]:
    """Relay while the block runs."""
    running = Running()
    job = RelayJob(layer4.export, server.url, STREAM, home, layer4.live if live else None, tls)

    def run() -> None:
        try:
            relay(job, Settings(), running.follow)
        except EndError:
            pass
        except BaseException as error:
            running.error = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.ended.set()
        thread.join(PATIENCE)
    if running.error is not None:
        raise running.error


def shorten_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of a test are short."""
    monkeypatch.setattr("pipelines.relay.pace.LEAST_SECONDS", 0.0)
    for name, seconds in (("_END", 0.01), ("_SOON", 0.02), ("POLL", 0.05), ("_GRACE", 0.1)):
        monkeypatch.setattr(f"pipelines.relay.active.{name}_SECONDS", seconds)
    monkeypatch.setattr("transforms.core.retry.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("transforms.core.retry.LONGEST_PAUSE", 0.05)
    monkeypatch.setattr("pipelines.relay.live.FIRST_PAUSE", 0.01)  # before the next connection
    monkeypatch.setattr("pipelines.relay.live._STABLE_SECONDS", 0.0)
    monkeypatch.setattr("pipelines.jobs.relay._REPORT_SECONDS", 0.05)
    monkeypatch.setattr("pipelines.jobs.relay._WAIT_SECONDS", 0.05)


def read(client: redis.Redis) -> list[bytes]:
    """The messages in the stream."""
    entries: Any = client.xrange(STREAM)
    return [fields[b"data"] for _, fields in entries]
