"""The columns of tables in BigQuery, and rows on their way there and back.

A map is ARRAY<STRUCT<key, value>> there, a list ARRAY, a struct STRUCT. BigQuery keeps no null array: null
and empty are the same there, and both come back as null.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.cloud.bigquery import SchemaField

from schemas.tables import Table
from transforms.core.record_batches import make_empty
from transforms.sinks.row_merge import has_contents, merge_rows

MERGE_DAYS = 1000
"""Days that one merge may touch: BigQuery modifies at most 4,000 partitions a job."""

_DAY_US = 86_400_000_000
_UNTIMED = np.iinfo(np.int64).min
_SCALARS = [
    (pa.types.is_string, "STRING"),
    (pa.types.is_binary, "BYTES"),
    (pa.types.is_integer, "INTEGER"),
    (pa.types.is_floating, "FLOAT"),
    (pa.types.is_boolean, "BOOLEAN"),
    (pa.types.is_timestamp, "TIMESTAMP"),
]
_SQL_NAMES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}


def schema_field(field: pa.Field) -> SchemaField:
    """Return the column of BigQuery that holds a field of Arrow."""
    kind = field.type
    if pa.types.is_map(kind):
        pair = [
            schema_field(kind.key_field.with_name("key")),
            schema_field(kind.item_field.with_name("value")),
        ]
        return SchemaField(field.name, "RECORD", "REPEATED", fields=pair)
    if pa.types.is_list(kind):
        return SchemaField(field.name, schema_field(kind.value_field).field_type, "REPEATED")
    if pa.types.is_struct(kind):
        return SchemaField(field.name, "RECORD", fields=[schema_field(child) for child in kind])
    return SchemaField(field.name, next(name for fits, name in _SCALARS if fits(kind)))


def sql_type(column: SchemaField) -> str:
    """Return the type of a column as SQL spells it; equal types have equal texts."""
    kind = _SQL_NAMES.get(column.field_type.upper(), column.field_type.upper())
    if column.fields:
        kind += f"<{', '.join(f'`{child.name}` {sql_type(child)}' for child in column.fields)}>"
    return f"ARRAY<{kind}>" if column.mode == "REPEATED" else kind


def maps_as_lists(rows: pa.RecordBatch) -> pa.Table:
    """Return the rows with each column that is a map as a list of structs (key, value), as a load job reads
    it."""
    columns = [
        values.cast(pa.list_(pa.struct([("key", values.type.key_type), ("value", values.type.item_type)])))
        if pa.types.is_map(values.type)
        else values
        for values in rows.columns
    ]
    return pa.table(columns, names=rows.schema.names)


def restore_rows(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows as BigQuery gives them in the columns of `schema`; a missing column is null, others are
    left out.

    Raises:
        pyarrow.ArrowInvalid: a column does not fit its type.
    """
    names = set(rows.schema.names)
    columns = [
        _restore(rows[f.name], f.type) if f.name in names else pa.nulls(rows.num_rows, f.type) for f in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _restore(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_struct(kind):
        children = [_restore(pc.struct_field(values, child.name), child.type) for child in kind]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=values.is_null())
    if pa.types.is_map(kind) or pa.types.is_list(kind):
        filled = pc.greater(pc.list_value_length(values), 0)
        values = pc.if_else(filled, values, pa.scalar(None, values.type))
    if pa.types.is_map(kind):
        keys, items = (pc.struct_field(values.values, name) for name in ("key", "value"))
        return pa.MapArray.from_arrays(values.offsets, keys, items, type=kind, mask=values.is_null())
    return values.cast(kind)


def drop_superseded(table: Table, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return the rows that may be kept: one a key; where keys are contents one a key and message, as each
    message has a fate."""
    if has_contents(table):
        table = replace(table, key=(*table.key, "source", "message_id"))
    return merge_rows(table, make_empty(table.schema), rows).rows


def split_by_days(table: Table, rows: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, str]]:
    """Yield the rows in parts of at most MERGE_DAYS days, each with the condition that its days meet in `t`.

    The condition is made of literals, so that BigQuery reads only the partitions of these days. A table
    without a time has no partitions, and one part.
    """
    if not table.time:
        yield rows, "TRUE"
        return
    times = rows[table.time].cast(pa.int64())
    moments = pc.fill_null(times, 0).to_numpy(zero_copy_only=False)
    days = np.where(times.is_null().to_numpy(zero_copy_only=False), _UNTIMED, moments // _DAY_US)
    distinct, codes = np.unique(days, return_inverse=True)
    for first in range(0, len(distinct), MERGE_DAYS):
        touched = distinct[first : first + MERGE_DAYS]
        mine = np.flatnonzero((codes >= first) & (codes < first + MERGE_DAYS))
        yield (
            rows if len(mine) == rows.num_rows else rows.take(pa.array(mine)),
            _on_days(f"t.`{table.time}`", touched),
        )


def _on_days(time: str, days: np.ndarray) -> str:
    """The condition that a time is on one of some days (ascending, counted from 1970), or null if _UNTIMED is
    one."""
    timed = days[days != _UNTIMED]
    runs = np.split(timed, np.flatnonzero(np.diff(timed) > 1) + 1) if len(timed) else []
    spans = [during(time, f"{_date(run[0])} 00:00:00", f"{_date(run[-1])} 23:59:59.999999") for run in runs]
    return f"({' OR '.join(spans + [f'{time} IS NULL'] * (len(timed) < len(days)))})"


def during(time: str, first: str, last: str) -> str:
    """Return the condition that a time is between two moments of UTC, both included."""
    return f"{time} >= TIMESTAMP '{first}+00' AND {time} <= TIMESTAMP '{last}+00'"


def _date(day: np.int64) -> str:
    return str(day.astype("datetime64[D]"))
