"""The streaming job: a live source through the graph on Flink, into outputs, until it is stopped.

Everything that a run keeps is in `_stream` below the job's home, which is its first output folder unless
another is given: Flink's checkpoints, logs, `job.json`, and the status files of readers and sinks. The next
run goes on from the newest checkpoint.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import apache_beam as beam

from pipelines.assembly import ReadSource, make_stream_sinks, make_stream_timing
from pipelines.failures import RunFailed, WrongUse
from pipelines.graph import Sources, build
from pipelines.jobs.derive_after import derive_outputs
from pipelines.jobs.derive_beside import derive_beside
from pipelines.jobs.job_status import OUTCOMES, READERS, SINKS, read_health
from pipelines.jobs.lock import lock_folders
from pipelines.jobs.run_record import PROCESSES, WORKER, RunKeeper, keep_run
from pipelines.jobs.stream_job import StreamRequest, compute_settle_seconds, fit_settings, prepare_home
from pipelines.metrics.numbers import SourceWatch
from pipelines.metrics.server import Address, serve_metrics
from pipelines.outputs import Outputs, open_outputs, parse_live_streams
from pipelines.settings import Settings
from pipelines.sources import parse_live_source
from pipelines.verify.output_description import translate_sink_errors
from pipelines.verify.output_keys import choose_archive_keys
from runners.direct import TakenOptionError
from runners.flink.engine import StreamEngine
from runners.flink.jars import FlinkMissing, check_installed
from runners.flink.job_server import FlinkFailed
from runners.flink.launch import run
from runners.flink.restore import CheckpointRefused
from runners.progress import Progress
from transforms.core.errors import Unavailable
from transforms.core.events import format_output, is_json, with_logs
from transforms.core.process_stats import record_process
from transforms.sinks.archive.stream_archive import StreamArchive, WriteArchive
from transforms.sinks.parquet.outcome_ledger import OutcomeLedger
from transforms.sinks.publish import LiveStreams
from transforms.sources.source import GroupTaken, Lease, LiveSource, Reading

PATIENCE = 15.0
"""Seconds in which the processes of a killed run can end."""
FLUSHES = 2
"""Complete checkpoints without a row, after which none is on its way."""

_REFUSALS = (Unavailable, GroupTaken, FlinkMissing, TakenOptionError, CheckpointRefused)


def stream(job: StreamRequest, settings: Settings, follow: Callable[[Progress], None]) -> None:
    """Run the job until it is interrupted, or idle if `until_idle`; `follow` gets the progress each second.

    Raises:
        WrongUse: an output or the source cannot be used, or another job uses it; the checkpoints belong to
            another graph.
        RunFailed: the engine gave up; the same call goes on from the newest checkpoint.
        KeyboardInterrupt: it was interrupted, and a last checkpoint was made.
    """
    source = parse_live_source(job.url, job.streams, job.group, settings)
    live = parse_live_streams(job.url, settings) if job.live else None
    check_readiness(settings)
    address = Address.parse(job.metrics, settings) if job.metrics else None
    try:
        source.verify_access()
        if live is not None:
            live.verify_access()
        _choose_archive(job, settings, settings.encrypt)  # before anything is written
        outputs, settings = open_outputs(job.outputs, settings, file_minutes=1)
        archive = _choose_archive(job, settings, outputs.are_encrypted)
        settings = fit_settings(settings)
        job.home.mkdir(parents=True, exist_ok=True)
        with lock_folders(job.home, *outputs.folders, patience=PATIENCE) as locks:
            owner = prepare_home(job, outputs, source.name, settings)
            outputs = outputs.count_in(OutcomeLedger(job.folder / OUTCOMES))
            if archive is not None and archive.keys is not None:
                archive.keys.begin()
            graph = StreamGraph(job, outputs, source, live, archive, settings, owner)
            with (
                hold_lease(source.lease(owner)) as lease,
                keep_run(job.folder) as keeper,
                _serve_metrics(job, source, address, keeper),
            ):
                _run(graph, lease, locks, keeper, follow)
            derive_outputs(outputs, settings)
    except _REFUSALS as error:
        raise WrongUse(str(error)) from error
    except FlinkFailed as error:
        fix = "run the same command again: it goes on from the newest checkpoint"
        raise RunFailed(str(error), fix) from error


def _choose_archive(job: StreamRequest, settings: Settings, encrypt: bool) -> StreamArchive | None:
    """The archive of the job, if it has one; encrypted if its outputs are. Nothing is written.

    Raises:
        WrongUse: it cannot be written with these settings.
    """
    if job.archive is None:
        return None
    archive = job.archive.absolute()
    with translate_sink_errors():
        return StreamArchive(archive, choose_archive_keys(archive, settings, encrypt))


def check_readiness(settings: Settings) -> str:
    """Check that the settings suit a stream, and that Java and Flink are installed or can be.

    Returns what of them is installed, as text.

    Raises:
        WrongUse: they do not, or are not.
    """
    fit_settings(settings)
    try:
        return check_installed()
    except FlinkMissing as error:
        raise WrongUse(str(error)) from error


@dataclass(frozen=True)
class StreamGraph:
    """The graph of a streaming job, as `wire` builds it."""

    job: StreamRequest
    outputs: Outputs
    source: LiveSource
    live: LiveStreams | None
    archive: StreamArchive | None
    settings: Settings
    owner: str

    def wire(self, root: beam.Pipeline) -> None:
        """Wire the graph. Each renewal calls this again: a transform belongs to one pipeline only."""
        folder, outputs, settings = self.job.folder, self.outputs, self.settings
        reading = Reading(self.owner, folder / READERS, outputs.gather_seconds, self.archive)
        messages = ReadSource(self.source.read(reading), settings, self.job.kinds, self.job.encodings)
        sources = Sources(messages, expiry=outputs.read_expiry())
        sinks = make_stream_sinks(outputs, settings, folder / SINKS, self.live)
        if self.archive is not None:
            sinks = replace(sinks, archive=WriteArchive(self.archive))
        build(root, sources, sinks, settings, make_stream_timing(outputs, settings))


def _run(
    graph: StreamGraph,
    lease: Lease,
    locks: tuple[int, ...],
    keeper: RunKeeper,
    follow: Callable[[Progress], None],
) -> None:
    job = graph.job
    idle = IdleWatch(job.home, graph.source, compute_settle_seconds(graph.settings, graph.outputs))
    renewal = LeaseRenewal(lease)

    def follow_all(progress: Progress) -> None:
        keeper.follow(progress)
        follow(progress)
        renewal.renew()
        follow_derived()
        if job.until_idle and idle.is_reached(progress):
            signal.raise_signal(signal.SIGINT)

    try:
        with derive_beside(job.folder, graph.outputs, graph.settings) as follow_derived:
            run(graph.wire, _choose_engine(job, graph.settings, locks), follow_all)
    except KeyboardInterrupt:
        if not idle.was_reached:
            raise


@contextmanager
def _serve_metrics(
    job: StreamRequest, source: LiveSource, address: Address | None, keeper: RunKeeper
) -> Iterator[None]:
    """Serve the job's metrics, if it is asked to."""
    if address is None:
        yield
        return
    with serve_metrics(address, job.home, SourceWatch(source), keeper.is_alive):
        yield


