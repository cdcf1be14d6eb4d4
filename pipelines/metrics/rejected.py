"""The messages that were rejected last, from the newest file of quarantine."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from schemas.tables import QUARANTINED
from transforms.core.errors import DamagedFile
from transforms.sinks.parquet.output_files import OutputFiles
from transforms.sinks.parquet.parquet_file import read_file

_COLUMNS = ("received_at", "source", "message_id", "reason", "field", "message")


class RejectedMessage(NamedTuple):
    """A message in quarantine, and why it is there."""

    received_at: datetime
    source: str
    message_id: str
    reason: str
    field: str | None
    message: str


def read_rejected(outputs: Iterable[str], now: float, most: int) -> list[RejectedMessage]:
    """The newest messages of the hour that were rejected, the newest first; of an output on this machine."""
    hour = datetime.fromtimestamp(now, UTC)
    for output in map(Path, outputs):
        files = OutputFiles.of(output).list_hour(QUARANTINED.name, hour)
        if not files:
            continue
        try:
            rows = read_file(files[-1].open(), _COLUMNS).to_pylist()
        except (FileNotFoundError, DamagedFile):
            return []
        found = [RejectedMessage(*(row[name] for name in _COLUMNS)) for row in rows]
        return sorted(found, key=lambda each: each.received_at, reverse=True)[:most]
    return []
