"""The files that a query reads, opened before it runs.

A stream replaces files by renames while they are read. An open file keeps its bytes, so a query reads each
file as it was when it was opened, and cannot fail because of a rename.
"""

import os
import re
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pipelines.failures import RunFailed
from transforms.core.time_range import Span

_SPARE = 64
"""Descriptors that are left to the rest of the process."""
_UNKNOWN = "date=unknown/hour=unknown"
_DAY, _HOUR, _FILE = map(re.compile, (r"date=\d{4}-\d\d-\d\d", r"hour=\d\d", r"\d+\.parquet"))
_EPOCH = datetime.fromtimestamp(0, UTC)
_MINUTE = timedelta(minutes=1)


def list_files(folder: Path, span: Span, file_minutes: int) -> list[Path]:
    """The files below the folder of a table, or of a window size, that may have rows in a span; oldest first.

    The names of folders and files say which time they have. Only the days and hours of the span are listed,
    and the names of all days.
    """
    files: list[Path] = []
    for day in _list_names(folder, _DAY):
        midnight = (date.fromisoformat(day[5:]) - _EPOCH.date()) // _MINUTE
        if not _overlap(span, midnight, 24 * 60):
            continue
        for hour in _list_names(folder / day, _HOUR):
            start = midnight + 60 * int(hour[5:])
            if _overlap(span, start, 60):
                files += [
                    folder / day / hour / name
                    for name in _list_names(folder / day / hour, _FILE)
                    if _overlap(span, start + int(name[2:4]), file_minutes)
                ]
    return files


def list_untimed(folder: Path) -> list[Path]:
    """The files of a table whose rows have no time: these rows are in every span."""
    return [folder / _UNKNOWN / name for name in _list_names(folder / _UNKNOWN, _FILE)]


@contextmanager
def open_files(paths: Sequence[Path]) -> Iterator[dict[Path, int]]:
    """Yields an open descriptor of each file, in order. A file that is gone by now is left out.

    Raises:
        RunFailed: there are more files than the process may open, or one cannot be opened.
    """
    _allow_descriptors(len(paths))
    descriptors: dict[Path, int] = {}
    try:
        for path in paths:
            try:
                descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # a derived file whose reports are gone
                continue
            except OSError as error:
                raise RunFailed(f"cannot open {path}: {error.strerror}", "check its permissions") from error
        yield descriptors
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _list_names(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    """The names in a folder that have a form, in order; none if there is no folder."""
    try:
        return sorted(filter(pattern.fullmatch, os.listdir(folder)))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFailed(f"cannot read {folder}: {error.strerror}", "check its permissions") from error


def _overlap(span: Span, start: int, minutes: int) -> bool:
    """Whether so many minutes from `start`, in minutes since 1970, have a moment of the span."""
    return (span.end is None or start * _MINUTE < span.end - _EPOCH) and (
        span.start is None or (start + minutes) * _MINUTE > span.start - _EPOCH
    )


def _allow_descriptors(count: int) -> None:
    """Let the process open so many files, each once here and once by DuckDB."""
    needed = 2 * count + _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise RunFailed(
                f"the query reads {count:,} files, and the process may open {hard:,}",
                "bound it with --from and --to, or raise the limit (`ulimit -n`)",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
