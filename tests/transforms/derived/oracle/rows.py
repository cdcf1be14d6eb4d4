"""Rows of stored tables as dicts, with times as whole microseconds since 1970-01-01 00:00 UTC."""

from typing import Any

import numpy as np
import pyarrow as pa

Row = dict[str, Any]
Tables = dict[str, list[Row]]
Settings = dict[str, Any]

SECOND = 10**6
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def read_rows(table: pa.Table | pa.RecordBatch) -> list[Row]:
    """The rows of a table; maps are lists of pairs."""
    columns = {}
    for field in table.schema:
        column = table.column(field.name)
        if pa.types.is_timestamp(field.type):
            column = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        columns[field.name] = column.to_pylist()
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def write_time(time: int | None) -> str | None:
    """A time as JSON has it: `2025-10-20T08:00:00.000000Z`."""
    return None if time is None else f"{np.datetime64(time, 'us')}Z"
