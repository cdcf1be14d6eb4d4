"""The reports of archive files."""

from collections.abc import Iterator

from schemas.kinds import REPORT_KIND
from transforms.sources.archives.archive_files import ArchiveFiles
from transforms.sources.archives.archive_reader import Unreadable, read_files
from transforms.validation.message_kinds import split_by_kind


class UnreadableError(Exception):
    """A file cannot be read, or not to its end."""


def read_payloads(files: ArchiveFiles) -> Iterator[bytes]:
    """The payload of each report, in the order of the files; messages of other kinds are left out.

    Raises:
        UnreadableError: a file cannot be read to its end.
    """
    for chunk in read_files(files):
        if isinstance(chunk, Unreadable):
            raise UnreadableError(f"{chunk.file}: {chunk.reason}")
        for kind, messages in split_by_kind(chunk.messages):
            if kind == REPORT_KIND:
                yield from (payload.as_buffer().to_pybytes() for payload in messages["payload"])
