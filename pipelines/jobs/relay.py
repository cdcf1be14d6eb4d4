"""The relay: Layer 4's export and socket into a Redis stream, until it is stopped or, if asked to, drained.

Of several relays on one stream the one with the lease is active; the others wait for it. A relay that lost
the lease without noticing adds nothing: the cursor has another token then (`pipelines.relay.cursor`).
"""

import asyncio
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from pipelines.connections import connect_redis
from pipelines.failures import WrongUse
from pipelines.jobs.lock import lock_folders
from pipelines.jobs.run_record import RunKeeper, begin_run, keep_run
from pipelines.metrics.server import Address, serve_pages
from pipelines.relay.active import ActiveRelay
from pipelines.relay.cursor import Cursor, RelayedStream, Superseded
from pipelines.relay.delivery import Delivery
from pipelines.relay.export import ExportReader
from pipelines.relay.handshake import read_expiry
from pipelines.relay.home import FOLDER, RelayStatus, Situation
from pipelines.relay.late import LateReports
from pipelines.relay.live import LiveReader
from pipelines.relay.metrics import make_relay_pages
from pipelines.relay.session import open_session
from pipelines.relay.tls import Tls, TlsFiles, check_url
from pipelines.settings import Settings
from runners.progress import Progress
from transforms.core.errors import Refused, Unavailable
from transforms.redis.connection import Connection
from transforms.sources.redis.lease import RedisLease
from transforms.sources.source import GroupTaken

GROUP = "layer4-relay"
"""The relay's lease of a stream is that of a group of this name."""
LEASE_SECONDS = 6.0
"""After so long without a sign of life another relay takes over."""
_WAIT_SECONDS, _REPORT_SECONDS = 1.0, 1.0
_REDIS_SECONDS, _REDIS_PATIENCE = 10.0, 2.0
"""A reply of Redis that takes longer is lost, and the command repeated; then so does the relay."""


@dataclass(frozen=True)
class RelayJob:
    """What a relay is asked to do, beside the settings. It keeps its own files and late reports in `home`."""

    export: str
    url: str
    stream: str
    home: Path
    live: str | None = None
    tls: TlsFiles | None = None
    once: bool = False
    metrics: str | None = None

    def check(self) -> None:
        """Check the URLs and the files of TLS.

        Raises:
            Layer4Refused: one cannot be used.
        """
        check_url(self.export, ("https", "http"), self.tls is not None)
        if self.live is not None:
            check_url(self.live, ("wss", "ws"), self.tls is not None)
        if self.tls is not None:
            self.tls.make_context()


def relay(job: RelayJob, settings: Settings, follow: Callable[[RelayStatus], None]) -> RelayStatus:
    """Relay until interrupted, or drained; `follow` gets the status each second.

    Raises:
        WrongUse: Layer 4, Redis or the folder cannot be used.
        KeyboardInterrupt: it was interrupted.
    """
    connection = replace(connect_redis(job.url, settings), timeout=_REDIS_SECONDS)
    folder = job.home.absolute() / FOLDER
    address = Address.parse(job.metrics, settings) if job.metrics else None
    try:
        job.check()
        connection.check([job.stream])
        _make_folder(folder)
        with lock_folders(job.home), ExitStack() as served:
            begin_run(folder, 0, 0)
            with keep_run(folder) as keeper:
                running = RunningRelay(job, connection, settings.stale_seconds, keeper, follow)
                running.status().write(job.home)
                if address is not None:
                    served.enter_context(serve_pages(address, make_relay_pages(job.home, keeper.is_alive)))
                asyncio.run(running.run())
                return running.status()
    except asyncio.CancelledError:  # SIGTERM
        raise KeyboardInterrupt from None
    except (Refused, Unavailable) as error:
        raise WrongUse(str(error)) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUse(
            f"{folder.parent} cannot be used: {error}", "name another folder with --archive"
        ) from error


