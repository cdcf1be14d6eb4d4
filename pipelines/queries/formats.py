"""An answer as bytes: JSON, NDJSON, CSV, an Arrow stream or Parquet.

Texts and times are exact in all of them, but for CSV: a text that a spreadsheet would take for a formula
gets a leading `'`. Maps and structs are objects in JSON, and texts of JSON in CSV.
"""

import io
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from math import isfinite
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipelines.queries.run import Answer

_CHUNK = 1000
"""Rows that are Python objects at one time."""
_FORMULA = r"^[=+\-@\t\r]"


def list_rows(rows: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows as dicts of what JSON knows: times as RFC 3339, maps as dicts, numbers that are not finite as
    null."""
    for batch in rows.to_batches(max_chunksize=_CHUNK):
        for values in zip(*map(_list_values, batch.columns)):
            yield dict(zip(rows.column_names, values))


def _list_values(column: pa.Array) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if pa.types.is_string(column.type) or pa.types.is_integer(column.type):
        return values
    if pa.types.is_floating(column.type):
        return [value if value is not None and isfinite(value) else None for value in values]
    return [_to_plain(value, column.type) for value in values]


def _render_json(answer: Answer) -> bytes:
    asked = {name: _to_plain(value) for name, value in answer.asked.items() if value is not None}
    head: dict[str, Any] = {"query": answer.query.name, "asked": asked, "row_count": answer.rows.num_rows}
    tail: dict[str, Any] = {"is_cut": answer.cursor is not None, "cursor": answer.cursor}
    if answer.withheld:
        tail["withheld"] = list(answer.withheld)
    return _dump({**head, **tail, "rows": list(list_rows(answer.rows))}) + b"\n"


def _render_ndjson(answer: Answer) -> bytes:
    return b"".join(_dump(row) + b"\n" for row in list_rows(answer.rows))


def _render_csv(answer: Answer) -> bytes:
    columns = [_to_cells(column) for column in answer.rows.columns]
    sink = io.BytesIO()
    pa.csv.write_csv(pa.table(columns, names=answer.rows.column_names), sink)
    return sink.getvalue()


def _render_arrow(answer: Answer) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, answer.rows.schema) as writer:
        writer.write_table(answer.rows)
    return sink.getvalue()


def _render_parquet(answer: Answer) -> bytes:
    sink = io.BytesIO()
    pq.write_table(answer.rows, sink, compression="zstd")
    return sink.getvalue()


FORMATS: dict[str, Callable[[Answer], bytes]] = {
    "json": _render_json,
    "ndjson": _render_ndjson,
    "csv": _render_csv,
    "arrow": _render_arrow,
    "parquet": _render_parquet,
}
"""What renders an answer, by the name of the format."""


def _dump(value: Any) -> bytes:
    """A value as JSON in ASCII on one line, so that a terminal obeys nothing in it."""
    return json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f").encode()


def _to_plain(value: Any, type_: pa.DataType | None = None) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, list) and type_ is not None and pa.types.is_map(type_):
        return {key: _to_plain(inner) for key, inner in value}
    if isinstance(value, dict):
        return {key: _to_plain(inner) for key, inner in value.items()}
    return value


def _to_cells(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """A column as CSV has it."""
    if pa.types.is_timestamp(column.type):
        return pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
    if pa.types.is_nested(column.type):
        values = (_to_plain(value, column.type) for value in column.to_pylist())
        return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
    if pa.types.is_string(column.type):
        is_formula = pc.match_substring_regex(column, _FORMULA)
        return pc.if_else(is_formula, pc.binary_join_element_wise("'", column, ""), column)
    return column
