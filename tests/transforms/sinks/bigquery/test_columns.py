"""Rows between Arrow and BigQuery, without BigQuery."""

import re
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import DUPLICATES, REPORTS, TIME
from transforms.sinks.bigquery import columns
from transforms.sinks.bigquery.columns import (
    drop_superseded,
    maps_as_lists,
    restore_rows,
    schema_field,
    split_by_days,
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
def test_maps_are_loaded_as_lists_of_pairs(rows: list[dict], start: int) -> None:
    batch = pa.RecordBatch.from_pylist(rows, schema=NESTED).slice(start)
    pairs = [
        row["metrics"] and [{"key": key, "value": value} for key, value in row["metrics"]] for row in rows
    ]
    assert (
        maps_as_lists(batch).to_pylist()
        == [row | {"metrics": pairs, "time": None} for row, pairs in zip(rows, pairs)][start:]
    )


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
    assert restore_rows(batch, NESTED).equals(pa.RecordBatch.from_pylist(expected, schema=NESTED))


def test_a_map_is_an_array_of_pairs() -> None:
    column = schema_field(NESTED.field("metrics"))
    assert (column.field_type, column.mode) == ("RECORD", "REPEATED")
    assert [(each.name, each.field_type, each.mode) for each in column.fields] == [
        ("key", "STRING", "NULLABLE"),
        ("value", "FLOAT", "NULLABLE"),
    ]
    assert sql_type(column) == "ARRAY<STRUCT<`key` STRING, `value` FLOAT64>>"
    struct = "STRUCT<`host` STRING, `cores` INT64, `nets` ARRAY<STRING>>"
    assert sql_type(schema_field(NESTED.field("context"))) == struct


def spans(*times: datetime | None) -> list[list[tuple[str, str]]]:
    """The first and last day of each run of days in the conditions of the parts."""
    parts = split_by_days(DUPLICATES, duplicates(*times))
    return [
        re.findall(r">= TIMESTAMP '(\S+) 00:00:00\+00' AND \S+ <= TIMESTAMP '(\S+) 23", each)
        for _, each in parts
    ]


def test_days_in_a_row_are_one_span() -> None:
    noon = datetime(2025, 10, 22, 12, tzinfo=UTC)
    days = [noon + timedelta(days=number) for number in (0, 1, 2, 4, 1)]
    assert spans(*days, None) == [[("2025-10-22", "2025-10-24"), ("2025-10-26", "2025-10-26")]]


def test_rows_without_a_time_have_a_condition_of_their_own() -> None:
    ((_, timed),) = split_by_days(DUPLICATES, duplicates(datetime(2025, 1, 1, tzinfo=UTC)))
    ((_, both),) = split_by_days(DUPLICATES, duplicates(datetime(2025, 1, 1, tzinfo=UTC), None))
    ((_, none),) = split_by_days(DUPLICATES, duplicates(None))
    assert (both, none) == (f"{timed[:-1]} OR t.`received_at` IS NULL)", "(t.`received_at` IS NULL)")


def test_a_time_before_1970_is_on_its_own_day() -> None:
    assert spans(datetime(1969, 12, 31, 23, tzinfo=UTC)) == [[("1969-12-31", "1969-12-31")]]


def test_rows_of_many_days_are_split_by_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MERGE_DAYS", 2)
    times = [datetime(2025, 10, 22, tzinfo=UTC) + timedelta(days=day % 5) for day in range(10)]
    assert spans(*times) == [
        [("2025-10-22", "2025-10-23")],
        [("2025-10-24", "2025-10-25")],
        [("2025-10-26", "2025-10-26")],
    ]
    parts = [part["message_id"].to_pylist() for part, _ in split_by_days(DUPLICATES, duplicates(*times))]
    assert parts == [["0", "1", "5", "6"], ["2", "3", "7", "8"], ["4", "9"]]


def test_of_reports_one_row_a_message_is_left_and_of_others_one_a_key() -> None:
    message = {"source": "s", "received_at": datetime(2025, 1, 1, tzinfo=UTC)}
    rows = [
        message | {"report_id": "r", "message_id": each, "revision": n}
        for n, each in enumerate(["1", "2", "1"])
    ]
    reports = drop_superseded(REPORTS, pa.RecordBatch.from_pylist(rows, schema=REPORTS.schema))
    assert {(row["message_id"], row["revision"]) for row in reports.to_pylist()} == {("1", 2), ("2", 1)}
    assert drop_superseded(DUPLICATES, duplicates(None, None)).num_rows == 2
