"""The table `trends`: what is reported of series of reports, and that it depends on nothing else."""

from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.settings import Settings
from schemas.tables import TIME
from tests.builders import NOON
from transforms.derived.bounds import Period
from transforms.derived.run import derive_rows
from transforms.derived.trends import COLUMNS, TABLE

pytest.importorskip("ruptures")

SETTINGS = Settings().derived_settings()
MINUTE = timedelta(minutes=1)
HOURS = 6


def draw(minutes: int = HOURS * 60, seed: int = 1, agent: str = "a", **shift: tuple[int, float]) -> pa.Table:
    """A report a minute since noon; a shift: the minute from which a metric differs, and by what."""
    random = np.random.default_rng(seed)
    at = np.arange(minutes)
    noise = {name: random.standard_normal(minutes) for name in ("latency", "accuracy", "cpu", "memory")}
    move = {name: np.where(at >= start, by, 0.0) for name, (start, by) in shift.items()}
    columns: dict[str, Any] = {
        "latency_ms": 200 * np.exp(0.2 * noise["latency"] + move.get("latency", 0)),
        "accuracy": 0.9 + 0.015 * noise["accuracy"] + move.get("accuracy", 0),
        "cpu_usage": 0.3 + 0.025 * noise["cpu"] + move.get("cpu", 0),
        "memory_mb": 900 * np.exp(0.1 * noise["memory"] + move.get("memory", 0)),
        "performance_score": 0.5 + 0.05 * random.standard_normal(minutes),
    }
    recorded = [NOON + int(each) * MINUTE for each in at]
    return pa.table({
        "report_id": [f"{agent}{each}" for each in at.tolist()], "agent_id": [agent] * minutes,
        "target_agent_type": ["inference"] * minutes, "recorded_at": pa.array(recorded, TIME),
        "received_at": pa.array(recorded, TIME), **columns,
    })  # fmt: skip


def find(reports: pa.Table, **filters: str) -> list[dict[str, Any]]:
    """The rows of some reports that have these values."""
    rows = derive_rows(TABLE, {"kpi_reports": reports}, SETTINGS).to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in filters.items())]


def test_a_change_of_level_is_reported_once_with_its_time_and_size() -> None:
    (change,) = find(draw(latency=(200, 0.5)), kind="change")
    assert (change["level"], change["agent_id"], change["metric"]) == ("agent", "a", "latency_ms")
    assert change["verdict"] == "raised"
    assert change["z"] > change["threshold"] > 4
    assert abs(change["changed_at"] - (NOON + 200 * MINUTE)) <= 3 * MINUTE
    assert change["time_window_start"] - NOON <= 220 * MINUTE
    assert change["change"] == pytest.approx(np.expm1(0.5), abs=0.2)
    assert change["after"] / change["before"] - 1 == pytest.approx(change["change"])
    assert 0.2 < change["change_low"] < change["change"] < change["change_high"] < 1.3
    assert 0 < change["false_alarms"] < SETTINGS["trend_false_alarms"]


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("by", [-2.0, 1.0, 2.0])
def test_a_large_change_is_placed_and_sized_as_well_as_a_small_one(by: float, seed: int) -> None:
    (change,) = find(draw(seed=seed, latency=(200, by)), kind="change")
    assert abs(change["changed_at"] - (NOON + 200 * MINUTE)) <= 2 * MINUTE
    assert change["time_window_start"] - NOON <= 210 * MINUTE
    assert np.log(change["after"] / change["before"]) == pytest.approx(by, rel=0.25)


@pytest.mark.parametrize(("since", "only"), [(0, "inference"), (130, None), (-1, "inference")])
def test_a_change_names_the_type_of_its_agent_if_all_reports_of_the_window_were_for_one(since, only) -> None:
    reports = draw(latency=(200, 0.5))
    types = ["other" if number == since else "inference" for number in range(reports.num_rows)]
    place = reports.schema.get_field_index("target_agent_type")
    (change,) = find(reports.set_column(place, "target_agent_type", pa.array(types)), kind="change")
    assert change["only_type"] == only


