"""What `--input` means."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter

from pipelines.failures import RunFailed, WrongUse, make_missing_error
from schemas.kinds import KINDS
from transforms.core.errors import Refused, Unavailable
from transforms.sources.archives.archive_files import (
    ArchiveFiles,
    NoArchiveError,
    find_files,
    is_object,
    open_file,
    split_kind,
)
from transforms.sources.archives.encrypted_files import verify_key


def find_archives(patterns: list[str]) -> ArchiveFiles:
    """The archive files that some patterns match. The keys of encrypted ones open.

    Raises:
        WrongUse: a pattern matches no file, a URL has another form, its bucket cannot be used, or a key is
            wrong, missing or revoked.
        RunFailed: its server is unavailable.
    """
    from transforms.encryption.archive_keys import ArchiveKeys
    from transforms.encryption.key_ring import get_master_key

    with _explain_errors():
        files = find_files(patterns, ArchiveKeys(get_master_key()))
        for file in filter(attrgetter("is_encrypted"), files.whole):
            with suppress(OSError), open_file(file) as opened:  # who reads it reports what is wrong with it
                verify_key(opened, file.path, file.keys)
        return files


def verify_schema(name: str) -> str:
    """The name of a kind of message, if it is one.

    Raises:
        WrongUse: there is no such kind.
    """
    if name not in KINDS:
        raise WrongUse(f"no kind of message is called {name}", f"give one of {', '.join(KINDS)}")
    return name


def verify_urls(patterns: Sequence[str]) -> None:
    """Check the form of the patterns that are URLs. Nothing is connected to.

    Raises:
        WrongUse: a URL is not of an object store, or has another form.
    """
    for pattern, _ in map(split_kind, patterns):
        if is_object(pattern):
            with _explain_errors():
                from transforms.sources.archives.object_files import parse_object

                parse_object(pattern)
        elif "://" in pattern:
            raise WrongUse(
                f"--input {pattern} is no archive", "give gs://BUCKET/PATTERN or s3://BUCKET/PATTERN"
            )


@contextmanager
def _explain_errors() -> Iterator[None]:
    """Raise what patterns and object stores raise as a Failure with a fix."""
    try:
        yield
    except NoArchiveError as error:
        fix = "check the path; put a glob in quotes if the shell must not expand it"
        raise WrongUse(str(error), fix) from error
    except (Refused, ValueError) as error:
        problem, _, fix = str(error).partition("; ")
        raise WrongUse(problem, fix) from error
    except Unavailable as error:
        raise RunFailed(str(error), "run the same command again") from error
    except ImportError as error:
        if error.name and error.name.startswith("cryptography"):
            raise make_missing_error("encryption", error, "encryption") from error
        raise make_missing_error("object storage", error, "objects") from error
