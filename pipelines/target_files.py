"""Files that a command writes where the user wants them, such as an export or a page."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.failures import RunFailed, WrongUse
from transforms.core.durable_files import replace_file
from transforms.core.errors import OutputFull
from transforms.sinks.parquet.parquet_store import DESCRIPTION


def check_target(path: Path, flag: str) -> None:
    """Check that the file of an option can be one. Call it first, so that nothing is read in vain.

    Raises:
        WrongUse: its folder does not exist, its name cannot be, it would be in an output, or it is a folder,
            a pipe or a device: a device such as /dev/null would be replaced by a file.
    """
    folder = Path(os.path.realpath(path.parent))  # by links and `..`, a folder in an output has other names
    try:
        output = next((each for each in (folder, *folder.parents) if (each / DESCRIPTION).exists()), None)
        is_usable = folder.is_dir() and (path.is_file() or not path.exists())
    except OSError:  # a name is too long, or a folder may not be searched
        output, is_usable = None, False
    if output:
        raise WrongUse(
            f"{path} is in the output {output}, where only tables belong", f"give {flag} a file elsewhere"
        )
    if not is_usable:
        raise WrongUse(f"cannot write to {path}", f"give {flag} a file in a folder that exists")


def write_target(path: Path, flag: str, data: bytes) -> None:
    """Write the file of an option; an earlier one is replaced as a whole.

    Raises:
        RunFailed: it cannot be written.
    """
    with explain_unwritable(path, flag):
        replace_file(path, data)


@contextmanager
def explain_unwritable(path: Path, flag: str) -> Iterator[None]:
    """Raise RunFailed in place of the errors of a file system while the file of an option is written."""
    try:
        yield
    except OutputFull as error:
        raise RunFailed(*str(error).split("; ", 1)) from error
    except OSError as error:
        problem = f"cannot write {path}: {error.strerror or error}"
        raise RunFailed(problem, f"give {flag} another file") from error
