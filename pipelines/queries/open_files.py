"""The files that a query reads, opened before it runs.

A stream replaces files by renames while they are read. An open file keeps its bytes, so a query reads each
file as it was when it was opened, and cannot fail because of a rename.
"""

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile

from pipelines.failures import RunFailed
from transforms.core.counts import format_count
from transforms.core.errors import Refused, Unavailable
from transforms.sinks.parquet.output_files import OutputFile

_SPARE = 64
"""Descriptors that are left to the rest of the process."""


@contextmanager
def open_files(files: Sequence[OutputFile]) -> Iterator[dict[OutputFile, int]]:
    """Yields an open descriptor of each file, in order. A file that is gone by now is left out.

    Of a file on object storage it is that of a copy, which ends with it.

    Raises:
        RunFailed: there are more files than the process may open, or one cannot be opened.
    """
    _allow_descriptors(len(files))
    descriptors: dict[OutputFile, int] = {}
    try:
        for file in files:
            try:
                with explain_storage_errors():
                    descriptors[file] = _open(file)
            except FileNotFoundError as error:
                if file.is_day:
                    raise RunFailed(f"{file} is missing", "put it back from a copy") from error
            except OSError as error:
                raise RunFailed(f"cannot open {file}: {error.strerror}", "check its permissions") from error
        yield descriptors
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


@contextmanager
def explain_storage_errors() -> Iterator[None]:
    """Raise errors of a storage as RunFailed with the fix."""
    try:
        yield
    except (Refused, Unavailable) as error:
        problem, _, fix = str(error).partition("; ")
        raise RunFailed(problem, fix or "try again later") from error


def _open(file: OutputFile) -> int:
    if file.path is not None:
        return os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    with TemporaryFile() as copy:
        copy.write(file.read())
        copy.flush()
        return os.dup(copy.fileno())


def _allow_descriptors(count: int) -> None:
    """Let the process open so many files, each once here and once by DuckDB."""
    needed = 2 * count + _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise RunFailed(
                f"the query reads {format_count(count, 'file')}, and the process may open {hard:,}",
                "bound it with --from and --to, or raise the limit (`ulimit -n`)",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