class RunningRelay:
    """A relay's process: waits for the lease, is active, and waits again if another relay takes it."""

    def __init__(
        self,
        job: RelayJob,
        connection: Connection,
        stale_seconds: float,
        keeper: RunKeeper,
        follow: Callable[[RelayStatus], None],
    ) -> None:
        self._job, self._connection, self._keeper, self._follow = job, connection, keeper, follow
        self._stale_seconds = stale_seconds
        owner = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}"
        self._lease = RedisLease(connection, GROUP, [job.stream], owner, LEASE_SECONDS)
        self._stream = self._open_stream()
        self._late = LateReports(job.home, job.stream)
        self._tls = Tls(job.tls)
        self.situation = Situation()

    async def run(self) -> None:
        """Relay until cancelled, or drained.

        Raises:
            Layer4Refused: Layer 4 cannot be read.
            OutputFull: the archive's disk is full.
        """
        main = asyncio.current_task()
        assert main is not None
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
        try:
            await run_until_first(self._relay_on(), self._report())
        finally:
            self.status().write(self._job.home)
            self._stream.close()

    def status(self) -> RelayStatus:
        """How it does now."""
        job = self._job
        backfill = self._late.describe_backfill() if self._late.has_any() else None
        return RelayStatus(
            True, time.time(), job.export, job.live, self._connection.public, job.stream,
            self.situation, dict(self._stream.cursor.totals), backfill,
        )  # fmt: skip

    async def _relay_on(self) -> None:
        async with open_session() as session:
            while True:
                self.situation.state = "waiting"
                await self._take_lease()
                self.situation.state = "relaying"
                try:
                    await run_until_first(self._keep_lease(), self._relay(session))
                    return
                except Superseded:
                    continue
                finally:
                    with suppress(Unavailable):  # it expires by itself
                        await asyncio.to_thread(self._lease.release)

    async def _relay(self, session: aiohttp.ClientSession) -> None:
        """Relay as the active one, from the cursor on. What was known before is forgotten: Redis may have
        gone back. A command that is still on its way from before has another token, and adds nothing."""
        self._stream.close()
        self._stream = self._open_stream()
        cursor = await self._claim()
        notice, job = self._notice, self._job
        reader = ExportReader(job.export, self._tls, session, lambda text: notice("export_error", text))
        live = None
        if job.live is not None and not job.once:
            live = LiveReader(
                job.live, self._tls, session, lambda text: notice("live_error", text), self._note_connection
            )
        delivery = Delivery(
            self._stream, self._late, self._stale_seconds, lambda text: notice("redis_error", text)
        )
        active = ActiveRelay(cursor, reader, live, delivery, self.situation)
        if job.once:
            await active.drain_export()
        elif live is None:
            await active.follow_export()
        else:
            await run_until_first(active.follow_export(), active.follow_live(), live.run())

    def _open_stream(self) -> RelayedStream:
        return RelayedStream(self._connection, self._job.stream, _REDIS_PATIENCE)

    async def _claim(self) -> Cursor:
        while True:
            try:
                return await asyncio.to_thread(self._stream.claim)
            except Unavailable as error:
                self.situation.redis_error = str(error)
                await asyncio.sleep(_WAIT_SECONDS)

    async def _take_lease(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._lease.renew)
                self.situation.redis_error = None
                return
            except GroupTaken:
                self.situation.redis_error = None
            except Unavailable as error:
                self.situation.redis_error = str(error)
            await asyncio.sleep(_WAIT_SECONDS)

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                with suppress(Unavailable):  # the token of the cursor keeps others and us apart
                    await asyncio.to_thread(self._lease.renew)
            except GroupTaken as error:
                raise Superseded(str(error)) from error

    async def _report(self) -> None:
        while True:
            with suppress(OSError, ValueError):
                if self._tls.files is not None:
                    expiry = read_expiry(self._tls.files.certificate)
                    self.situation.certificate_until = expiry.timestamp()
            status = self.status()
            status.write(self._job.home)
            self._keeper.follow(
                Progress(self.situation.state, failure=next(iter(self.situation.problems), None))
            )
            self._follow(status)
            await asyncio.sleep(_REPORT_SECONDS)

    def _notice(self, name: str, text: str | None) -> None:
        setattr(self.situation, name, text)

    def _note_connection(self, is_open: bool) -> None:
        self.situation.connected = is_open
        self.situation.connections += is_open


async def run_until_first(*works: Coroutine[Any, Any, None]) -> None:
    """Run works until the first one ends, and cancel the others; raises what it raised."""
    tasks = [asyncio.create_task(each) for each in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
