"""Which file a row belongs to."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote
from zlib import crc32

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.partitioning import NAME_LENGTH, SPREAD_FILES, UNTIMED_FILES, assign_files, escape_name
from schemas.tables import (
    AGENTS,
    AGGREGATION,
    AGGREGATIONS,
    DUPLICATES,
    FLEET,
    QUARANTINED,
    RECORD_TABLES,
    REPORTS,
    TABLES,
    TRIMMED,
    Table,
    find_table,
)


def placed(table: Table, *rows: dict[str, Any], file_minutes: int = 30) -> list[str]:
    """The path of each row, without the table's name."""
    names = {name for row in rows for name in row}
    batch = pa.RecordBatch.from_pylist(
        list(rows), schema=pa.schema([field for field in table.schema if field.name in names])
    )
    codes, paths = assign_files(table, batch, file_minutes)
    assert len(set(paths)) == len(paths)
    assert set(codes.tolist()) == set(range(len(paths)))
    return [paths[code].removeprefix(f"{table.name}/") for code in codes]


def recorded(*texts: str, file_minutes: int = 30) -> list[str]:
    """The files of reports that were recorded at these times."""
    return placed(
        REPORTS, *({"recorded_at": datetime.fromisoformat(text)} for text in texts), file_minutes=file_minutes
    )


@pytest.mark.parametrize(
    ("at", "path"),
    [
        ("2025-10-22T12:00:00Z", "date=2025-10-22/hour=12/1200.parquet"),
        ("2025-10-22T12:29:59.999999Z", "date=2025-10-22/hour=12/1200.parquet"),
        ("2025-10-22T12:30:00Z", "date=2025-10-22/hour=12/1230.parquet"),
        ("2025-10-22T23:59:59.999999Z", "date=2025-10-22/hour=23/2330.parquet"),
        ("2024-02-29T00:00:00Z", "date=2024-02-29/hour=00/0000.parquet"),
        ("2100-03-01T00:00:00Z", "date=2100-03-01/hour=00/0000.parquet"),
        ("1970-01-01T00:00:00Z", "date=1970-01-01/hour=00/0000.parquet"),
        ("1969-12-31T23:59:59.999999Z", "date=1969-12-31/hour=23/2330.parquet"),
        ("1900-02-28T23:59:00Z", "date=1900-02-28/hour=23/2330.parquet"),
        ("0001-01-01T00:00:00Z", "date=0001-01-01/hour=00/0000.parquet"),
        ("9999-12-31T23:59:59.999999Z", "date=9999-12-31/hour=23/2330.parquet"),
        ("2025-10-22T00:30:00+02:00", "date=2025-10-21/hour=22/2230.parquet"),
    ],
)
def test_a_report_is_in_the_file_of_the_half_hour_in_which_it_was_recorded(at: str, path: str) -> None:
    assert recorded(at) == [path]


@pytest.mark.parametrize(
    ("minutes", "name"),
    [(1, "1259"), (2, "1258"), (5, "1255"), (12, "1248"), (15, "1245"), (20, "1240"), (60, "1200")],
)
def test_file_minutes_is_the_span_of_a_file(minutes: int, name: str) -> None:
    assert recorded("2025-10-22T12:59:59Z", file_minutes=minutes) == [
        f"date=2025-10-22/hour=12/{name}.parquet"
    ]


def test_rows_of_one_file_share_a_code_whatever_their_order() -> None:
    noon, one, ago = "2025-10-22T12:00:00Z", "2025-10-22T13:00:00Z", "1969-10-22T12:00:00Z"
    paths = recorded(one, noon, ago, noon, one)
    assert [paths[0], paths[1]] == [paths[4], paths[3]]
    assert len(set(paths)) == 3


