"""What `summarise` finds in an output folder, against plain counts of the same rows."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.console import escape_line
from pipelines.failures import RunFailed, WrongUse
from pipelines.summary.queries import summarise
from pipelines.summary.summary import (
    Agent,
    HourCounts,
    KindCounts,
    LatencySummary,
    Outlier,
    Reason,
    Summary,
    format_number,
    format_percent,
)
from schemas.partitioning import assign_files
from schemas.tables import (
    AGGREGATIONS,
    DUPLICATES,
    METRICS,
    QUARANTINED,
    RECORD_TABLES,
    REPORTS,
    TABLES,
    TASKS,
    Table,
)

EIGHT = datetime(2025, 11, 22, 8, tzinfo=UTC)
NINE, TEN = EIGHT + timedelta(hours=1), EIGHT + timedelta(hours=2)
NO_FLAGS = dict.fromkeys(METRICS, 0)


def store(output: Path, table: Table, rows: list[dict[str, Any]]) -> None:
    """Write `rows` to the files they belong to; columns a row does not name are null."""
    batch = pa.RecordBatch.from_pylist(rows, schema=table.schema)
    codes, paths = assign_files(table, batch, 10)
    for code, name in enumerate(paths):
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(batch.filter(pa.array(codes == code))), path)


def report(
    number: int, at: datetime = EIGHT, agent: str = "a", failed: bool = False, **columns: Any
) -> dict[str, Any]:
    """A stored report; its message is m<number>."""
    error = '{"code":1}' if failed else None
    flags = {f"is_{metric}_outlier": False for metric in METRICS}
    named = {
        "report_id": f"{number:032x}",
        "task_id": f"t{number}",
        "message_id": f"m{number}",
        "source": "s",
    }
    return {
        "recorded_at": at,
        "received_at": at,
        "agent_id": agent,
        "error_details": error,
        **flags,
        **named,
        **columns,
    }


def message(number: int, at: datetime | None = EIGHT, **columns: Any) -> dict[str, Any]:
    """A row of duplicates or quarantine."""
    return {"source": "s", "message_id": f"m{number}", "received_at": at, **columns}


def hourly(
    at: datetime, agent: str, p50: float, p95: float, p99: float, granularity: str = "1h"
) -> dict[str, Any]:
    """A row of kpi_aggregations."""
    window = {"granularity": granularity, "time_window_start": at, "agent_id": agent}
    return {**window, "latency_p50_ms": p50, "latency_p95_ms": p95, "latency_p99_ms": p99}


def test_every_message_counts_once_where_its_highest_fate_is(tmp_path: Path) -> None:
    store(tmp_path, REPORTS, [report(1), report(2)])
    store(tmp_path, DUPLICATES, [message(2), message(3)])
    store(tmp_path, QUARANTINED, [message(n, reason="stale") for n in (1, 2, 3, 4)])
    summary = summarise(tmp_path)
    assert (summary.reports, summary.duplicates, summary.quarantined, summary.received) == (2, 1, 1, 4)
    assert summary.hours == (HourCounts(EIGHT, 2, 0, 1, 1, NO_FLAGS, None),)
    assert summary.reasons == (Reason("stale", 1, None, None, None),)
    assert summary.share(summary.quarantined) == 0.25


def test_the_same_message_id_of_another_source_is_another_message(tmp_path: Path) -> None:
    store(tmp_path, REPORTS, [report(1)])
    store(tmp_path, DUPLICATES, [message(1) | {"source": "other"}])
    assert summarise(tmp_path).duplicates == 1


@pytest.mark.parametrize("source", ["s", "_s", ".s", "a/b"])
def test_a_message_without_a_time_counts_but_has_no_hour(tmp_path: Path, source: str) -> None:
    store(tmp_path, QUARANTINED, [message(1, at=None, reason="json") | {"source": source}])
    summary = summarise(tmp_path)
    assert (summary.quarantined, summary.hours) == (1, ())


reports = st.lists(
    st.builds(
        lambda minutes, agent, failed, flags: (EIGHT + timedelta(minutes=minutes), agent, failed, flags),
        st.integers(0, 200),
        st.sampled_from("abc"),
        st.booleans(),
        st.fixed_dictionaries(
            {f"is_{metric}_outlier": st.sampled_from([None, False, True]) for metric in METRICS}
        ),
    ),
    max_size=30,
)
received = st.builds(lambda minutes: EIGHT + timedelta(minutes=minutes), st.integers(0, 200)) | st.none()
lower = st.dictionaries(
    st.integers(0, 40), st.tuples(received, st.sampled_from(["json", "stale"])), max_size=20
)


@settings(max_examples=15, deadline=None)
@given(reports, lower, lower)
def test_the_counts_of_any_output_equal_those_of_plain_sql(
    made: list[tuple], doubled: dict, refused: dict
) -> None:
    rows = {
        REPORTS: [report(n, at, agent, failed) | flags for n, (at, agent, failed, flags) in enumerate(made)],
        DUPLICATES: [message(n, at) for n, (at, _) in doubled.items()],
        QUARANTINED: [message(n, at, reason=reason) for n, (at, reason) in refused.items()],
    }
    with TemporaryDirectory() as folder:
        for table, some in rows.items():
            if some:
                store(Path(folder), table, some)
        summary = summarise(Path(folder))
    assert counted(summary) == by_sql(rows)


def counted(summary: Summary) -> dict[str, Any]:
    hours = {
        (h.start, h.reports, h.failed, h.duplicates, h.quarantined, *h.outliers.values())
        for h in summary.hours
    }
    agents = {(a.agent_id, a.reports, a.failed, *a.outliers.values()) for a in summary.worst_agents}
    fates = (summary.reports, summary.failed, summary.duplicates, summary.quarantined)
    total = (*fates, summary.agents, summary.first, summary.last)
    return {
        "total": total,
        "hours": hours,
        "agents": agents,
        "reasons": {(r.reason, r.count) for r in summary.reasons},
    }


def by_sql(rows: dict[Table, list[dict[str, Any]]]) -> dict[str, Any]:
    sql = duckdb.connect()
    sql.execute("SET TimeZone = 'UTC'")
    for table, some in rows.items():
        sql.register(table.name, pa.Table.from_pylist(some, schema=table.schema))
    flags = ", ".join(f"count(*) FILTER (is_{metric}_outlier) AS {metric}" for metric in METRICS)
    sql.execute(
        f"""
        CREATE VIEW r AS FROM kpi_reports;
        CREATE VIEW d AS FROM duplicates WHERE message_id NOT IN (SELECT message_id FROM r);
        CREATE VIEW q AS FROM quarantine WHERE message_id NOT IN
            (SELECT message_id FROM r UNION SELECT message_id FROM duplicates);
        CREATE VIEW of_agents AS
            SELECT agent_id, count(*) AS n, count(error_details) AS failed, {flags} FROM r GROUP BY ALL;
        CREATE VIEW of_hours AS
            SELECT date_trunc('hour', recorded_at) AS h, count(*) AS n,
            count(error_details) AS failed, {flags}
            FROM r GROUP BY ALL;
        CREATE VIEW dh AS
            SELECT date_trunc('hour', received_at) AS h, count(*) AS n FROM d
            WHERE h IS NOT NULL GROUP BY ALL;
        CREATE VIEW qh AS
            SELECT date_trunc('hour', received_at) AS h, count(*) AS n FROM q
            WHERE h IS NOT NULL GROUP BY ALL;
        """
    )
    zeros = ", ".join(f"coalesce({metric}, 0)" for metric in METRICS)
    hours = f"""SELECT h, coalesce(of_hours.n, 0), coalesce(failed, 0),
            coalesce(dh.n, 0), coalesce(qh.n, 0), {zeros}
        FROM of_hours FULL JOIN dh USING (h) FULL JOIN qh USING (h)"""
    total = """SELECT count(*), count(error_details), (SELECT count(*) FROM d), (SELECT count(*) FROM q),
        count(DISTINCT agent_id), min(recorded_at), max(recorded_at) FROM r"""
    return {
        "total": sql.execute(total).fetchone(),
        "hours": set(sql.execute(hours).fetchall()),
        "agents": set(sql.execute(f"FROM of_agents WHERE {' + '.join(METRICS)} > 0").fetchall()),
        "reasons": set(sql.execute("SELECT reason, count(*) FROM q GROUP BY reason").fetchall()),
    }


def test_latency_is_the_median_over_agents_of_the_hourly_percentiles(tmp_path: Path) -> None:
    rows = [hourly(EIGHT, "a", 1, 10, 100), hourly(EIGHT, "b", 3, 50, 300), hourly(EIGHT, "c", 4, 20, 900)]
    rows += [
        hourly(NINE, "a", 5, 6, 7),
        hourly(NINE, "b", 6, 7, 9),
        hourly(EIGHT, "a", 999, 999, 999, granularity="1m"),
    ]
    store(tmp_path, AGGREGATIONS, rows)
    latencies = {hour.start: hour.latency for hour in summarise(tmp_path).hours}
    assert latencies == {
        EIGHT: LatencySummary(3, 20, 300, agents=3),
        NINE: LatencySummary(5.5, 6.5, 8, agents=2),
    }


def flagged(number: int, at: datetime, latency: float, **columns: Any) -> dict[str, Any]:
    fences = {
        "latency_low_fence": -258.0,
        "latency_high_fence": 812.0,
        "latency_q1": 201.0,
        "latency_q3": 354.0,
    }
    return (
        report(number, at, latency_ms=latency, baseline_n=61, **fences)
        | {"is_latency_outlier": True}
        | columns
    )


def test_the_example_is_the_farthest_value_of_the_newest_hour_with_one(tmp_path: Path) -> None:
    rows = [flagged(3, NINE, 8123.0), flagged(2, NINE, 8123.0), flagged(4, NINE, 900.0)]
    store(tmp_path, REPORTS, [flagged(1, EIGHT, 99999.0), *rows, report(5, TEN)])
    (example,) = summarise(tmp_path).examples
    assert example == Outlier("latency", "a", "t2", NINE, 8123.0, -258.0, 812.0, 201.0, 354.0, 61)
    assert example.explain() == "latency 8123 ms > high fence 812 ms (q1 201, q3 354, n 61)"


def test_the_farthest_value_below_its_low_fence_is_explained_by_it(tmp_path: Path) -> None:
    baseline = {"accuracy_q1": 0.9, "accuracy_q3": 0.94, "baseline_n": 40}
    fences = {"accuracy_low_fence": 0.78, "accuracy_high_fence": 1.06, "is_accuracy_outlier": True}
    store(
        tmp_path,
        REPORTS,
        [report(n, accuracy=low) | baseline | fences for n, low in ((1, 0.7), (2, 0.41237), (3, 0.6))],
    )
    explained = [example.explain() for example in summarise(tmp_path).examples]
    assert explained == ["accuracy 0.4124 < low fence 0.78 (q1 0.9, q3 0.94, n 40)"]


def test_a_reason_is_shown_by_its_commonest_cause(tmp_path: Path) -> None:
    rare = [message(1, reason="schema", field="cpu_usage", rule="maximum", message="a rare one")]
    common = [
        message(n, reason="schema", field="accuracy", rule="maximum", message=f"accuracy {n}")
        for n in (4, 2, 3)
    ]
    store(tmp_path, QUARANTINED, [*rare, *common, message(9, reason="json", message="no JSON")])
    found = summarise(tmp_path).reasons
    assert found == (
        Reason("schema", 4, "accuracy", "maximum", "accuracy 2"),
        Reason("json", 1, None, None, "no JSON"),
    )


def test_the_ten_agents_with_the_most_flags_are_listed_most_first(tmp_path: Path) -> None:
    flags = Counter({f"agent-{n:02}": n for n in range(13)})
    rows = [flagged(i, EIGHT, 900.0, agent_id=agent) for i, agent in enumerate(flags.elements())]
    store(tmp_path, REPORTS, [*rows, report(999, agent="agent-12", failed=True)])
    worst = summarise(tmp_path).worst_agents
    assert worst[0] == Agent("agent-12", 13, 1, NO_FLAGS | {"latency": 12})
    assert [agent.agent_id for agent in worst] == [f"agent-{n:02}" for n in range(12, 2, -1)]


@pytest.mark.parametrize("kept", [None, *(name for name in TABLES if name not in RECORD_TABLES)])
def test_any_table_may_be_alone_or_all_may_be_missing(tmp_path: Path, kept: str | None) -> None:
    rows = {
        "kpi_reports": [report(1)],
        "kpi_aggregations": [hourly(EIGHT, "a", 1, 2, 3)],
        "quarantine": [message(1, reason="json")],
        "duplicates": [message(1)],
    }
    if kept:
        store(tmp_path, TABLES[kept], rows[kept])
    summary = summarise(tmp_path)
    present = (
        summary.reports,
        bool(summary.hours and summary.hours[0].latency),
        summary.quarantined,
        summary.duplicates,
    )
    assert present == tuple(
        name == kept for name in ("kpi_reports", "kpi_aggregations", "quarantine", "duplicates")
    )


def test_messages_are_counted_by_kind_where_not_all_are_reports(tmp_path: Path) -> None:
    store(tmp_path, REPORTS, [report(1)])
    store(tmp_path, QUARANTINED, [message(2, reason="json")])
    assert (summarise(tmp_path).kinds, summarise(tmp_path).records) == ((), 0)
    store(tmp_path, TASKS, [message(3, task_id="t", version="v"), message(4, task_id="t", version="w")])
    store(tmp_path, DUPLICATES, [message(4, kind="task"), message(5, kind="task"), message(6)])
    summary = summarise(tmp_path)
    assert summary.kinds == (KindCounts("kpi_report", 1, 1, 1), KindCounts("task", 2, 1, 0))
    assert (summary.records, summary.received, summary.duplicates) == (2, 6, 2)


def test_empty_files_hold_nothing(tmp_path: Path) -> None:
    for table in TABLES.values():
        (tmp_path / table.name).mkdir()
        pq.write_table(table.schema.empty_table(), tmp_path / table.name / "0000.parquet")
    summary = summarise(tmp_path)
    assert (summary.received, summary.hours, summary.first, summary.success_rate) == (0, (), None, None)


def test_a_column_that_an_older_file_lacks_counts_as_null(tmp_path: Path) -> None:
    store(tmp_path, REPORTS, [report(1)])
    path = next(tmp_path.rglob("*.parquet"))
    pq.write_table(
        pq.read_table(path, partitioning=None).drop_columns(["is_cpu_outlier", "error_details"]), path
    )
    summary = summarise(tmp_path)
    assert (summary.reports, summary.failed, summary.outliers) == (1, 0, NO_FLAGS)


def test_what_a_writer_left_behind_is_not_read(tmp_path: Path) -> None:
    store(tmp_path, REPORTS, [report(1)])
    path = next(tmp_path.rglob("*.parquet"))
    path.with_name(".0800.parquet").write_bytes(b"torn")
    path.with_name(".0800.parquet.1f.tmp").write_bytes(b"torn")
    assert summarise(tmp_path).reports == 1


def test_an_absent_folder_is_wrong_use_and_names_backfill(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="no folder") as caught:
        summarise(tmp_path / "nowhere")
    assert "kpiflow backfill" in caught.value.fix


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store(tmp_path, REPORTS, [report(1)])
    path = next(tmp_path.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunFailed, match=str(path)) as caught:
        summarise(tmp_path)
    assert "kpiflow reconcile" in caught.value.fix


def test_a_share_that_is_not_whole_never_reads_as_whole() -> None:
    shares = [None, 0.0, 1e-9, 0.25, 1 - 1e-9, 1.0]
    assert [format_percent(share) for share in shares] == [
        "-",
        "0.0 %",
        "0.1 %",
        "25.0 %",
        "99.9 %",
        "100.0 %",
    ]


def test_numbers_keep_the_digits_that_matter() -> None:
    assert [format_number(value) for value in (None, 61, 8123.4, 0.41237, 12.345)] == [
        "?",
        "61",
        "8123",
        "0.4124",
        "12.35",
    ]


def test_what_does_not_print_is_shown_as_its_code() -> None:
    assert escape_line("a\n\x1b[31m\u202eé<b>") == "a\\n\\x1b[31m\\u202eé<b>"
