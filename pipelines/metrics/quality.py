"""The newest scores of the derived table data_quality, over the windows of a quarter of an hour."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from schemas.partitioning import assign_files
from transforms.core.errors import DamagedFile
from transforms.core.record_batches import concat, conform
from transforms.derived.data_quality import COUNTS, SCORES, TABLE, count_score
from transforms.sinks.parquet.parquet_file import read_file

SPAN = timedelta(minutes=15)


class QualityScore(NamedTuple):
    """A score of a source: over so many `messages`, up to the `end` of the newest window (1970 seconds)."""

    source: str
    score: str
    value: float
    threshold: float
    messages: int
    end: float


def read_scores(outputs: Iterable[str], now: float) -> list[QualityScore]:
    """The scores of an output on this machine. Two files are read, and again only if they have changed.

    A source without a window in this hour and the hour before has none.
    """
    moment = datetime.fromtimestamp(now, UTC)
    for output in map(Path, outputs):
        if (output / TABLE.table.name).is_dir():
            names = dict.fromkeys(_find_file(moment - timedelta(hours=hours)) for hours in (1, 0))
            found = [rows for name in names if (rows := _read(output / name)) is not None]
            return list(_add_up(concat(found))) if found else []
    return []


def _find_file(moment: datetime) -> str:
    """The file of the minutes of an hour."""
    row = dict.fromkeys(TABLE.table.schema.names) | {
        "granularity": "1m",
        TABLE.table.time: moment.replace(minute=0, second=0, microsecond=0),
    }
    return assign_files(TABLE.table, pa.RecordBatch.from_pylist([row], TABLE.table.schema), 60)[1][0]


def _read(path: Path) -> pa.RecordBatch | None:
    try:
        stat = path.stat()
        return _read_version(path, stat.st_mtime_ns, stat.st_size)
    except (FileNotFoundError, DamagedFile):
        return None


@lru_cache(maxsize=4)
def _read_version(path: Path, *version: int) -> pa.RecordBatch:
    return conform(read_file(path), TABLE.table.schema)


def _add_up(rows: pa.RecordBatch) -> Iterator[QualityScore]:
    rows = rows.filter(pc.and_(rows["source"].is_valid(), rows["time_window_end"].is_valid()))
    for source in sorted(pc.unique(rows["source"]).to_pylist()):
        own = rows.filter(pc.equal(rows["source"], source))
        newest = pc.max(own["time_window_end"]).as_py()
        windows = own.filter(pc.greater(own["time_window_end"], pa.scalar(newest - SPAN)))
        counts = {name: pc.sum(windows[name]).as_py() or 0 for name in COUNTS}
        for score in SCORES:
            numerator, denominator = count_score(score, counts)
            if denominator:
                threshold = pc.max(windows[f"{score}_threshold"]).as_py() or 0.0
                yield QualityScore(
                    source, score, numerator / denominator, threshold, denominator, newest.timestamp()
                )