def test_steady_series_have_slopes_and_no_change() -> None:
    rows = find(draw())
    assert {row["kind"] for row in rows} == {"slope"}
    assert {row["metric"] for row in rows} == {"latency_ms", "accuracy", "cpu_usage", "memory_mb",
                                               "performance_score"}  # fmt: skip
    assert sum(row["verdict"] == "steady" for row in rows) / len(rows) > 0.8


def test_a_slope_is_in_units_an_hour_and_of_logarithms_a_share() -> None:
    reports = draw()
    hours = np.arange(reports.num_rows) / 60
    place = reports.schema.get_field_index("memory_mb")
    rising = reports.set_column(place, "memory_mb", pa.array(900 * np.exp(0.3 * hours)))
    rows = find(rising, kind="slope", metric="memory_mb")
    assert [row["slope"] for row in rows] == pytest.approx([0.3] * len(rows), abs=0.001)
    assert {row["verdict"] for row in rows} == {"rising"}
    assert [row["time_window_start"] for row in rows] == [NOON + each * 60 * MINUTE for each in (2, 3, 4, 5)]


def test_values_that_are_all_equal_are_steady_and_a_new_value_is_a_change() -> None:
    reports = draw()
    place = reports.schema.get_field_index("accuracy")
    values = np.where(np.arange(reports.num_rows) < 200, 0.9, 0.8)
    rows = find(reports.set_column(place, "accuracy", pa.array(values)), kind="change")
    assert [(row["metric"], row["verdict"]) for row in rows] == [("accuracy", "lowered")]
    assert rows[0]["before"] == pytest.approx(0.9)
    assert rows[0]["after"] == pytest.approx(0.8)
    constant = reports.set_column(place, "accuracy", pa.array([0.9] * reports.num_rows))
    assert {row["verdict"] for row in find(constant, metric="accuracy")} == {"steady"}


@pytest.mark.parametrize("seed", range(1, 13))
def test_a_few_far_values_are_no_change_even_without_fences(seed: int) -> None:
    reports = draw(seed=seed)
    place = reports.schema.get_field_index("latency_ms")
    values = reports["latency_ms"].to_numpy().copy()
    values[[200, 202, 205]] *= 20
    found = find(reports.set_column(place, "latency_ms", pa.array(values)), kind="change")
    assert [row for row in found if row["metric"] == "latency_ms"] == []


@pytest.mark.parametrize(
    ("metric", "beyond", "fence"),
    [("latency_ms", 30_000.0, 900.0), ("latency_ms", 0.0, 20.0), ("accuracy", 0.0, 0.5)],
)
def test_a_value_beyond_its_fence_counts_as_the_fence_in_its_metric_and_in_the_score(
    metric: str, beyond: float, fence: float
) -> None:
    reports = draw()
    for name, bound in {
        "latency_low": 20,
        "latency_high": 900,
        "accuracy_low": 0.5,
        "accuracy_high": 1,
    }.items():
        reports = reports.append_column(f"{name}_fence", pa.array([float(bound)] * reports.num_rows))

    def move(value: float) -> list[dict[str, Any]]:
        columns = {name: reports[name].to_numpy().copy() for name in ("latency_ms", "accuracy")}
        columns[metric][[130, 150, 180]] = value
        columns["performance_score"] = columns["accuracy"] * 1000 / (1000 + columns["latency_ms"])
        moved = reports
        for name, values in columns.items():
            moved = moved.set_column(moved.schema.get_field_index(name), name, pa.array(values))
        return find(moved, kind="slope")

    assert move(beyond) == move(fence)
    assert move(beyond) != find(reports, kind="slope")


def test_late_reports_and_gaps_change_nothing_else() -> None:
    reports = draw(latency=(200, 0.5))
    late = draw(seed=2).slice(50, 100)
    received = pa.array([each + 10 * MINUTE for each in late["recorded_at"].to_pylist()], TIME)
    late = late.set_column(late.schema.get_field_index("received_at"), "received_at", received)
    late = late.set_column(0, "report_id", pa.array([f"late{each}" for each in range(late.num_rows)]))
    assert find(pa.concat_tables([reports, late])) == find(reports)
    gaps = reports.filter(pa.array([each % 60 < 40 for each in range(reports.num_rows)]))
    (change,) = find(gaps, kind="change")
    assert abs(change["changed_at"] - (NOON + 200 * MINUTE)) <= 21 * MINUTE


