"""How an archive is laid out: a folder for each source, and in it a file of lines for each hour.

    ARCHIVE/<source>/2025-10-22T12.ndjson            entries with data, as envelopes
    ARCHIVE/<source>/2025-10-22T12.refused.ndjson    entries without data: `fields` in its place
    ARCHIVE/<source>/2025-10-22T12.late.ndjson       entries that came after larger ids were archived

The hour (UTC) is that of the entry's id, which is when the stream received it. Envelopes are described in
`transforms.envelopes.envelope_lines`. An encrypted archive has `_keys.json` at its top, and `.enc` behind the
names of its files (`transforms.envelopes.encrypted_segments`).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.partitioning import escape_name
from transforms.envelopes.encrypted_segments import ENDING
from transforms.envelopes.envelope_batches import write_envelopes

MESSAGES, REFUSED = ".ndjson", ".refused.ndjson"
"""The two kinds of files: suffixes after the hour."""
UNKNOWN = "unknown"
"""The hour of entries whose id is not a time in the calendar."""
_LATE = ".late"
_NO_TIME = -1
"""In place of a time that is unknown, as microseconds since 1970: entries have none that is negative."""
_HOUR = rf"(?:\d{{4}}-\d\d-\d\dT\d\d|{UNKNOWN})"
_ANY_FILE = re.compile(
    f"{_HOUR}(?:{re.escape(_LATE)})?(?:{re.escape(MESSAGES)}|{re.escape(REFUSED)})(?:{re.escape(ENDING)})?"
)


@dataclass(frozen=True)
class SourceFiles:
    """The files of one source in an archive. `ending`: what they have behind their names, if they are
    encrypted."""

    folder: Path
    ending: str = ""

    @classmethod
    def of(cls, archive: Path, source: str, ending: str = "") -> "SourceFiles":
        """The files of `source`, whose name is escaped to be a file name."""
        return cls(archive / escape_name(source), ending)

    def name_file(self, hour: str, kind: str, late: bool = False) -> Path:
        """The path of the file of an hour."""
        return self.folder / f"{hour}{_LATE if late else ''}{kind}{self.ending}"

    def list_files(self, kind: str) -> list[Path]:
        """The files of a kind that exist, oldest hour first, without the late ones."""
        pattern = re.compile(_HOUR + re.escape(kind + self.ending))
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
    micros = pc.fill_null(rows["received_at"].cast(pa.int64()), _NO_TIME).to_numpy()
    starts = np.flatnonzero(np.diff(micros // 3_600_000_000, prepend=np.iinfo(np.int64).max))
    hours = pc.strftime(rows["received_at"].take(pa.array(starts)), "%Y-%m-%dT%H").fill_null(UNKNOWN)
    yield from zip(hours.to_pylist(), map(slice, starts, [*starts[1:], rows.num_rows]))


def format_lines(rows: pa.RecordBatch, kind: str) -> memoryview:
    """The lines that archive the rows, which are of one source, each with its newline.

    Of MESSAGES, `payload` is the data of an entry with one newline at its end (RAW); of REFUSED it is the
    line itself.
    """
    if kind == REFUSED:
        return memoryview(b"\n".join([*rows["payload"].to_pylist(), b""]))
    return write_envelopes(rows)
