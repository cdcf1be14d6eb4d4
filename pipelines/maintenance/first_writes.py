"""When the rows of a table that have no time were first written: they expire by that.

A row does not say it, and the time of a file is not that of its copy. So maintenance notes the messages of
the rows that it finds for the first time, with the day, in one file for each table. What it has noted of rows
that have expired stays: it proves to `reconcile` why these messages have no row, and a message that is read
again does not get a new first day.
"""

from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import DUPLICATES, MESSAGE_KEY, QUARANTINED, RESULTS, SYSTEM_HEALTH, TASKS, Table
from transforms.core.record_batches import concat, make_empty
from transforms.encryption.key_ring import find_writing_key
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import encode_file, read_file, read_whole
from transforms.storage.storage import Storage

UNTIMED_TABLES = (QUARANTINED, DUPLICATES, TASKS, RESULTS, SYSTEM_HEALTH)
"""The tables whose rows can lack a time and expire."""
FOLDER = "_first_writes"
"""Below the output: `TABLE.parquet`."""
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in MESSAGE_KEY),
        ("first_written", pa.date32()),
        ("stored", pa.bool_()),
    ]
)
"""The message of a row, the day at which maintenance first found it, and whether it was there at the last
look."""


def read_first_writes(hot: Storage, table: Table) -> pa.RecordBatch:
    """What is noted of a table (SCHEMA), by its output's first root; nothing, if nothing is."""
    file = _locate(hot, table)
    stored = file.get()
    return make_empty(SCHEMA) if stored is None else read_whole(stored.data, str(file))


def note_first_writes(hot: Storage, table: Table, today: date, before: date) -> None:
    """Note the rows without a time that a table has now. Rows that were first written before `before` have
    expired."""
    known, found = read_first_writes(hot, table), _read_messages(hot, table)
    is_stored = pc.is_in(_join(known), _join(found))
    is_kept = pc.or_(is_stored, pc.less(known["first_written"], pa.scalar(before)))
    new = found.filter(pc.invert(pc.is_in(_join(found), _join(known))))
    columns = [*new.columns, pa.repeat(pa.scalar(today), len(new)), pa.repeat(pa.scalar(True), len(new))]
    place = SCHEMA.get_field_index("stored")
    old = known.set_column(place, SCHEMA.field(place), is_stored).filter(is_kept)
    noted = concat([old, pa.RecordBatch.from_arrays(columns, schema=SCHEMA)])
    if noted.equals(known):
        return
    file = _locate(hot, table)
    with hot.lock(FOLDER):
        stored = file.get()
        data = encode_file(noted, key=find_writing_key(hot))
        hot.put(file.name, data, stored and stored.version)


def list_first_days(hot: Storage, table: Table) -> frozenset[date]:
    """The days at which rows without a time were first written that a table had at the last look."""
    rows = read_first_writes(hot, table)
    return frozenset(rows["first_written"].filter(rows["stored"]).unique().to_pylist())


def read_expired(hot: Storage, table: Table, before: date) -> pa.RecordBatch:
    """The messages (MESSAGE_KEY) of rows without a time that have expired: first written before `before`."""
    rows = read_first_writes(hot, table)
    return rows.filter(pc.less(rows["first_written"], pa.scalar(before))).select(MESSAGE_KEY)


def remove_expired(hot: Storage, table: Table, before: date, reach: Callable[[], None]) -> None:
    """Remove the rows without a time that have expired; `reach` is called after each file.

    Raises:
        DamagedFile: a file is not as it was written; it stays.
    """
    expired = _join(read_expired(hot, table, before))
    for file in OutputFiles.of(hot).list_untimed(table):
        with hot.lock(file.name.rpartition("/")[0]):
            if (stored := file.get()) is None:
                continue
            rows = read_whole(stored.data, str(file))
            left = rows.filter(pc.invert(pc.is_in(_join(rows), expired)))
            if not left.num_rows:
                hot.remove(file.name)
            elif left.num_rows < rows.num_rows:
                hot.put(file.name, encode_file(left, key=find_writing_key(hot)), stored.version)
        reach()


def _locate(hot: Storage, table: Table) -> OutputFile:
    return OutputFile(f"{FOLDER}/{table.name}.parquet", hot)


def _read_messages(hot: Storage, table: Table) -> pa.RecordBatch:
    """The messages (MESSAGE_KEY) of the rows of a table that have no time."""
    files = OutputFiles.of(hot).list_untimed(table)
    schema = pa.schema([SCHEMA.field(name) for name in MESSAGE_KEY])
    parts = [read_file(file.open(), MESSAGE_KEY, str(file)).select(MESSAGE_KEY) for file in files]
    return concat([make_empty(schema), *(part.cast(schema) for part in parts)])


def _join(rows: pa.RecordBatch) -> pa.Array:
    """string[n]: one text for each message. It begins with the length of the source, since an id of an
    archive may have any character: no two messages have one text."""
    length = pc.binary_length(rows["source"]).cast(pa.string())
    return pc.binary_join_element_wise(length, *(rows[name] for name in MESSAGE_KEY), " ")
