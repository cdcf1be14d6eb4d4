"""How an archive is laid out: a folder for each source, and in it a file of lines for each hour.

    ARCHIVE/<source>/2025-10-22T12.ndjson            entries with data, as envelopes
    (`transforms.envelopes.envelope_lines`) ARCHIVE/<source>/2025-10-22T12.refused.ndjson    entries without
    data: `fields` in its place ARCHIVE/<source>/2025-10-22T12.late.ndjson       entries that came after
    entries with larger ids were archived

The hour (UTC) is that of the entry's id, which is when the stream received it.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from schemas.partitioning import escape_name
from transforms.envelopes.envelope_lines import write_envelope

MESSAGES, REFUSED = ".ndjson", ".refused.ndjson"
"""The two kinds of files: suffixes after the hour."""
UNKNOWN = "unknown"
"""The hour of entries whose id is not a time in the calendar."""
_LATE = ".late"
_HOUR = rf"(?:\d{{4}}-\d\d-\d\dT\d\d|{UNKNOWN})"
_ANY_FILE = re.compile(f"{_HOUR}(?:{re.escape(_LATE)})?(?:{re.escape(MESSAGES)}|{re.escape(REFUSED)})")


@dataclass(frozen=True)
class SourceFiles:
    """The files of one source in an archive."""

    folder: Path

    @classmethod
    def of(cls, archive: Path, source: str) -> "SourceFiles":
        """The files of `source`, whose name is escaped to be a file name."""
        return cls(archive / escape_name(source))

    def name_file(self, hour: str, kind: str, late: bool = False) -> Path:
        """The path of the file of an hour."""
        return self.folder / f"{hour}{_LATE if late else ''}{kind}"

    def list_files(self, kind: str) -> list[Path]:
        """The files of a kind that exist, oldest hour first, without the late ones."""
        pattern = re.compile(_HOUR + re.escape(kind))
        return [self.folder / name for name in sorted(os.listdir(self.folder)) if pattern.fullmatch(name)]

    def read_sizes(self) -> dict[Path, int]:
        """The sizes of all files, late ones too; none if there is no folder."""
        if not self.folder.is_dir():
            return {}
        with os.scandir(self.folder) as found:
            return {
                Path(entry.path): entry.stat().st_size for entry in found if _ANY_FILE.fullmatch(entry.name)
            }


def split_by_hour(rows: pa.RecordBatch) -> Iterator[tuple[str, slice]]:
    """The hours of consecutive rows (`2025-10-22T12`, or UNKNOWN), each with the slice of its rows."""
    hours = pc.strftime(rows["received_at"], "%Y-%m-%dT%H").fill_null(UNKNOWN).to_pylist()
    start = 0
    for hour, of_hour in groupby(hours):
        stop = start + sum(1 for _ in of_hour)
        yield hour, slice(start, stop)
        start = stop


def format_lines(rows: pa.RecordBatch, kind: str) -> bytes:
    """The lines that archive the rows, each with its newline.

    Of MESSAGES, `payload` is the data of an entry with one newline at its end (RAW); of REFUSED it is the
    line itself.
    """
    if kind == REFUSED:
        lines = rows["payload"].to_pylist()
    else:
        times = pc.strftime(rows["received_at"], "%Y-%m-%dT%H:%M:%SZ").to_pylist()
        payloads = pc.binary_slice(rows["payload"], 0, -1).to_pylist()
        # Row by row: orjson escapes three times as fast as Arrow's string kernels do.
        lines = list(
            map(write_envelope, rows["source"].to_pylist(), rows["message_id"].to_pylist(), times, payloads)
        )
    return b"\n".join([*lines, b""])