@pytest.mark.parametrize("table", [AGGREGATIONS, FLEET], ids=lambda table: table.name)
@pytest.mark.parametrize("file_minutes", [1, 60])
def test_windows_lie_in_files_by_granularity(table: Table, file_minutes: int) -> None:
    at = datetime(2024, 2, 29, 13, 37, tzinfo=UTC)
    rows = [{"granularity": name, "time_window_start": at} for name in ("1h", "5s", "1m")]
    fine = {1: "1337", 60: "1300"}[file_minutes]
    assert placed(table, *rows, file_minutes=file_minutes) == [
        "window_size=1h/date=2024-02-29/hour=13/1300.parquet",
        f"window_size=5s/date=2024-02-29/hour=13/{fine}.parquet",
        "window_size=1m/date=2024-02-29/hour=13/1300.parquet",
    ]


def test_the_last_hour_before_1970_is_a_day_of_its_own() -> None:
    before, after = datetime(1969, 12, 31, 23, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)
    rows = [{"granularity": "1h", "time_window_start": at} for at in (before, after)]
    assert placed(AGGREGATIONS, *rows) == [
        "window_size=1h/date=1969-12-31/hour=23/2300.parquet",
        "window_size=1h/date=1970-01-01/hour=00/0000.parquet",
    ]


@pytest.mark.parametrize("table", [QUARANTINED, DUPLICATES], ids=lambda table: table.name)
def test_a_message_without_a_time_has_a_file_by_its_key_alone(table: Table) -> None:
    at = datetime(2025, 10, 22, 12, tzinfo=UTC)
    rows = [{"source": "../b", "message_id": str(number), "received_at": None} for number in range(1000)]
    timed = {"source": "../b", "message_id": "0", "received_at": at}
    paths = placed(table, *rows, timed)
    assert paths[-1] == "date=2025-10-22/hour=12/1200.parquet"
    assert set(paths[:-1]) == {
        f"date=unknown/hour=unknown/{number:02}.parquet" for number in range(UNTIMED_FILES)
    }
    assert max(map(paths.count, paths)) < 2 * 1000 / UNTIMED_FILES + 10
    assert [placed(table, row) for row in rows[:9]] == [[path] for path in paths[:9]]


def test_all_versions_of_an_agent_are_in_one_of_sixteen_files() -> None:
    rows = [{"agent_id": f"{number % 500}", "version": str(number)} for number in range(1000)]
    paths = placed(AGENTS, *rows)
    assert set(paths) == {f"{number:02}.parquet" for number in range(SPREAD_FILES)}
    assert paths[:500] == paths[500:]
    assert placed(AGENTS, {"agent_id": "0b0c", "version": "x"}) == [f"{crc32(b'0b0c') % 16:02}.parquet"]


@given(st.text(), st.text())
def test_a_safe_name_is_harmless_and_can_be_read_back(one: str, other: str) -> None:
    name = escape_name(one)
    assert name.strip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_%~") == ""
    assert "~" in name or unquote(name) == (one or "%")
    assert (name == escape_name(other)) == (one == other)


@pytest.mark.parametrize("text", ["s" * 201, "한" * 23, "s" * 10_000, "/" * 67])
def test_a_long_name_is_cut_and_stays_its_own(text: str) -> None:
    names = [escape_name(text), escape_name(text + "x"), escape_name("x" + text)]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= NAME_LENGTH


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_no_rows_have_no_files(table: Table) -> None:
    codes, paths = assign_files(table, pa.RecordBatch.from_pylist([], schema=table.schema), 30)
    assert (len(codes), paths) == (0, [])


@pytest.mark.parametrize("table", [*TABLES.values(), TRIMMED, FLEET], ids=lambda table: table.name)
def test_a_table_is_known_by_its_name(table: Table) -> None:
    assert find_table(table.name) is table


def test_the_fleet_has_every_column_of_an_agents_windows_but_the_agent() -> None:
    assert FLEET.schema == AGGREGATION.remove(AGGREGATION.get_field_index("agent_id"))


@pytest.mark.parametrize("table", [*TABLES.values(), FLEET], ids=lambda table: table.name)
def test_a_table_has_the_columns_that_it_is_keyed_and_sorted_by(table: Table) -> None:
    names = table.schema.names
    assert {*table.key, *table.order, table.time or table.key[0]} <= set(names)
    assert ("revision" in names) == (table.name not in RECORD_TABLES)
    assert set(table.key) <= {*table.order, "granularity"}
    assert len(set(names)) == len(names)
