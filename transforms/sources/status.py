"""What a reader says of itself: a small file that shows how far it is, rewritten about once a second."""

import json
import logging
import os
import time
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
from apache_beam.utils.timestamp import Timestamp

from transforms.sources.reader import Read

SECONDS = 1.0
_log = logging.getLogger(__name__)


class Status:
    """`reader-<n>.json` in a folder, or nothing where there is no folder. Times are milliseconds since 1970.

    `read` counts rows, and of each stream `lost` entries and the reader's `Notices`, since this process began. That the file
    cannot be written is logged once and else of no consequence.
    """

    def __init__(self, folder: str | None, number: int) -> None:
        self.number = number
        self.path = folder and Path(folder) / f"reader-{number}.json"
        self.read = 0
        self.lost: Counter[str] = Counter()
        self._told = -SECONDS
        self._failed = False

    def tell(self, read: Read, watermark: Timestamp | None) -> None:
        """Count what was read, and write if it is time."""
        self.read += read.rows
        for batch in read.trimmed:
            for source, entries in zip(batch["source"].to_pylist(), pc.fill_null(batch["entries"], 0).to_pylist()):
                self.lost[source] += entries
        if self.path and time.monotonic() - self._told >= SECONDS:
            self._told = time.monotonic()
            self._write(self.path, read, watermark)

    def _write(self, path: Path, read: Read, watermark: Timestamp | None) -> None:
        streams = {
            key: {"position": position.last, "index": position.index, "added": position.added, "lost": self.lost[key]}
            | read.notices[key]._asdict()
            for key, position in read.positions.items()
        }
        text = {
            "reader": self.number,
            "streams": streams,
            "read": self.read,
            "watermark": watermark and watermark.micros // 1000,
            "time": read.now,
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(text), encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:
            if not self._failed:
                _log.warning("the reader's status cannot be written: %s", error)
            self._failed = True
