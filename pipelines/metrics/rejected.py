"""The messages that were rejected last, from the newest file of quarantine."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from schemas.partitioning import format_hour_folder
from schemas.tables import QUARANTINED
from transforms.core.errors import DamagedFile
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
    hour = format_hour_folder(datetime.fromtimestamp(now, UTC))
    for folder in (Path(output) / QUARANTINED.name / hour for output in outputs):
        files = sorted(folder.glob("[0-9]*.parquet"))
        if not files:
            continue
        try:
            rows = read_file(files[-1], _COLUMNS).to_pylist()
        except (FileNotFoundError, DamagedFile):
            return []
        found = [RejectedMessage(*(row[name] for name in _COLUMNS)) for row in rows]
        return sorted(found, key=lambda each: each.received_at, reverse=True)[:most]
    return []
