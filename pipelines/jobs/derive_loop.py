"""The process that derives tables beside a stream: `python -m pipelines.jobs.derive_loop TASK`, TASK as JSON.

It derives the reports whose wait was over at the watermark that the stream's readers report, as far as the
outputs have what they read.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.failures import Failure
from pipelines.jobs.derive import explain_errors, lock_home, make_deriver, run_pass
from pipelines.jobs.derive_state import read_state, read_until, write_state
from pipelines.jobs.job_description import JOB, JobFile
from pipelines.jobs.job_status import READERS, read_sinks
from schemas.readers.formats import FIRST_US
from transforms.core.events import DERIVE_FAILED, log_as_json, log_event
from transforms.core.status_files import read_status
from transforms.core.time_units import SECOND_US
from transforms.core.typed_json import as_moment
from transforms.derived.engine import DeriveLimits, Deriver
from transforms.encryption.key_ring import use_master_key
from transforms.sources.reader_status import ReaderFile
from transforms.sources.source import WATERMARK_DELAY_SECONDS

RECENT_HOURS = 3
"""Most passes compare the spans of so many hours: reports of valid messages are at most one hour late."""
WHOLE_SECONDS = 3600.0
"""Seconds from one pass over all spans to the next."""
_NICE = 10
_PATIENCE = 5.0


def run(task: Mapping[str, Any]) -> None:
    """Derive every `seconds`, until the process is ended."""
    use_master_key(task.get("master_key"))
    limits, settings = DeriveLimits(1, task["memory_mb"]), task["settings"]
    derivers = {
        Path(output): make_deriver(Path(output), settings, (), limits, indexed=True)
        for output in task["outputs"]
    }
    whole = 0.0
    while True:
        began = time.monotonic()
        until = find_until(Path(task["folder"]), task["write_seconds"])
        is_whole = began >= whole
        for output, deriver in derivers.items() if until is not None else ():
            derive_until(output, deriver, until, None if is_whole else RECENT_HOURS)
            whole = began + WHOLE_SECONDS if is_whole else whole
        time.sleep(max(1.0, task["seconds"] - (time.monotonic() - began)))


def derive_until(output: Path, deriver: Deriver, until: datetime | None, hours: int | None = None) -> None:
    """One pass over an output: over all spans, or those of some hours before `until`.

    A failure is written to its state; the next pass tries again.
    """
    since = FIRST_US
    if until is not None and hours is not None:
        since = int((until - timedelta(hours=hours)).timestamp()) * SECOND_US
    try:
        with lock_home(output, _PATIENCE), explain_errors(output):
            run_pass(output, deriver, until, since=since)
    except (Failure, OSError) as error:
        log_event(DERIVE_FAILED, output=str(output), error=str(error))
        state: Any = read_state(output) or {"until": None}
        write_state(output, **state | {"until": read_until(state), "error": str(error)})


def find_until(folder: Path, write_seconds: int) -> datetime | None:
    """The moment up to which the outputs of a stream have all messages; None while it is not known.

    That is the moment up to which its readers have read, as long as it is known of every stream and no output
    is waited for, less `write_seconds`, the time until folders hold what was read. Of a job that needs longer
    than that, what was missing is derived by the next pass. Windows of an hour are read an hour after their
    end, so the watermark's delay, which windows wait for, does not count.
    """
    job = read_status(folder / JOB, JobFile)
    paths = sorted((folder / READERS).glob("reader-*.json"))
    readers = [reader for path in paths if (reader := read_status(path, ReaderFile))]
    reported = {key for reader in readers for key in reader["streams"]}
    known = [mark for reader in readers if (mark := reader["watermark"])]
    is_whole = job is not None and reported >= set(job["depends"]["streams"]) and len(known) == len(paths)
    if not known or not is_whole or any(sink["waiting_since"] for sink in read_sinks(folder)):
        return None
    return as_moment(min(known) / 1000 + WATERMARK_DELAY_SECONDS - write_seconds)


if __name__ == "__main__":
    os.nice(_NICE)
    given = json.loads(sys.argv[1])
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    with log_as_json() if given.get("json") else nullcontext():
        run(given)