def _choose_engine(job: StreamRequest, settings: Settings, locks: tuple[int, ...]) -> StreamEngine:
    return StreamEngine(
        job.folder,
        settings.parallelism,
        settings.stream_workers,
        job.master,
        job.environment,
        settings.heap_mb,
        job.beam_options,
        keep_open=locks,
        within=None if job.master else with_logs(partial(record_process, job.folder / PROCESSES, WORKER)),
        form=format_output if is_json() else None,
        checkpoint_seconds=settings.checkpoint_seconds,
        patience_seconds=settings.patience_seconds,
        renew_seconds=settings.renew_seconds,
    )


@contextmanager
def hold_lease(lease: Lease) -> Iterator[Lease]:
    """Hold the source's group for this job. Readers renew the lease as they read; LeaseRenewal does else."""
    lease.acquire()
    try:
        yield lease
    finally:
        with suppress(Unavailable):  # it expires by itself
            lease.release()


class LeaseRenewal:
    """Renews the lease while no reader does: while an output is unavailable or the job starts."""

    def __init__(self, lease: Lease) -> None:
        self._lease, self._due = lease, time.monotonic()

    def renew(self) -> None:
        """Renew it if it is time; not while the source is unavailable.

        Raises:
            GroupTaken: another job has it.
        """
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._lease.seconds / 3
            with suppress(Unavailable):
                self._lease.renew()


class IdleWatch:
    """Finds out when everything is in the tables: nothing is left to read, and for `needed` seconds and
    FLUSHES checkpoints nothing was written.

    Rows can be on their way for minutes after the last message was read, if the machine is busy or outputs
    are slow. What was in a worker when a checkpoint began has left it when the checkpoint is complete; the
    first of them may have begun before the time was over in which rows are gathered.
    """

    def __init__(self, home: Path, source: LiveSource, needed: float) -> None:
        self._home, self._source, self._needed = home, source, needed
        self._seen, self._since, self._checkpoints = (-1, -1), time.monotonic(), 0
        self.was_reached = False

    def is_reached(self, progress: Progress) -> bool:
        """Look at the job's health; whether it has been idle for long enough, now or before."""
        try:
            found = read_health(self._home, self._source.read_state())
            is_known = True
        except Unavailable:  # the lag is what it was
            found, is_known = read_health(self._home), False
        seen = found.read, sum(sink.rows for sink in found.sinks)
        is_busy = found.lag != 0 or seen != self._seen or any(sink.waiting_since for sink in found.sinks)
        if progress.state != "running" or is_busy or not is_known:
            self._seen, self._since, self._checkpoints = seen, time.monotonic(), progress.checkpoints
        has_waited = time.monotonic() - self._since >= self._needed
        has_flushed = progress.checkpoints >= self._checkpoints + FLUSHES
        self.was_reached = self.was_reached or (has_waited and has_flushed)
        return self.was_reached
