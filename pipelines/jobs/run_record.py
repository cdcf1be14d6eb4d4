"""`run.json`: what a streaming job remembers of its runs, so that a restart changes no total.

One process writes it, the one that holds the job's lock. It is replaced and synced when something happens,
and every ten seconds. What happened since then is in the status files of readers and workers: a reader of
the totals adds it, and so does the next run before it sets these files aside. Both may be done twice.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.jobs.job_status import READERS, RUN, SINKS, read_reader_files
from runners.progress import Progress
from transforms.core.durable_files import replace_file
from transforms.core.errors import Refused, Unavailable
from transforms.core.events import STATE_NOT_WRITTEN, log_event
from transforms.core.process_stats import ProcessStats, StatsFile, record_process
from transforms.core.status_files import read_kept, read_status
from transforms.core.typed_json import Count
from transforms.sinks.sink_status import remove_old_statuses
from transforms.sources.reader_status import ReaderFile

PROCESSES = "processes"
"""Below a job's folder: a status file of each worker (`transforms.core.process_stats`)."""
COMMAND, WORKER = "command", "worker"
"""What processes are for."""
STOPPED = "stopped"
SAVE_SECONDS = 10.0
ALIVE_SECONDS = 300.0
"""Java may take minutes to start; a job that is followed is heard of each second."""
_MOST_NAMES = 200
"""So many names of added files are kept: a file may still be there, or in a reader's hands."""


@dataclass
class ReadMark:
    """How many messages of a stream were ever read (`total`), and the largest index among them (`most`).

    Readers go back to a checkpoint, and an index with them. So only what is above the mark is new. A stream
    that has fewer entries than were read of it was made again, or went back: it is counted on from its index.
    """

    total: Count = 0
    most: Count = 0

    def move(self, index: int | None, added: int | None) -> "ReadMark":
        """The mark after a reader has reported its place."""
        if index is None:
            return self
        if index > self.most:
            return ReadMark(self.total + index - self.most, index)
        return ReadMark(self.total, index) if added is not None and added < self.most else self


@dataclass
class _Runs:
    """What is known of a job's runs. Times are seconds since 1970.

    Attributes:
        pid: the process of the newest run.
        first_started: start of the first run; `started`: of the newest one.
        starts: runs; `restarts`: of the job within its run, after a failure; `renewals`: as planned.
        begun: when the present job of the newest run was started, restarted or renewed.
        renewed: when it was started or renewed.
        state: as `Progress.state`, or `stopped`.
        failure: the cause of the newest failure.
        checkpoint_seconds, renew_seconds: the settings of the newest run.
        marks: of each stream.
        added: the files of the ended processes that are in `stats`.
    """

    pid: int = 0
    first_started: float = 0.0
    started: float = 0.0
    begun: float = 0.0
    renewed: float = 0.0
    starts: Count = 0
    restarts: Count = 0
    renewals: Count = 0
    state: str = STOPPED
    failure: str | None = None
    checkpoint_seconds: float = 0.0
    renew_seconds: float = 0.0
    marks: dict[str, ReadMark] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)


@dataclass
class _RunFile(_Runs):
    """The content of `run.json`."""

    stats: StatsFile = field(default_factory=StatsFile)


@dataclass
class RunRecord(_Runs):
    """What is known of a job's runs, and in `stats` what its ended processes measured."""

    stats: ProcessStats = field(default_factory=ProcessStats)

    @classmethod
    def read(cls, folder: Path) -> "RunRecord":
        """The record in a job's folder; an empty one if there is none. A damaged one is reported."""
        content = read_kept(folder / RUN, _RunFile) or _RunFile()
        return cls(**vars(content) | {"stats": ProcessStats.of(content.stats)})

    def as_json(self) -> dict[str, Any]:
        """The same as JSON's types."""
        marks = {key: vars(mark) for key, mark in self.marks.items()}
        return vars(self) | {"marks": marks, "stats": self.stats.as_json()}

    def move_marks(self, readers: Iterable[ReaderFile]) -> None:
        """Take in how far the readers have come, from their status files."""
        for reader in readers:
            for key, place in reader["streams"].items():
                self.marks[key] = self.marks.get(key, ReadMark()).move(place.get("index"), place.get("added"))


