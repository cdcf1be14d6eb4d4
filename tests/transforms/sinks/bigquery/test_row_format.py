"""Rows between Arrow and BigQuery, without BigQuery."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import DUPLICATES, REPORTS, TABLES, TIME, TRIMMED
from transforms.core.errors import Refused
from transforms.sinks.bigquery import row_format
from transforms.sinks.bigquery.row_format import (
    by_partitions,
    column,
    contenders,
    flat,
    flat_schema,
    restored,
    serialized,
    spans,
    sql_type,
)

NESTED = pa.schema(
    [
        ("metrics", pa.map_(pa.string(), pa.float64())),
        (
            "context",
            pa.struct([("host", pa.string()), ("cores", pa.int32()), ("nets", pa.list_(pa.string()))]),
        ),
        ("hour", pa.int32()),
        ("time", TIME),
    ]
)
texts = st.text(max_size=3)
nested_rows = st.fixed_dictionaries(
    {
        "metrics": st.none()
        | st.dictionaries(texts, st.floats(allow_nan=False), max_size=3).map(lambda each: list(each.items())),
        "context": st.none()
        | st.fixed_dictionaries(
            {"host": texts, "cores": st.integers(0, 9), "nets": st.none() | st.lists(texts)}
        ),
        "hour": st.none() | st.integers(0, 23),
    }
)


def duplicates(*times: datetime | None) -> pa.RecordBatch:
    rows = [
        {"source": "s", "message_id": f"{place}", "received_at": time, "revision": 1}
        for place, time in enumerate(times)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=DUPLICATES.schema)


def as_bigquery_has_it(row: dict) -> dict:
    """A row whose null arrays are empty and whose maps are lists of structs."""
    context = row["context"]
    pairs = [{"key": key, "value": value} for key, value in row["metrics"] or []]
    return row | {"metrics": pairs, "context": context and context | {"nets": context["nets"] or []}}


@given(st.lists(nested_rows, max_size=6), st.integers(0, 3))
def test_flat_columns_hold_what_the_rows_hold(rows: list[dict], start: int) -> None:
    batch = pa.RecordBatch.from_pylist(rows, schema=NESTED).slice(start)
    assert flat(batch).to_pylist() == [
        {
            "metrics__key": [key for key, _ in row["metrics"] or []],
            "metrics__value": [value for _, value in row["metrics"] or []],
            "context__host": (row["context"] or {}).get("host"),
            "context__cores": (row["context"] or {}).get("cores"),
            "context__nets": (row["context"] or {}).get("nets") or [],
            "hour": row["hour"],
            "time": None,
        }
        for row in rows[start:]
    ]


@given(st.lists(nested_rows, min_size=1, max_size=6), st.integers(0, 3))
def test_rows_come_back_as_they_went_but_for_empty_arrays_which_are_null(
    rows: list[dict], start: int
) -> None:
    pairs = pa.list_(pa.struct([("key", pa.string()), ("value", pa.float64())]))
    there = pa.schema([("metrics", pairs), NESTED.field("context"), ("hour", pa.int64())])
    batch = pa.RecordBatch.from_pylist([as_bigquery_has_it(row) for row in rows], schema=there).slice(start)
    expected = [
        row
        | {
            "metrics": row["metrics"] or None,
            "context": context and context | {"nets": context["nets"] or None},
        }
        for row, context in ((row, row["context"]) for row in rows[start:])
    ]
    assert restored(batch, NESTED).equals(pa.RecordBatch.from_pylist(expected, schema=NESTED))


@pytest.mark.parametrize("table", [*TABLES.values(), TRIMMED], ids=lambda table: table.name)
def test_flat_columns_are_scalars_and_arrays_of_scalars(table) -> None:
    kinds = [kind.value_type if pa.types.is_list(kind) else kind for kind in flat_schema(table.schema).types]
    assert not any(map(pa.types.is_nested, kinds))


def test_a_map_is_an_array_of_pairs() -> None:
    assert column(NESTED.field("metrics")) == {
        "name": "metrics",
        "type": "RECORD",
        "mode": "REPEATED",
        "fields": [
            {"name": "key", "type": "STRING", "mode": "NULLABLE"},
            {"name": "value", "type": "FLOAT", "mode": "NULLABLE"},
        ],
    }
    assert sql_type(NESTED.field("metrics").type) == "ARRAY<STRUCT<`key` STRING, `value` FLOAT64>>"
    assert (
        sql_type(NESTED.field("context").type) == "STRUCT<`host` STRING, `cores` INT64, `nets` ARRAY<STRING>>"
    )


def test_days_in_a_row_are_one_span() -> None:
    noon = datetime(2025, 10, 22, 12, tzinfo=UTC)
    rows = duplicates(*(noon + timedelta(days=days) for days in (0, 1, 2, 4, 1)), None)
    assert spans(DUPLICATES, rows) == ([("2025-10-22", "2025-10-24"), ("2025-10-26", "2025-10-26")], True)


def test_a_time_before_1970_lies_on_its_own_day() -> None:
    assert spans(DUPLICATES, duplicates(datetime(1969, 12, 31, 23, tzinfo=UTC))) == (
        [("1969-12-31", "1969-12-31")],
        False,
    )


def test_rows_of_many_days_are_parted_by_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_format, "PARTITIONS", 2)
    noon = datetime(2025, 10, 22, tzinfo=UTC)
    rows = duplicates(*(noon + timedelta(days=day % 5) for day in range(10)))
    assert [spans(DUPLICATES, part) for part in by_partitions(DUPLICATES, rows)] == [
        ([("2025-10-22", "2025-10-23")], False),
        ([("2025-10-24", "2025-10-25")], False),
        ([("2025-10-26", "2025-10-26")], False),
    ]


def test_of_reports_one_row_a_message_is_left_and_of_others_one_a_key() -> None:
    message = {"source": "s", "received_at": datetime(2025, 1, 1, tzinfo=UTC)}
    rows = [
        message | {"report_id": "r", "message_id": each, "revision": n}
        for n, each in enumerate(["1", "2", "1"])
    ]
    reports = contenders(REPORTS, pa.RecordBatch.from_pylist(rows, schema=REPORTS.schema))
    assert {(row["message_id"], row["revision"]) for row in reports.to_pylist()} == {("1", 2), ("2", 1)}
    assert contenders(DUPLICATES, duplicates(None, None)).num_rows == 2


def test_requests_hold_all_rows_in_order_and_are_never_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_format, "REQUEST_BYTES", 2_000)
    monkeypatch.setattr(row_format, "_MOST_BYTES", 4_000)
    rows = pa.RecordBatch.from_pydict(
        {"n": range(200), "text": ["x" * (3_000 if n == 7 else n % 9) for n in range(200)]}
    )
    parts = [
        (count, data, pa.ipc.read_record_batch(pa.py_buffer(data), rows.schema))
        for count, data in serialized(rows)
    ]
    assert pa.concat_batches([part for _, _, part in parts]).equals(rows)
    assert all(count == part.num_rows and len(data) <= 4_000 for count, data, part in parts)
    assert len(parts) > 2


def test_a_row_that_no_request_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_format, "_MOST_BYTES", 1_000)
    with pytest.raises(Refused, match="lower max_payload_bytes"):
        list(serialized(pa.RecordBatch.from_pydict({"text": ["", "x" * 2_000]})))
