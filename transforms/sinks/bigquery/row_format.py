"""Rows on their way to BigQuery and back: the columns of a table there, flat columns for appending, and requests of bearable size.

A map becomes ARRAY<STRUCT<key, value>>, a list ARRAY, a struct STRUCT. BigQuery keeps no null array: null and empty are one there,
and both come back as null. For appending, a struct is spread over columns `name__field` and a map over `name__key` and
`name__value`, so that every column is a scalar or an array of scalars; `transforms.sinks.bigquery.sql` puts them together again.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import REPORTS, Table
from transforms.core.errors import Refused
from transforms.core.grouping import Ints
from transforms.core.record_batches import make_empty
from transforms.sinks.row_merge import merge_rows

REQUEST_BYTES = 8_000_000
"""Rows of one request, in bytes; BigQuery takes requests of at most 10 MB."""
_MOST_BYTES = 9_900_000
PARTITIONS = 1000
"""Days that one merge may touch; BigQuery takes at most 4,000 partitions a job."""

_DAY = 86_400_000_000
_NO_DAY = np.iinfo(np.int64).min
_FIRST_DAY, _LAST_DAY = (
    int(np.datetime64(day, "D").astype(np.int64)) for day in ("0001-01-01", "9999-12-31")
)
_SCALARS = [
    (pa.types.is_string, "STRING", "STRING"),
    (pa.types.is_binary, "BYTES", "BYTES"),
    (pa.types.is_integer, "INTEGER", "INT64"),
    (pa.types.is_floating, "FLOAT", "FLOAT64"),
    (pa.types.is_boolean, "BOOLEAN", "BOOL"),
    (pa.types.is_timestamp, "TIMESTAMP", "TIMESTAMP"),
]


def column(field: pa.Field) -> dict[str, Any]:
    """The column of a field, as BigQuery's REST interface writes it."""
    kind = field.type
    if pa.types.is_map(kind):
        pair = [column(pa.field("key", kind.key_type)), column(pa.field("value", kind.item_type))]
        return {"name": field.name, "type": "RECORD", "mode": "REPEATED", "fields": pair}
    if pa.types.is_list(kind):
        return column(pa.field(field.name, kind.value_type)) | {"mode": "REPEATED"}
    if pa.types.is_struct(kind):
        return {
            "name": field.name,
            "type": "RECORD",
            "mode": "NULLABLE",
            "fields": [column(child) for child in kind],
        }
    return {"name": field.name, "type": _scalar(kind)[0], "mode": "NULLABLE"}


def sql_type(kind: pa.DataType) -> str:
    """The type as BigQuery's SQL writes it."""
    if pa.types.is_map(kind):
        return f"ARRAY<STRUCT<`key` {sql_type(kind.key_type)}, `value` {sql_type(kind.item_type)}>>"
    if pa.types.is_list(kind):
        return f"ARRAY<{sql_type(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"STRUCT<{', '.join(f'`{child.name}` {sql_type(child.type)}' for child in kind)}>"
    return _scalar(kind)[1]


def _scalar(kind: pa.DataType) -> tuple[str, str]:
    return next((rest, sql) for fits, rest, sql in _SCALARS if fits(kind))


def flat_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of `flat`."""
    return flat(make_empty(schema)).schema


def flat(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows in scalars and arrays of scalars. Integers are int64; null arrays are empty."""
    columns: dict[str, pa.Array] = {}
    for name, values in zip(rows.schema.names, rows.columns):
        columns |= _flat(name, values)
    return pa.RecordBatch.from_pydict(columns)


def _flat(name: str, values: pa.Array) -> dict[str, pa.Array]:
    kind = values.type
    if pa.types.is_struct(kind):
        columns: dict[str, pa.Array] = {}
        for place, child in enumerate(kind):
            columns |= _flat(f"{name}__{child.name}", pc.struct_field(values, place))
        return columns
    if pa.types.is_map(kind):
        offsets, pairs = _dense(values.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))))
        parts = {f"{name}__key": pc.struct_field(pairs, 0), f"{name}__value": pc.struct_field(pairs, 1)}
        return {part: pa.ListArray.from_arrays(offsets, items) for part, items in parts.items()}
    if pa.types.is_list(kind):
        return {name: pa.ListArray.from_arrays(*_dense(values))}
    return {name: values.cast(pa.int64()) if pa.types.is_integer(kind) else values}


