"""SQL of a derived table over tables in memory: the bounds of its inputs, and what it may not give."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from pipelines.settings import Settings
from schemas.tables import TIME, Table
from tests.builders import NOON
from transforms.derived.bounds import UNTIMED, Period
from transforms.derived.derived_table import Clock, DerivedTable, Input, Kernel
from transforms.derived.run import BrokenSQL, derive_rows

SETTINGS = Settings().derived_settings()
MINUTE = timedelta(minutes=1)
COUNTS = Table(
    "counts", pa.schema([("report_id", pa.string()), ("n", pa.int64()), ("recorded_at", TIME)]),
    key=("report_id",), order=("report_id",), time="recorded_at",
)  # fmt: skip


def period(start: float, end: float) -> Period:
    """A span of minutes around noon."""
    return Period(*(int((NOON + minutes * MINUTE).timestamp() * 1_000_000) for minutes in (start, end)))


def reports(*minutes: float, late: float | None = 0, **columns: list) -> pa.Table:
    """Reports r0, r1, ... recorded at minutes around noon, received `late` minutes later."""
    recorded = [NOON + minute * MINUTE for minute in minutes]
    received = [None if late is None else each + late * MINUTE for each in recorded]
    named = {"report_id": [f"r{place}" for place in range(len(minutes))]} | columns
    return pa.table(
        {"recorded_at": pa.array(recorded, TIME), "received_at": pa.array(received, TIME), **named}
    )


def counting(*inputs: Input, of: str, clock: Clock = Clock.RECORDED) -> DerivedTable:
    """A table with the number of rows of an input beside each report."""
    sql = f"SELECT report_id, recorded_at, (SELECT count(*) FROM {of}) AS n FROM reports"
    return DerivedTable(COUNTS, 1, inputs, sql, clock)


def counts(table: DerivedTable, stored: dict[str, pa.Table], span: Period) -> dict[str, int]:
    rows = derive_rows(table, stored, SETTINGS, span)
    return dict(zip(rows["report_id"].to_pylist(), rows["n"].to_pylist()))


def test_past_reports_begin_before_the_span_and_end_with_it() -> None:
    table = counting(Input("past_reports", 2 * MINUTE), of="past_reports")
    stored = {"kpi_reports": reports(-3, -2, -1, 0, 0.5, 1)}
    assert counts(table, stored, period(0, 1)) == {"r3": 4, "r4": 4}


def test_a_report_that_comes_later_is_not_among_the_past() -> None:
    table = counting(Input("past_reports", 2 * MINUTE), of="past_reports")
    late = reports(-1, late=30, report_id=["late"])
    stored = {"kpi_reports": pa.concat_tables([reports(0), late.select(reports(0).column_names)])}
    assert counts(table, stored, period(0, 1)) == {"r0": 1}


@pytest.mark.parametrize(("effective", "n"), [(0, 1), (1, 1), (1.01, 0), (-1500, 1)])
def test_a_task_counts_if_it_is_effective_a_minute_after_the_report_at_the_latest(
    effective: float, n: int
) -> None:
    at = NOON + effective * MINUTE
    tasks = pa.table({"task_id": ["t"], "version": ["v"], "effective_at": pa.array([at], TIME)})
    tasks = tasks.append_column("created_at", pa.array([NOON - MINUTE], TIME))
    stored = {"kpi_reports": reports(0, task_id=["t"]), "tasks": tasks}
    assert counts(counting(Input("tasks", "context_hours"), of="tasks"), stored, period(0, 1)) == {"r0": n}


def test_a_task_that_was_created_too_long_ago_or_that_no_report_names_does_not_count() -> None:
    old = NOON - timedelta(hours=24, minutes=1)
    created = pa.array([old, NOON], TIME)
    tasks = pa.table({"task_id": ["t", "other"], "version": ["v", "v"], "created_at": created})
    tasks = tasks.append_column("effective_at", created)
    stored = {"kpi_reports": reports(0, task_id=["t"]), "tasks": tasks}
    assert counts(counting(Input("tasks", "context_hours"), of="tasks"), stored, period(0, 1)) == {"r0": 0}


def test_windows_count_once_no_report_can_be_late_for_them() -> None:
    starts = [NOON - timedelta(hours=hours) for hours in (27, 2, 1)]
    windows = pa.table({
        "granularity": ["1h"] * 3,
        "time_window_start": pa.array(starts, TIME),
        "time_window_end": pa.array([each + timedelta(hours=1) for each in starts], TIME),
    })  # fmt: skip
    table = counting(Input("past_windows", timedelta(hours=26)), of="past_windows")
    stored = {"kpi_reports": reports(0), "kpi_aggregations": windows}
    assert counts(table, stored, period(0, 30)) == {"r0": 1}


def test_reports_by_the_time_of_receipt_are_those_within_the_rule_of_recency() -> None:
    table = counting(of="reports", clock=Clock.RECEIVED)
    waived = {"kpi_reports": reports(-90, late=91)}
    assert counts(table, {"kpi_reports": reports(-30, 29, late=31)}, period(0, 60)) == {"r0": 1}
    assert counts(table, waived, period(0, 60)) == {}


def test_what_was_received_at_an_unknown_time_is_a_span_of_its_own() -> None:
    table = counting(of="reports", clock=Clock.RECEIVED)
    stored = {"kpi_reports": reports(-30, 29, late=None)}
    assert counts(table, stored, UNTIMED) == {"r0": 2, "r1": 2}
    assert counts(table, stored, period(-30, 60)) == {}


def test_settings_are_one_row() -> None:
    sql = "SELECT report_id, recorded_at, context_hours AS n FROM reports, settings"
    table = DerivedTable(COUNTS, 1, (), sql)
    assert counts(table, {"kpi_reports": reports(0)}, Period()) == {"r0": 24}


def count_all(rows: pa.Table, settings: Mapping[str, Any]) -> pa.Table:
    number = pa.array([rows.num_rows + settings["context_hours"]] * rows.num_rows)
    return rows.append_column("n", number)


def test_a_kernel_makes_the_rows_from_those_of_the_sql() -> None:
    sql = "SELECT report_id, recorded_at FROM reports"
    table = DerivedTable(COUNTS, 1, (), sql, kernel=Kernel(count_all, settings=("context_hours",)))
    assert counts(table, {"kpi_reports": reports(0, 1)}, Period()) == {"r0": 26, "r1": 26}
    with pytest.raises(BrokenSQL, match="the kernel of counts lacks columns: n"):
        derive_rows(replace(table, kernel=Kernel(lambda rows, _: rows)), {}, SETTINGS)


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("SELECT 'r' AS report_id, 1 AS n, recorded_at FROM reports", "the same report_id"),
        ("SELECT report_id, recorded_at FROM reports", "lacks columns: n"),
        ("SELECT report_id, 'x' AS n, recorded_at FROM reports", "columns of other types"),
    ],
)
def test_wrong_sql_is_named(sql: str, problem: str) -> None:
    with pytest.raises(BrokenSQL, match=problem):
        derive_rows(DerivedTable(COUNTS, 1, (), sql), {"kpi_reports": reports(0, 1)}, SETTINGS)


def test_claims_are_reports_of_the_same_task_before_and_after() -> None:
    table = counting(Input("claims", "context_hours"), of="claims")
    tasks = ["other", "t", "t", "t", "t", "t"]
    stored = {"kpi_reports": reports(-1, -1441, -1439, 0, 0.5, 2, task_id=tasks)}
    assert counts(table, stored, period(0, 0.1)) == {"r3": 3}


def test_claims_reach_beyond_a_span_that_has_no_start() -> None:
    table = counting(Input("claims", "context_hours"), of="claims")
    received = pa.array([NOON + 3 * MINUTE] * 2, TIME)
    stored = {"kpi_reports": reports(0, 2, received_at=received, task_id=["t", "t"])}
    assert counts(table, stored, Period(end=period(0, 1).end)) == {"r0": 2}


def test_the_first_records_are_those_of_the_whole_output() -> None:
    old = pa.table({"agent_id": ["x"], "version": ["v"], "effective_at": pa.array([NOON], TIME)})
    sql = (
        "SELECT report_id, recorded_at, epoch_us(agents) AS n FROM reports, first_records WHERE tasks IS NULL"
    )
    table = DerivedTable(COUNTS, 1, (Input("first_records"),), sql)
    stored = {"kpi_reports": reports(90), "agents": old}
    assert counts(table, stored, period(90, 91)) == {"r0": period(0, 1).start}


def test_records_by_the_time_of_receipt_are_bounded_by_their_own_time() -> None:
    table = counting(Input("tasks", "context_hours"), of="tasks", clock=Clock.RECEIVED)
    received = pa.array([NOON, NOON, NOON - MINUTE], TIME)
    created = pa.array([NOON - timedelta(hours=24), NOON + timedelta(hours=25), NOON], TIME)
    tasks = pa.table({"task_id": ["a", "b", "c"], "received_at": received, "created_at": created})
    assert counts(table, {"kpi_reports": reports(0), "tasks": tasks}, period(0, 60)) == {"r0": 1}
