"""Partitioning: which file of an output a row belongs to, and how that file is named.

TABLE/date=YYYY-MM-DD/hour=HH/HHMM.parquet                       rows by `Table.time` (UTC)
TABLE/window_size=5s/date=YYYY-MM-DD/hour=HH/HHMM.parquet        tables of windows
TABLE/date=unknown/hour=unknown/NN.parquet                       rows without a time
TABLE/NN.parquet                                                 tables that have no `Table.time`
"""

import json
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import Table

UNTIMED_FILES = 64
"""How many files of a table share the rows whose time is unknown."""
SPREAD_FILES = 16
"""How many files a table without a time has: crc32(first column of the key) % SPREAD_FILES."""
NAME_LENGTH = 200
"""Most characters of a file name that is made of a text from the data; file systems take 255 bytes."""
_PREFIX_LENGTH = 160
UNTIMED_FOLDER = "date=unknown"
"""The folder of rows without a time, relative to that of a table."""
UNTIMED_HOUR = f"{UNTIMED_FOLDER}/hour=unknown"
_TIMED = "timed"
_EPOCH = datetime.fromtimestamp(0, UTC)


def assign_files(table: Table, rows: pa.RecordBatch, file_minutes: int) -> tuple[np.ndarray, list[str]]:
    """The file of each row: `(codes, paths)`, where row i belongs to `paths[codes[i]]`, below the output.

    `file_minutes` (a divisor of 60) is the span of a file; tables of windows of a minute and more have a file
    an hour. A row without a time belongs to one of UNTIMED_FILES, which its key alone decides; every row of a
    table without a time to one of SPREAD_FILES.
    """
    if not table.time:
        return _spread_rows(table, rows)
    places, names = _assign_places(table, rows)
    spans = np.array([_span_seconds(name, file_minutes) for name in names], dtype=np.int64)
    seconds = pc.fill_null(rows[table.time].cast(pa.int64()), 0).to_numpy(zero_copy_only=False) // 1_000_000
    slots = seconds // spans[places]
    lowest = int(slots.min(initial=0))
    width = int(slots.max(initial=0)) - lowest + 1
    # One number for (place, slot), and the few distinct ones by a hash table: np.unique would sort all rows.
    encoded = pa.array(places * width + (slots - lowest)).dictionary_encode()
    pairs, order = np.unique(encoded.dictionary.to_numpy(), return_inverse=True)
    codes = order[encoded.indices.to_numpy()]
    paths = []
    for pair in pairs.tolist():
        name, slot = names[pair // width], pair % width + lowest
        paths.append(f"{table.name}/{_format_file(name, slot * _span_seconds(name, file_minutes))}")
    return codes, paths


def format_hour_folder(hour: datetime) -> str:
    """The folder of an hour (UTC), relative to that of a table or of a window size."""
    return f"{format_day_folder(hour.date())}/hour={hour:%H}"


def format_day_folder(day: date) -> str:
    """The folder of a day (UTC), relative to that of a table or of a window size."""
    return f"date={day.isoformat()}"


def format_window_folder(granularity: str) -> str:
    """The folder of a window size, relative to that of a table of windows."""
    return f"window_size={granularity}"


def escape_name(text: str) -> str:
    """`text` as the name of a file or folder: letters, digits, `-` and `_` stay, other bytes become `%XX`.

    A name of more than NAME_LENGTH characters is cut, and ends in `~` and the BLAKE2b-128 of the text in hex,
    so that no two texts have one name.
    """
    keep = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    octets = text.encode()
    name = "".join(chr(byte) if byte in keep else f"%{byte:02X}" for byte in octets) or "%"
    if len(name) <= NAME_LENGTH:
        return name
    return f"{name[:_PREFIX_LENGTH]}~{blake2b(octets, digest_size=16).hexdigest()}"


def _spread_rows(table: Table, rows: pa.RecordBatch) -> tuple[np.ndarray, list[str]]:
    """The file of each row of a table without a time, as `assign_files` gives it."""
    ids = rows[table.key[0]].dictionary_encode()
    numbers = np.array([crc32(text.encode()) % SPREAD_FILES for text in ids.dictionary.to_pylist()], np.int64)
    used, codes = np.unique(numbers[ids.indices.to_numpy()], return_inverse=True)
    return codes, [f"{table.name}/{number:02}.parquet" for number in used.tolist()]


def _assign_places(table: Table, rows: pa.RecordBatch) -> tuple[np.ndarray, list[str]]:
    """The part of each row's path that its time does not decide, as (codes, names)."""
    places, names = np.zeros(rows.num_rows, dtype=np.int64), [_TIMED]
    if "granularity" in table.schema.names:
        encoded = rows["granularity"].dictionary_encode()
        places, names = encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
    if not rows[table.time].null_count:
        return places, names
    unknown = np.flatnonzero(rows[table.time].is_null())
    keys = zip(*(rows[name].take(pa.array(unknown)).to_pylist() for name in table.key))
    first = len(names)
    places[unknown] = [first + crc32(json.dumps(key).encode()) % UNTIMED_FILES for key in keys]
    return places, [*names, *(f"{UNTIMED_HOUR}/{number:02}.parquet" for number in range(UNTIMED_FILES))]


def _span_seconds(place: str, file_minutes: int) -> int:
    return 3600 if place in ("1m", "1h") else file_minutes * 60


def _format_file(place: str, seconds: int) -> str:
    if place.startswith(UNTIMED_HOUR):
        return place
    start = _EPOCH + timedelta(seconds=seconds)
    folder = "" if place == _TIMED else f"{format_window_folder(place)}/"
    return f"{folder}{format_hour_folder(start)}/{start:%H%M}.parquet"
