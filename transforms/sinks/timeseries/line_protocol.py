"""Aggregates as InfluxDB line protocol, which both time-series stores read.

A row of kpi_fleet or kpi_aggregations is one line: a measurement, two tags, a field for each column that is
not null, and a time.

    kpi,granularity=1m,agent_type=planner tasks=118,latency_seconds=0.293,... 1761134400001

A tag's value has no escape for a line break or a closing backslash, so they are written `%XX`
(`escape_labels`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import AGGREGATIONS, FLEET, Table
from transforms.core.grouping import Ints
from transforms.core.record_batches import concat, conform, make_empty, split_by_rows
from transforms.sinks.row_merge import merge_rows

BODY_BYTES = 4 << 20
"""Lines of one request, before they are compressed."""
_PORTION = 50_000


class LineField(NamedTuple):
    """A field of a line: the value of `column`, times `times`, divided by `per`, in `unit`.

    Units are Prometheus' base units. One of the factors is 1, so that a value is rounded at most once.
    """

    name: str
    column: str
    unit: str
    times: int = 1
    per: int = 1


REVISION = LineField("revision", "revision", "")
FIELDS = (
    LineField("tasks", "task_count", "reports"),
    LineField("success_ratio", "success_rate", "fraction"),
    LineField("latency_seconds", "avg_latency_ms", "seconds", per=1000),
    LineField("latency_stddev_seconds", "latency_stddev", "seconds", per=1000),
    LineField("latency_min_seconds", "min_latency_ms", "seconds", per=1000),
    LineField("latency_max_seconds", "max_latency_ms", "seconds", per=1000),
    LineField("latency_p50_seconds", "latency_p50_ms", "seconds", per=1000),
    LineField("latency_p95_seconds", "latency_p95_ms", "seconds", per=1000),
    LineField("latency_p99_seconds", "latency_p99_ms", "seconds", per=1000),
    LineField("accuracy_ratio", "avg_accuracy", "fraction"),
    LineField("accuracy_stddev_ratio", "accuracy_stddev", "fraction"),
    LineField("cpu_usage_ratio", "avg_cpu_usage", "fraction"),
    LineField("memory_bytes", "avg_memory_mb", "bytes", times=1_000_000),
    LineField("network_bytes", "total_network_bytes", "bytes"),
    LineField("performance_score", "performance_score", "score, 0 to 1"),
    LineField("efficiency_ratio", "efficiency_ratio", "ratio"),
    *(
        LineField(f"{metric}_outliers", f"{metric}_outlier_count", "reports")
        for metric in ("latency", "accuracy", "cpu", "memory")
    ),
)
"""Every field but the revision; the name that a metric has in a store is `<measurement>_<field>`."""


class Series(NamedTuple):
    """How the rows of a table become series: the measurement, and the tag beside `granularity` with its
    column.

    An agent's rows have no tag for its type: the type is not part of their key, and a late report may change
    it, which would leave an older revision of the window behind as a series of its own.
    """

    measurement: str
    tag: str
    column: str


SERIES = {
    FLEET.name: Series("kpi", "agent_type", "target_agent_type"),
    AGGREGATIONS.name: Series("kpi_agent", "agent_id", "agent_id"),
}

_LABEL_UNSAFE = str.maketrans({chr(code): f"%{code:02X}" for code in (*range(32), 127, ord("%"), ord("\\"))})
_TAG_ESCAPED = str.maketrans({character: f"\\{character}" for character in ",= "})


def keep_newest(table: Table, rows: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Return the rows in the table's columns, each key once: of rows with one key the largest revision."""
    none = make_empty(table.schema)
    return merge_rows(table, none, concat([conform(batch, table.schema) for batch in rows] or [none])).rows


def escape_labels(values: pa.Array) -> pa.Array:
    """string[n]: the values of a tag as a store shows them; distinct values stay distinct, and null stays
    null.

    Control characters, backslash and percent become `%XX`, an empty text `%`: for a store an empty tag is
    none.
    """
    return _change_matching(
        values, r"^$|[\x00-\x1f\x7f%\\]", lambda text: text.translate(_LABEL_UNSAFE) or "%"
    )


def escape_tag(text: str) -> str:
    """Return the value of a tag as a line has it."""
    return text.translate(_TAG_ESCAPED)


def to_milliseconds(times: pa.Array) -> Ints:
    """int64[n]: times (of microseconds) as milliseconds since 1970."""
    return times.cast(pa.int64()).to_numpy(zero_copy_only=False) // 1000


def format_bodies(
    rows: pa.RecordBatch,
    series: Series,
    times: Ints,
    fields: Sequence[LineField],
    labels: Mapping[str, str] | None = None,
    limit: int = BODY_BYTES,
) -> Iterator[bytes]:
    """Yield the rows as lines, in order, in bodies of about `limit` bytes, each of whole lines.

    A null, or a number that is not finite, is left out of its line; a row without any field has no line.
    `times` is int64[n] in milliseconds since 1970; `labels` are further tags of every line.
    """
    stamped = rows.append_column("sample_time", pa.array(times, pa.int64()))
    for portion in split_by_rows(stamped, _PORTION):
        lines = _format_lines(portion, series, fields, labels or {})
        ends = np.frombuffer(lines.buffers()[1], dtype=np.int32)[lines.offset : lines.offset + len(lines) + 1]
        data = memoryview(lines.buffers()[2] or b"")
        start = 0
        while start < len(lines):
            stop = max(start + 1, int(np.searchsorted(ends, ends[start] + limit, side="right")) - 1)
            yield bytes(data[ends[start] : ends[stop]])
            start = stop


def _format_lines(
    rows: pa.RecordBatch, series: Series, fields: Sequence[LineField], labels: Mapping[str, str]
) -> pa.Array:
    """string[m]: a line, with its line break, of each row that has a field."""
    join = pc.binary_join_element_wise
    values = [join(f"{field.name}=", _format_numbers(rows, field), "") for field in fields]
    some = np.logical_or.reduce([value.is_valid().to_numpy(zero_copy_only=False) for value in values])
    if not some.all():
        return _format_lines(rows.filter(pa.array(some)), series, fields, labels)
    tag = _change_matching(escape_labels(rows[series.column]), "[,= ]", escape_tag)
    tag = pc.fill_null(join(f",{series.tag}=", tag, ""), "")
    further = "".join(f",{escape_tag(name)}={escape_tag(value)}" for name, value in labels.items())
    present, time = join(*values, ",", null_handling="skip"), rows["sample_time"].cast(pa.string())
    return join(
        f"{series.measurement}{further},granularity=",
        rows["granularity"],
        tag,
        " ",
        present,
        " ",
        time,
        "\n",
        "",
    )


def _format_numbers(rows: pa.RecordBatch, field: LineField) -> pa.Array:
    """string[n]: a column's numbers in the field's unit; null where there is none."""
    values = rows[field.column]
    if field.times != 1 or field.per != 1:
        values = pc.divide(pc.multiply(values.cast(pa.float64()), float(field.times)), float(field.per))
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))
    return values.cast(pa.string())


def _change_matching(values: pa.Array, pattern: str, change: Callable[[str], str]) -> pa.Array:
    """The texts, changed where they match `pattern`; Python runs only once for each distinct text of
    these."""
    encoded = values.dictionary_encode()
    texts = encoded.dictionary
    matches = pc.match_substring_regex(texts, pattern)
    if not pc.any(matches).as_py():
        return values
    changed = pa.array([change(text) for text in texts.filter(matches).to_pylist()], pa.string())
    return pc.replace_with_mask(texts, matches, changed).take(encoded.indices)
