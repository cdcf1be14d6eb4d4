"""Derives tables in output folders: `kpiflow derive`, the end of each batch, and what runs beside a stream.

One job derives an output at a time: it holds the lock of OUT/_derive. Messages may be written meanwhile.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from pipelines.failures import RunFailed, WrongUse, make_missing_error
from pipelines.jobs.cores import count_cores
from pipelines.jobs.derive_state import HOME, describe_analysis, read_state, write_state
from pipelines.jobs.lock import lock_folders
from pipelines.jobs.work_folder import make_work_folder
from pipelines.settings import Settings
from schemas.readers.formats import FIRST_US, LAST_US
from transforms.core.errors import DamagedFile, OutputFull
from transforms.core.events import TABLE_LEFT_OUT, log_event
from transforms.derived.derived_table import DerivedTable
from transforms.derived.digests import GRAIN
from transforms.derived.engine import Counts, DeriveLimits, Deriver, Follow, PlanComparison, ignore_progress
from transforms.derived.registry import DERIVED
from transforms.derived.run import BrokenSQL

PATIENCE = 60.0
"""Seconds in which another job that derives the same output can end."""
_PASSES = 5


def make_limits(settings: Settings) -> DeriveLimits:
    """What deriving may use, by the settings."""
    return DeriveLimits(settings.workers or count_cores(), settings.derive_memory_mb)


def make_deriver(
    output: Path,
    values: Mapping[str, Any],
    tables: Sequence[str] = (),
    limits: DeriveLimits | None = None,
    **options: bool,
) -> Deriver:
    """What derives the tables of these names (all if none), with the settings `values` of the output.

    A table whose kernel needs a package that is not installed is left out, and an event says so.

    Raises:
        WrongUse: there is no derived table of a name, or it needs such a package.
    """
    if unknown := [name for name in tables if name not in DERIVED]:
        raise WrongUse(f"there is no derived table {unknown[0]}", f"name one of {', '.join(DERIVED)}")
    chosen = [table for name, table in DERIVED.items() if not tables or name in tables]
    usable = [table for table in chosen if not _is_left_out(table, bool(tables))]
    return Deriver(output, values, values["file_minutes"], limits or DeriveLimits(), usable, **options)


def _is_left_out(table: DerivedTable, is_named: bool) -> bool:
    """Whether a table cannot be derived for want of a package.

    Raises:
        WrongUse: it cannot, and it was asked for by name.
    """
    missing, name = table.find_missing(), table.table.name
    if table.kernel is None or missing is None:
        return False
    if is_named:
        raise make_missing_error(name, ImportError(name=missing), table.kernel.extra)
    log_event(TABLE_LEFT_OUT, table=name, module=missing, extra=table.kernel.extra)
    return True


def derive(
    output: Path,
    deriver: Deriver,
    until: datetime | None = None,
    follow: Follow | None = None,
    patience: float = PATIENCE,
) -> Counts:
    """Derive what is stale, until nothing changes any more.

    Of reports only those are derived whose wait was over at `until`; of late ones at the last full ten
    minutes before it (`DerivePlan.find_cutoff`).

    Raises:
        WrongUse: another job is deriving the output.
        RunFailed: a stored file is damaged, the SQL failed, or the disk is full; the same call goes on.
    """
    with lock_home(output, patience), explain_errors(output):
        total = Counts()
        for _ in range(_PASSES):
            counts = run_pass(output, deriver, until, follow)
            total.add(counts)
            total.changed = counts.changed
            if not counts.changed:
                break
        return total


@contextmanager
def lock_home(output: Path, patience: float) -> Iterator[None]:
    """Hold the lock of the job that derives an output."""
    home = output / HOME
    home.mkdir(exist_ok=True)
    try:
        with lock_folders(home, patience=patience):
            yield
    except WrongUse as error:
        if str(home) not in str(error):
            raise
        raise WrongUse(f"another job is deriving the tables of {output}", "wait for it") from error


def run_pass(
    output: Path,
    deriver: Deriver,
    until: datetime | None,
    follow: Follow | None = None,
    since: int = FIRST_US,
) -> Counts:
    """One pass over a locked output, and its state."""
    began = time.monotonic()
    before = find_cutoff(until, deriver.settings["context_wait_seconds"])
    with make_work_folder(output / HOME, "work") as work:
        counts = deriver.derive(work, before, follow or ignore_progress, since)
    seconds, cutoff = time.monotonic() - began, None if until is None else before
    kept = describe_analysis(read_state(output), cutoff, counts.read, seconds, not counts.changed)
    write_state(output, until, seconds=seconds, settings=dict(deriver.settings), **asdict(counts), **kept)
    return counts


def compare(output: Path, deriver: Deriver, until: datetime | None = None) -> list[PlanComparison]:
    """Each derived table against what it should be."""
    with explain_errors(output):
        return list(deriver.compare(find_cutoff(until, deriver.settings["context_wait_seconds"])))


def find_cutoff(until: datetime | None, wait: int) -> int:
    """The microsecond, at the end of a grain, before which a report's wait is over at `until`."""
    if until is None:
        return LAST_US
    return (int(until.timestamp() * 1_000_000) - wait * 1_000_000) // GRAIN * GRAIN


@contextmanager
def explain_errors(output: Path) -> Iterator[None]:
    """Raise what can go wrong as a RunFailed with a fix."""
    again = f"then run `kpiflow derive {output}`"
    try:
        yield
    except (DamagedFile, OutputFull) as error:
        raise RunFailed(str(error), again) from error
    except duckdb.OutOfMemoryException as error:
        raise RunFailed(
            f"DuckDB has too little memory: {_first_line(error)}", f"raise derive_memory_mb, {again}"
        ) from error
    except OSError as error:
        raise RunFailed(
            f"{error.filename2 or error.filename or output} cannot be used: {error.strerror}",
            f"move away what is in its place, or make it readable and writable, {again}",
        ) from error
    except BrokenSQL as error:
        raise RunFailed(
            f"deriving {output} failed: {_first_line(error)}",
            "the same run would fail again: report it, with this line; --table derives other tables",
        ) from error
    except duckdb.Error as error:
        raise RunFailed(
            f"deriving {output} failed: {_first_line(error)}", f"run `kpiflow derive {output}` again"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