def read_totals(folder: Path) -> RunRecord:
    """The record of a job's folder with what has happened since it was written."""
    # In this order: a file that is being added meanwhile is then counted once.
    readers = list(read_reader_files(folder / READERS))
    found = {path.name: _read_stats(path) for path in _list_processes(folder)}
    record = RunRecord.read(folder)
    record.move_marks(readers)
    for name, stats in found.items():
        if name not in record.added:
            record.stats.add(stats)
    return record


def begin_run(folder: Path, checkpoint_seconds: float, renew_seconds: float) -> None:
    """Record that a run begins. Hold the job's lock; call it before status files are set aside."""
    keeper, now = RunKeeper(folder), time.time()
    record = keeper.record
    record.pid, record.started, record.begun, record.renewed = os.getpid(), now, now, now
    record.first_started = record.first_started or now
    record.starts += 1
    record.state, record.failure = Progress().state, None
    record.checkpoint_seconds, record.renew_seconds = checkpoint_seconds, renew_seconds
    (folder / PROCESSES).mkdir(parents=True, exist_ok=True)
    keeper.save(_list_processes(folder))


@contextmanager
def keep_run(folder: Path) -> Iterator["RunKeeper"]:
    """Keep the record of a run that has begun, and measure what this process does."""
    keeper, failure = RunKeeper(folder), None
    try:
        with record_process(folder / PROCESSES, COMMAND):
            yield keeper
    except Exception as error:
        failure = str(error)
        raise
    finally:
        keeper.record.state, keeper.record.failure = STOPPED, failure
        keeper.save(_list_processes(folder))


class RunKeeper:
    """Writes the record of a run. Where it cannot be written, that is logged once and has no other effect."""

    def __init__(self, folder: Path) -> None:
        self.record = RunRecord.read(folder)
        self._folder, self._saved, self._has_failed = folder, 0.0, False
        self._base = self.record.restarts, self.record.renewals
        self._heard = time.monotonic()

    def is_alive(self) -> bool:
        """Whether the run has followed its job within ALIVE_SECONDS. A job that fails again and again is."""
        return time.monotonic() - self._heard < ALIVE_SECONDS

    def follow(self, progress: Progress) -> None:
        """Take in the progress of the run."""
        self._heard = time.monotonic()
        record, now = self.record, time.time()
        before = record.restarts, record.renewals, record.state, record.failure
        restarts, renewals = self._base[0] + progress.restarts, self._base[1] + progress.renewals
        if (restarts, renewals) != before[:2]:
            record.begun = now
        if renewals != record.renewals:
            record.renewed = now
        record.restarts, record.renewals = restarts, renewals
        record.state, record.failure = progress.state, progress.failure
        has_changed = (restarts, renewals, record.state, record.failure) != before
        if has_changed or now - self._saved >= SAVE_SECONDS:
            self.save(filter(_has_ended, _list_processes(self._folder)))

    def save(self, ended: Iterable[Path]) -> None:
        """Write the record, with what the processes of these files measured, and then remove the files."""
        record, ended = self.record, list(ended)
        for path in ended:
            if path.name not in record.added:
                record.stats.add(_read_stats(path))
                record.added.append(path.name)
        del record.added[:-_MOST_NAMES]
        record.move_marks(read_reader_files(self._folder / READERS))
        self._saved = time.time()
        try:
            replace_file(self._folder / RUN, json.dumps(record.as_json()).encode())
        except (OSError, Unavailable, Refused) as error:
            if not self._has_failed:
                log_event(STATE_NOT_WRITTEN, path=str(self._folder / RUN), error=str(error))
            self._has_failed = True
            return
        self._has_failed = False
        for path in ended:
            path.unlink(missing_ok=True)
        remove_old_statuses(self._folder / SINKS, record.begun)


def _read_stats(path: Path) -> ProcessStats:
    return ProcessStats.of(read_status(path, StatsFile))


def _list_processes(folder: Path) -> list[Path]:
    return sorted((folder / PROCESSES).glob("*.json"))


def _has_ended(path: Path) -> bool:
    """Whether the process of a file is gone. They all run on this machine: a cluster's measure nothing."""
    return not Path(f"/proc/{path.name.partition('-')[0]}").exists()
