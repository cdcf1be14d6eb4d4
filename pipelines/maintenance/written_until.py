"""Up to when an output has all messages, whatever becomes of the job that writes it."""

from datetime import datetime, timedelta
from pathlib import Path

from pipelines.failures import WrongUse
from pipelines.jobs.job_description import FOLDER, JobDescription
from pipelines.jobs.job_status import BEFORE, READERS, read_reader_files
from pipelines.jobs.lock import is_locked
from pipelines.settings import Settings
from transforms.core.typed_json import as_moment

_MARGIN_SECONDS = 60


def find_written_until(output: Path, home: Path, now: datetime) -> datetime | None:
    """No message that was received before is still to be written; None while a stream does not say.

    `home`: where the stream that writes the output keeps its state. Without a stream it is `now`: a batch
    puts its rows into the file of the day itself.

    Raises:
        WrongUse: a job writes the output whose state is not there.
    """
    job = JobDescription.read(home)
    if job is None:
        if is_locked(output):
            problem = f"a job is writing to {output}, and {home} has no stream's state"
            raise WrongUse(problem, "wait for the batch to end, or name the stream's folder with --state")
        return now
    marks = _read_marks(home / FOLDER / READERS) or _read_marks(home / FOLDER / READERS / BEFORE)
    if not marks:
        return None
    return as_moment(min(marks) / 1000)


def find_delay(home: Path, settings: Settings) -> timedelta:
    """How long after a day a message can be received that adds a row to it.

    That is `stale_seconds`; `reread_seconds`, which a stream without a checkpoint reads again; and the time
    until the last windows are written.
    """
    job = JobDescription.read(home)
    settle = 0 if job is None else job.settle_seconds + _MARGIN_SECONDS
    return timedelta(seconds=settings.stale_seconds + settings.reread_seconds + settle)


def _read_marks(folder: Path) -> list[int]:
    """The watermark that each reader has committed; none if one of them has not."""
    marks = [reader.get("committed") for reader in read_reader_files(folder)]
    return [] if None in marks else [mark for mark in marks if mark is not None]
