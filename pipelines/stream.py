"""The streaming job: Redis streams through the graph on Flink, into outputs, until it is stopped.

All that a run keeps lies in `_stream` below its home, which is its first output folder unless another is given: Flink's
checkpoints, logs, `job.json`, which says what the checkpoints belong to, and what readers and writers say of their place. The next
run goes on from the newest checkpoint.
"""

import json
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
from redis import RedisError

from pipelines.backfill import only_job
from pipelines.connectors import Live, gathered, redis, running
from pipelines.failures import RunFailed, WrongUse
from pipelines.graph import Sources, build
from pipelines.health import BEFORE, FOLDER, JOB, READERS, SINKS, health
from pipelines.outputs import Outputs, open_outputs
from pipelines.settings import Settings
from runners import flink
from runners.checkpoints import forget_others
from runners.jars import refuse_missing
from transforms.access import LIVE_STREAMS
from transforms.history import FUTURE_SECONDS
from transforms.redis import Connection, GroupTaken, Lease, RedisUnavailable
from transforms.sinks.archive import WriteArchive
from transforms.sinks.storage import replace as replace_file
from transforms.sources.check import refuse_unusable
from transforms.sources.reader import WATERMARK_DELAY_SECONDS

Progress = flink.Progress
"""How a run does."""
_RENEWAL_TIMEOUT_SECONDS = 2.0
PATIENCE = 15.0
"""Seconds in which the processes of a run that was killed can end."""
GRAPH_VERSION = 3
"""Raised when the graph or what it keeps in checkpoints changes, so that an older checkpoint is refused and not half restored."""


@dataclass(frozen=True)
class Job:
    """What a streaming job is asked to do, beside the settings."""

    url: str
    streams: tuple[str, ...]
    group: str
    outputs: tuple[str, ...]
    home: Path
    archive: Path | None = None
    live: bool = False
    fresh: bool = False
    until_idle: bool = False
    master: str | None = None
    environment: str | None = None
    beam_options: tuple[str, ...] = ()


def stream(job: Job, settings: Settings, follow: Callable[[Progress], None]) -> None:
    """Run the job until it is interrupted or, if it should, idle; `follow` is told how it does, about once a second.

    Raises:
        WrongUse: an output or the group is another job's, the checkpoints belong to another graph; an output, or Redis, cannot be
            used.
        RunFailed: the engine gave up; the same call goes on from the newest checkpoint.
        KeyboardInterrupt: it was interrupted, and a last checkpoint was made.
    """
    connection = redis(job.url, settings)
    refuse_unready(settings)
    try:
        refuse_unusable(connection, job.streams, job.group, LIVE_STREAMS if job.live else ())
        outputs, settings = open_outputs(job.outputs, settings, file_minutes=1)
        settings = for_stream(settings)
        job.home.mkdir(parents=True, exist_ok=True)
        with only_job(job.home, *outputs.folders, patience=PATIENCE) as locks:
            owner = _described(job, outputs, connection, settings)
            with _leased(connection, job, owner) as lease:
                _run(job, outputs, connection, settings, lease, locks, follow)
    except (RedisUnavailable, GroupTaken, flink.FlinkMissing, flink.TakenOptionError, flink.CheckpointRefused) as error:
        raise WrongUse(str(error)) from error
    except flink.FlinkFailed as error:
        raise RunFailed(str(error), "run the same command again: it goes on from the newest checkpoint") from error


def _run(
    job: Job,
    outputs: Outputs,
    connection: Connection,
    settings: Settings,
    lease: Lease,
    locks: tuple[int, ...],
    follow: Callable[[Progress], None],
) -> None:
    folder = job.home.absolute() / FOLDER
    engine = flink.Engine(
        folder,
        settings.checkpoint_seconds,
        settings.parallelism,
        settings.workers,
        job.master,
        job.environment,
        patience_seconds=settings.patience_seconds,
        heap_mb=settings.heap_mb,
        renew_seconds=settings.renew_seconds,
        beam_options=job.beam_options,
        hold=locks,
    )
    idle = _Idle(job.home, connection, settle_seconds(settings.flush_seconds, outputs.gather_seconds))

    renewal = _Renewal(lease)

    def watched(progress: Progress) -> None:
        follow(progress)
        renewal.renew()
        if job.until_idle and idle.reached(progress):
            signal.raise_signal(signal.SIGINT)

    try:
        flink.run(lambda root: _build(root, job, outputs, connection, settings, lease.owner), engine, watched)
    except KeyboardInterrupt:
        if not idle.is_reached:
            raise


def _build(root: beam.Pipeline, job: Job, outputs: Outputs, connection: Connection, settings: Settings, owner: str) -> None:
    """Wire the streaming graph. Each renewal calls this again: a transform belongs to one pipeline only."""
    folder = job.home.absolute() / FOLDER
    archive = job.archive and job.archive.absolute()
    live = Live(connection, job.streams, job.group, settings, owner, folder / READERS, outputs.gather_seconds, archive)
    sources = Sources(live)
    sinks = gathered(outputs, settings, folder / SINKS, connection if job.live else None)
    if archive is not None:
        sinks = replace(sinks, archive=WriteArchive(archive))
    build(root, sources, sinks, settings, running(outputs, settings))