def _dense(values: pa.Array) -> tuple[pa.Array, pa.Array]:
    """int32[n + 1]: where the lists of an array begin in its values; and these values, without what null lists cover."""
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), pc.list_flatten(values)


def restored(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Rows as BigQuery gives them, in the columns of `schema`; a missing column is null, a further one is left out.

    Raises:
        pyarrow.ArrowInvalid: a column does not fit its type.
    """
    names = set(rows.schema.names)
    columns = [
        _restored(rows[f.name], f.type) if f.name in names else pa.nulls(rows.num_rows, f.type)
        for f in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _restored(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_struct(kind):
        children = [_restored(pc.struct_field(values, child.name), child.type) for child in kind]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=values.is_null())
    if not (pa.types.is_map(kind) or pa.types.is_list(kind)):
        return values.cast(kind)
    offsets, items = _dense(values)
    begins = offsets.to_numpy()
    missing = np.append(np.diff(begins) == 0, False)
    spans = pa.array(begins, pa.int32(), mask=missing)
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(spans, items.cast(kind.value_type), type=kind)
    key, value = (
        pc.struct_field(items, "key").cast(kind.key_type),
        pc.struct_field(items, "value").cast(kind.item_type),
    )
    return pa.MapArray.from_arrays(spans, key, value, type=kind)


def contenders(table: Table, rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows that may come to stand: one a key, and of reports one a key and message, since each message is to be told of."""
    if table.name == REPORTS.name:
        table = replace(table, key=(*table.key, "source", "message_id"))
    return merge_rows(table, make_empty(table.schema), rows).rows


def by_partitions(table: Table, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows in parts that touch at most PARTITIONS days each; all rows of a day are in one part."""
    days = _days(table, rows)
    distinct, codes = np.unique(days, return_inverse=True)
    if len(distinct) <= PARTITIONS:
        yield rows
        return
    parts = codes // PARTITIONS
    for part in range(int(parts.max()) + 1):
        yield rows.take(pa.array(np.flatnonzero(parts == part)))


def spans(table: Table, rows: pa.RecordBatch) -> tuple[list[tuple[str, str]], bool]:
    """The days of the rows as runs (first and last day, both of the run, as YYYY-MM-DD), and whether a row has no time."""
    days = np.unique(_days(table, rows))
    timed = days[days != _NO_DAY].clip(_FIRST_DAY, _LAST_DAY)
    runs = np.split(timed, np.flatnonzero(np.diff(timed) > 1) + 1) if len(timed) else []
    return [(str(run[0].astype("datetime64[D]")), str(run[-1].astype("datetime64[D]"))) for run in runs], len(
        timed
    ) < len(days)


def _days(table: Table, rows: pa.RecordBatch) -> Ints:
    """int64[n]: the day of each row, counted from 1970, or _NO_DAY."""
    moments = rows[table.time].cast(pa.int64())
    days = pc.fill_null(moments, 0).to_numpy(zero_copy_only=False) // _DAY
    return np.where(moments.is_null().to_numpy(zero_copy_only=False), _NO_DAY, days)


def serialized(rows: pa.RecordBatch) -> Iterator[tuple[int, bytes]]:
    """The rows, in order, as IPC messages of about REQUEST_BYTES and never more than BigQuery takes, each after its number of rows.

    Raises:
        Refused: a single row is too large.
    """
    step = max(1, rows.num_rows * REQUEST_BYTES // max(rows.nbytes, 1))
    for start in range(0, rows.num_rows, step):
        yield from _halved(rows.slice(start, step))


def _halved(rows: pa.RecordBatch) -> Iterator[tuple[int, bytes]]:
    data = rows.serialize().to_pybytes()
    if len(data) <= _MOST_BYTES:
        yield rows.num_rows, data
        return
    if rows.num_rows == 1:
        raise Refused(
            f"a row of {len(data):,} bytes is more than the 10 MB that BigQuery takes; lower max_payload_bytes, or write to files"
        )
    half = rows.num_rows // 2
    yield from _halved(rows.slice(0, half))
    yield from _halved(rows.slice(half))
