"""What a reader says of itself: a small file that shows how far it is, rewritten about once a second."""

import json
import logging
import os
import time
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
from apache_beam.utils.timestamp import Timestamp

from transforms.sources.redis.reader import Notices, Read

SECONDS = 1.0
_log = logging.getLogger(__name__)


class Status:
    """`reader-<n>.json` in a folder, or nothing where there is no folder. Times are milliseconds since 1970.

    `read` counts rows, and of each stream `lost` entries and the reader's `Notices`. The counts go on from those in the file, which
    a process before this one may have left. A file that cannot be read counts as none; that it cannot be written is logged once.
    """

    def __init__(self, folder: str | None, number: int) -> None:
        self.number = number
        self.path = Path(folder) / f"reader-{number}.json" if folder else None
        self.read, self.lost, self._noticed = _counts(self.path)
        self._told = -SECONDS
        self._failed = False

    def tell(self, read: Read, watermark: Timestamp | None) -> None:
        """Count what was read, and write if it is time."""
        self.read += read.rows
        for batch in read.trimmed:
            for source, entries in zip(
                batch["source"].to_pylist(), pc.fill_null(batch["entries"], 0).to_pylist()
            ):
                self.lost[source] += entries
        if self.path and time.monotonic() - self._told >= SECONDS:
            self._told = time.monotonic()
            self._write(self.path, read, watermark)

    def _write(self, path: Path, read: Read, watermark: Timestamp | None) -> None:
        streams = {
            key: {
                "position": position.last,
                "index": position.index,
                "added": position.added,
                "lost": self.lost[key],
            }
            | self._noticed.get(key, Notices()).plus(read.notices[key])._asdict()
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


def _counts(path: Path | None) -> tuple[int, Counter[str], dict[str, Notices]]:
    """Rows read, entries lost and notices of each stream, as a status file has them; none where there is no whole file."""
    if path is None:
        return 0, Counter(), {}
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
        noticed = {
            key: Notices(*(place[name] for name in Notices._fields)) for key, place in text["streams"].items()
        }
        return text["read"], Counter({key: place["lost"] for key, place in text["streams"].items()}), noticed
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return 0, Counter(), {}