class _Renewal:
    """Renews the lease while no reader does: as long as an output is away, or the job starts. Redis may be away too."""

    def __init__(self, lease: Lease) -> None:
        quick = replace(lease.connection, timeout=_RENEWAL_TIMEOUT_SECONDS)
        self._lease, self._client, self._due = lease, quick.client(patience=0), time.monotonic()

    def renew(self) -> None:
        """Renew it if it is time.

        Raises:
            GroupTaken: another job has it.
        """
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._lease.seconds / 3
            with suppress(RedisError):
                self._lease.renew(self._client)


class _Idle:
    """Finds out when all that came is in the tables: for some seconds nothing was left to read and no output wrote a row.

    Rows can be on their way for minutes after the last message was read, where the machine is busy or outputs are slow.
    """

    def __init__(self, home: Path, connection: Connection, needed: float) -> None:
        self._home, self._needed = home, needed
        self._client = connection.client(patience=0)  # an interruption must not wait until Redis is back
        self._seen, self._since = (-1, -1), time.monotonic()
        self.is_reached = False

    def reached(self, progress: Progress) -> bool:
        found = health(self._home, self._client)
        seen = found.read, sum(sink.rows for sink in found.sinks)
        busy = found.lag != 0 or seen != self._seen or any(sink.waiting_since for sink in found.sinks)
        if progress.state != "running" or busy or not self._answers():
            self._seen, self._since = seen, time.monotonic()
        self.is_reached = self.is_reached or time.monotonic() - self._since >= self._needed
        return self.is_reached

    def _answers(self) -> bool:
        """Whether Redis can be asked: else the lag is what it was."""
        try:
            return bool(self._client.ping())
        except RedisError:
            return False


def settle_seconds(flush_seconds: int, gather_seconds: int) -> int:
    """How long after the last message all tables hold it: a 5 s window ends and is gathered, an hour's early pane is due, and the
    slowest output gathers."""
    return max(WATERMARK_DELAY_SECONDS + 5 + flush_seconds, 3 * flush_seconds + 1) + gather_seconds + 5


def refuse_unready(settings: Settings) -> None:
    """What a stream asks of the settings and of this machine.

    Raises:
        WrongUse: a setting does not suit a stream, or there is no Java, or no Flink.
    """
    for_stream(settings)
    try:
        refuse_missing()
    except flink.FlinkMissing as error:
        raise WrongUse(str(error)) from error


def for_stream(settings: Settings) -> Settings:
    """The settings of a stream.

    One shard keeps batches whole where one task does all; more tasks need some shards each to be evenly loaded.

    Raises:
        WrongUse: a setting would make baselines inexact.
    """
    if settings.future_seconds > FUTURE_SECONDS:
        raise WrongUse(
            f"future_seconds is {settings.future_seconds}: the baselines of a stream are exact up to {FUTURE_SECONDS}",
            f"give a stream at most --future-seconds {FUTURE_SECONDS}",
        )
    if "shards" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"shards": 1 if settings.parallelism == 1 else 4 * settings.parallelism})


@contextmanager
def _leased(connection: Connection, job: Job, owner: str) -> Iterator[Lease]:
    """Hold the group for this output. The readers renew the lease as they read, and this command where they cannot."""
    lease = Lease(connection, job.group, job.streams, owner)
    lease.acquire()
    try:
        yield lease
    finally:
        with suppress(RedisError):  # it runs out by itself
            lease.release()


def _described(job: Job, outputs: Outputs, connection: Connection, settings: Settings) -> str:
    """Keep, or check, what the checkpoints of the job belong to; the job's own name among the owners of a group.

    Raises:
        WrongUse: there are checkpoints of a job that differs in what they depend on.
    """
    folder = job.home / FOLDER
    file = folder / JOB
    before: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    depends = _depends(job, outputs, settings)
    changed = {name: (now, before.get("depends", {}).get(name)) for name, now in depends.items()}
    named = "; ".join(f"{name} is {now!r} now and was {was!r}" for name, (now, was) in changed.items() if now != was)
    if before and named and not job.fresh and flink.newest_checkpoint(folder):
        raise WrongUse(
            f"the checkpoints of {job.home} belong to another graph: {named}",
            "run it as it was, or with --fresh: it then begins at the group's place, and nothing is lost",
        )
    owner: str = before.get("owner") or uuid.uuid4().hex
    description = {
        "owner": owner,
        "redis": connection.public,
        "archive": job.archive and str(job.archive),
        "settle_seconds": settle_seconds(settings.flush_seconds, outputs.gather_seconds),
        "depends": depends,
    }
    if job.fresh:  # before the description, which must never vouch for another job's checkpoints
        forget_others(folder)
    replace_file(file, (json.dumps(description, indent=2) + "\n").encode())
    _set_aside(folder)
    return owner


def _set_aside(folder: Path) -> None:
    """Let nothing that readers and writers said in earlier runs count as said in this one."""
    before = folder / READERS / BEFORE
    before.mkdir(parents=True, exist_ok=True)
    (folder / SINKS).mkdir(exist_ok=True)
    for path in (folder / READERS).glob("reader-*.json"):
        path.replace(before / path.name)
    for path in (folder / SINKS).glob("sink-*.json"):
        path.unlink()


def _depends(job: Job, outputs: Outputs, settings: Settings) -> dict[str, Any]:
    """All that a checkpoint's state depends on."""
    return {
        "graph": GRAPH_VERSION,
        "streams": sorted(job.streams),
        "group": job.group,
        "outputs": [target.name for target in outputs.targets],
        "shards": settings.shards,
        "parallelism": settings.parallelism,
        "flush_seconds": settings.flush_seconds,
        "gather_seconds": [target.gather_seconds for target in outputs.targets],
        "archive": job.archive is not None,
        "live": job.live,
    }
