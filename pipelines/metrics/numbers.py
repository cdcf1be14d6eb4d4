"""The numbers of a streaming job, all from its state: what `metrics`, `status` and `top` show.

Nothing is scanned: the state files of a job are a few, and as many whatever its output holds.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.jobs.job_description import FOLDER, read_job
from pipelines.jobs.job_status import OUTCOMES, Health, read_health
from pipelines.jobs.run_record import RunRecord, read_totals
from pipelines.metrics.machine import MachineLimits, Usage, measure_usage, read_limits
from pipelines.metrics.quality import QualityScore, read_scores
from schemas.tables import DUPLICATES, QUARANTINED, REPORTS, TRIMMED
from transforms.core.errors import Unavailable
from transforms.encryption.key_list import KEYS, parse_list
from transforms.encryption.master_key import KeyRefused
from transforms.sinks.parquet.outcome_ledger import read_outcomes
from transforms.sinks.parquet.output_files import OutputFiles
from transforms.sources.source import LiveSource, SourceState

ASK_SECONDS = 2.0
"""From one question to the source to the next."""
_NAMES = {REPORTS.name: "report", DUPLICATES.name: "duplicate", QUARANTINED.name: "quarantined"}
"""What a message is called that is in a table; in another table it is called as the table is."""


@dataclass(frozen=True)
class Numbers:
    """A job at a moment.

    Attributes:
        at: seconds since 1970.
        health: as `kpiflow status` shows it.
        run: with all totals over its runs.
        is_source_up: whether the source answers; None if it was not asked.
        arrived: messages ever added to each stream, as the source says now.
        outcomes: messages by outcome and reason; None if the main output does not count them.
        trimmed: messages that were gone before they were read; None as above.
        usage: of the processes of a job on this machine.
        quality: the newest scores of its data, if tables are derived.
        rotated: by encrypted output or archive, when its keys were rotated last, in seconds since 1970.
    """

    at: float
    health: Health
    run: RunRecord
    is_source_up: bool | None
    arrived: dict[str, int]
    outcomes: Counter[tuple[str, str]] | None
    trimmed: int | None
    usage: Usage
    limits: MachineLimits
    quality: list[QualityScore]
    rotated: dict[str, float]

    @property
    def read(self) -> dict[str, int]:
        """Messages of each stream that were ever read, each counted once."""
        return {key: self.run.marks[key].total for key in self.health.keys if key in self.run.marks}


class SourceWatch:
    """Asks a source again and again how it does, so that no reader of metrics waits for it."""

    def __init__(self, source: LiveSource) -> None:
        self._source = source
        self._found: tuple[bool | None, SourceState] = (None, SourceState({}))
        self.error: str | None = None
        """Why it does not answer."""

    @property
    def found(self) -> tuple[bool | None, SourceState]:
        """Whether it answers (None: not asked yet), and what it said last."""
        return self._found

    def ask(self) -> None:
        """Ask once."""
        try:
            self._found, self.error = (True, self._source.read_state()), None
        except Unavailable as error:
            self._found, self.error = (False, self._found[1]), str(error)

    @contextmanager
    def keep_asking(self) -> Iterator[None]:
        """Ask every ASK_SECONDS in a thread."""
        ended = threading.Event()

        def ask() -> None:
            while not ended.wait(ASK_SECONDS):
                self.ask()

        self.ask()
        threading.Thread(target=ask, name="source watch", daemon=True).start()
        try:
            yield
        finally:
            ended.set()


def read_numbers(home: Path, watch: SourceWatch | None = None) -> Numbers:
    """The numbers of the job of a home.

    Raises:
        WrongUse: no streaming job ever had this home.
    """
    is_up, state = watch.found if watch else (None, SourceState({}))
    folder = home / FOLDER
    run = read_totals(folder)
    health = read_health(home, state)
    arrived = {key: stream.added for key, stream in state.streams.items()} if is_up else {}
    outputs = [sink.name for sink in health.sinks]
    outcomes, trimmed = _read_outcomes(folder, outputs)
    usage = measure_usage(run.pid) if health.running else Usage({}, None)
    now = time.time()
    quality = read_scores(outputs, now)
    archive = read_job(home).get("archive")
    rotated = _read_rotated([*outputs, *([archive] if archive else [])])
    limits = read_limits()
    return Numbers(now, health, run, is_up, arrived, outcomes, trimmed, usage, limits, quality, rotated)


def _read_rotated(places: list[str]) -> dict[str, float]:
    """By output or archive on this machine that has a readable list of keys, when they were rotated last."""
    found = {}
    for place in places:
        path = Path(place) / KEYS
        try:
            found[place] = parse_list(path.read_bytes(), str(path)).rotated.timestamp()
        except (OSError, KeyRefused):
            continue
    return found


def _read_outcomes(folder: Path, outputs: list[str]) -> tuple[Counter[tuple[str, str]] | None, int | None]:
    if not (folder / OUTCOMES).is_dir():
        return None, None

    def read_file(name: str) -> bytes | None:
        for output in map(Path, outputs):
            file = OutputFiles.of(output).find(name)
            if file is not None and (stored := file.get()) is not None:
                return stored.data
        return None

    tables = read_outcomes(folder / OUTCOMES, read_file)
    trimmed = sum(tables.pop(TRIMMED.name, Counter()).values())
    outcomes = Counter(
        {
            (_NAMES.get(table, table), reason): n
            for table, found in tables.items()
            for reason, n in found.items()
        }
    )
    return outcomes, trimmed