def test_what_is_reported_does_not_depend_on_spans_threads_or_order() -> None:
    reports = pa.concat_tables([draw(latency=(200, 0.5)), draw(seed=5, agent="b", cpu=(250, -0.1))])
    whole = derive_rows(TABLE, {"kpi_reports": reports}, SETTINGS, threads=3)
    order = pa.array(np.random.default_rng(3).permutation(reports.num_rows))
    mixed = reports.take(order)
    start, parts = int(NOON.timestamp()) * 10**6, []
    cuts = [0, 205, 206, 240, 241, 360]
    for bounds in zip(cuts, cuts[1:]):
        span = Period(*(start + each * 60 * 10**6 for each in bounds))
        rows = derive_rows(TABLE, {"kpi_reports": mixed}, SETTINGS, span)
        parts += [row for row in rows.to_pylist() if span.start <= row["time_window_start"].timestamp() * 1e6]
    assert sorted(map(repr, parts)) == sorted(map(repr, whole.to_pylist()))
    assert {row["agent_id"] for row in parts if row["kind"] == "change"} == {"a", "b"}


def test_the_level_of_a_type_does_not_depend_on_which_agents_report() -> None:
    slow = draw(seed=3, agent="slow").filter(pa.array([each < 240 for each in range(HOURS * 60)]))
    place = slow.schema.get_field_index("latency_ms")
    slow = slow.set_column(place, "latency_ms", pa.array(slow["latency_ms"].to_numpy() * 5))
    reports = pa.concat_tables([slow, *(draw(seed=n, agent=f"a{n}") for n in range(4))])
    stored = {"kpi_reports": reports, "kpi_aggregations": make_windows(reports)}
    rows = derive_rows(TABLE, stored, SETTINGS).to_pylist()
    assert [row for row in rows if row["kind"] == "change"] == []
    assert {row["level"] for row in rows} == {"agent", "agent_type", "fleet"}


def make_windows(reports: pa.Table) -> pa.Table:
    """The windows of an hour of some reports."""
    hours = pa.array([each.replace(minute=0) for each in reports["recorded_at"].to_pylist()], TIME)
    names = {"latency_ms": "avg_latency_ms", "accuracy": "avg_accuracy", "cpu_usage": "avg_cpu_usage",
             "memory_mb": "avg_memory_mb", "performance_score": "performance_score"}  # fmt: skip
    keys = ["agent_id", "target_agent_type", "time_window_start"]
    grouped = reports.append_column("time_window_start", hours).group_by(keys)
    found = grouped.aggregate([*((name, "mean") for name in names), ("report_id", "count")])
    columns = {new: found[f"{name}_mean"] for name, new in names.items()}
    ends = [each + 60 * MINUTE for each in found["time_window_start"].to_pylist()]
    return pa.table({
        **{key: found[key] for key in keys}, "time_window_end": pa.array(ends, TIME), **columns,
        "granularity": ["1h"] * len(ends), "task_count": found["report_id_count"],
    })  # fmt: skip


def test_the_peak_of_every_day_is_no_change_once_there_is_a_week() -> None:
    reports = draw(minutes=9 * 1440)
    minutes = np.arange(reports.num_rows)
    peak = np.exp(0.8 * np.exp(-((((minutes % 1440) - 600) / 60) ** 2)))
    place = reports.schema.get_field_index("latency_ms")
    reports = reports.set_column(place, "latency_ms", pa.array(reports["latency_ms"].to_numpy() * peak))
    stored = {"kpi_reports": reports, "kpi_aggregations": make_windows(reports)}
    start = int(NOON.timestamp()) * 10**6

    def count(day: int) -> int:
        span = Period(start + day * 1440 * 60 * 10**6, start + (day + 1) * 1440 * 60 * 10**6)
        rows = derive_rows(TABLE, stored, SETTINGS, span).to_pylist()
        assert {row["is_hour_adjusted"] for row in rows if row["level"] == "agent"} >= {day > 7}
        return sum(row["kind"] == "change" and row["metric"] == "latency_ms" for row in rows)

    assert count(3) > 0
    assert count(8) == 0


def test_no_reports_give_no_rows() -> None:
    assert derive_rows(TABLE, {}, SETTINGS).num_rows == 0
    assert TABLE.table.schema == COLUMNS
