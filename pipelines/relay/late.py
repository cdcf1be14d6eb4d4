"""Reports that are too old for the stream when they are fetched, appended to an archive for `backfill`.

The ids of a stream are the times at which messages were received, so an old report would be rejected there as
stale. The archive has envelopes without `received_at`, which have no age. Lines are safe on disk before the
cursor moves; a relay that dies in between archives them again.
"""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from transforms.core.durable_files import explain_full, lock_folder, sync_path
from transforms.envelopes.envelope_lines import write_envelope
from transforms.sinks.archive.line_files import append_lines, cut_torn_end

MARGIN_SECONDS = 300
"""A report that will be stale so soon is archived too: the stream may be behind."""
_PATTERN = "late-*.ndjson"


class _Head(msgspec.Struct):
    recorded_at: object = None


class ReportsByAge(NamedTuple):
    """Reports by where they go."""

    fresh: list[bytes]
    late: list[bytes]


_decoder = msgspec.json.Decoder(_Head)


def split_by_age(reports: Sequence[bytes], oldest: float) -> ReportsByAge:
    """The reports by whether they were recorded at `oldest` (seconds since 1970) or later. One whose time
    cannot be read goes to the stream, where validation says why."""
    split = ReportsByAge([], [])
    for report in reports:
        recorded = read_recorded_at(report)
        (split.fresh if recorded is None or recorded >= oldest else split.late).append(report)
    return split


def read_recorded_at(report: bytes) -> float | None:
    """When a report was recorded, in seconds since 1970; None where it does not say so."""
    try:
        text = _decoder.decode(report).recorded_at
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        return None if moment is None or moment.tzinfo is None else moment.timestamp()
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None


class LateReports:
    """The archive of late reports of a stream: a file for each day (UTC) on which they were fetched."""

    def __init__(self, folder: Path, stream: str) -> None:
        self.folder, self._stream = folder, stream
        self._end: tuple[Path, int] | None = None  # the file that was appended to last, and its size then

    def append(self, reports: Sequence[bytes], digests: Sequence[bytes], now: float) -> None:
        """Append reports; they are safe on disk afterwards.

        Raises:
            OutputFull: the disk is full; the file is as it was.
        """
        lines = [
            write_envelope(self._stream, digest.hex(), None, report)
            for report, digest in zip(reports, digests)
        ]
        path = self.folder / _PATTERN.replace("*", f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}")
        with lock_folder(self.folder), explain_full(self.folder):
            is_new = not path.exists()
            size = 0 if is_new else path.stat().st_size
            if size and self._end != (path, size):  # not as we left it: a writer may have died there
                size = cut_torn_end(path)
            data = b"\n".join([*lines, b""])
            append_lines(path, size, memoryview(data))
            sync_path(path)
            if is_new:
                sync_path(self.folder)
            self._end = path, size + len(data)

    def has_any(self) -> bool:
        """Whether there is a file."""
        return any(self.folder.glob(_PATTERN))

    def describe_backfill(self) -> str:
        """The command that puts the archived reports into the tables."""
        return f"kpiflow backfill --input {shlex.quote(str(self.folder / _PATTERN))} --output OUT"
