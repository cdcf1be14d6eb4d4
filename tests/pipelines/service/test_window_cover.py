"""Summaries from windows are those of plain SQL over the reports, and read no more than the edges."""

import os
import warnings
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.queries.registry import QUERIES
from pipelines.queries.run import Answer, run_query
from pipelines.queries.sums import WINDOWS as SUMMED
from pipelines.service import window_cover
from pipelines.service.service import Service
from pipelines.service.span_reports import SpanReports
from pipelines.service.window_sums import REPORT_COLUMNS, AgentNames, merge_sums
from schemas.tables import AGGREGATIONS, GRANULARITIES, REPORTS
from tests.patience import PATIENCE
from tests.pipelines.queries.small_output import FILE_MINUTES, make_output
from tests.pipelines.queries.summaries import compare
from tests.pipelines.service.test_task_index import change_ledger
from tests.pipelines.summary.test_queries import store
from tests.service import MOST, make_service
from transforms.aggregation.statistics import finish, make_partials, merge_by_agent
from transforms.core.record_batches import concat
from transforms.core.time_range import Span
from transforms.sinks.parquet.maintenance_ledger import DayPlace, locate_day, now
from transforms.sinks.parquet.output_files import OutputFiles
from transforms.sinks.parquet.parquet_file import encode_file, read_file

START = datetime.fromisoformat("2025-10-20T00:00:00Z")
HOURS = 6
WINDOWS = (AGGREGATIONS.name, "window_size=1h"), (AGGREGATIONS.name, "window_size=1m")
MEANS = "avg(latency_ms), sum(round(accuracy * 1e12)::HUGEINT)::DOUBLE / count(*) / 1e12, count(*)"
PLAIN = {
    "agent-summary": f"agent_id, {MEANS}, stddev_samp(latency_ms)",
    "hourly-patterns": f"date_trunc('hour', recorded_at), agent_id, {MEANS}",
}
GIVEN = {"agent-summary": {}, "hourly-patterns": {"min_reports": "0"}}


def make_reports(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Reports at random times; one agent has a single one, and another hardly differs."""
    chance = Random(first)
    agents = [f"agent {chance.randrange(5)}" for _ in range(count)]
    agents[0] = f"alone {first}"
    return [
        {
            "report_id": f"{first + number:032x}",
            "task_id": f"task {first + number}",
            "agent_id": agent,
            "target_agent_type": chance.choice(("gpu", "cpu")),
            "recorded_at": START + timedelta(microseconds=chance.randrange(HOURS * 3600 * 10**6)),
            "latency_ms": 1e6 + chance.random() if agent == "agent 1" else chance.expovariate(0.01),
            "accuracy": round(chance.random(), 6),
            "cpu_usage": 0.5,
            "memory_mb": 1.0,
            "performance_score": 1.0,
            "revision": 1,
        }
        for number, agent in enumerate(agents)
    ]


def store_windows(output: Path, reports: list[dict[str, Any]]) -> None:
    partial = make_partials(pa.RecordBatch.from_pylist(reports, schema=REPORTS.schema))
    windows = [finish(merge_by_agent(partial, size)) for size in GRANULARITIES]
    store(output, AGGREGATIONS, [row for batch in windows for row in batch.to_pylist()])


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Reports in files of 10 minutes, with their windows."""
    output = make_output(tmp_path / "out")
    for table in (REPORTS.name, AGGREGATIONS.name):
        (output / table).rename(tmp_path / f"no {table}")
    reports = make_reports(600)
    store(output, REPORTS, reports)
    store_windows(output, reports)
    return output


def replace_files(output: Path, write: Callable[[Path], None]) -> None:
    """Write files and rename them into the output, as a stream does."""
    write(output / "new")
    for path in (output / "new").rglob("*.parquet"):
        path.replace(output / path.relative_to(output / "new"))


def make_asker(output: Path, service: Service | None = None) -> Callable[[str, Span], Answer]:
    service = service or make_service(output)

    def ask(name: str, span: Span) -> Answer:
        query = QUERIES[name]
        return run_query(
            output, query, query.parse(GIVEN[name]), span, FILE_MINUTES, MOST, means=service.means
        )

    return ask


def select(output: Path, name: str, span: Span) -> list[tuple[Any, ...]]:
    """Plain SQL over the reports."""
    files = f"read_parquet('{output}/kpi_reports/**/*.parquet', hive_partitioning = false)"
    groups = {"agent-summary": "1 ORDER BY 3 DESC, 1", "hourly-patterns": "1, 2 ORDER BY 1, 2"}[name]
    condition = "recorded_at >= $start AND recorded_at < $end"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        sql = f"SELECT {PLAIN[name]} FROM {files} WHERE {condition} GROUP BY {groups}"
        return connection.execute(sql, {"start": span.start, "end": span.end}).fetchall()


def draw_spans(count: int) -> list[Span]:
    """Spans with ends on hours, minutes and anywhere."""
    chance, spans = Random(3), []
    for number in range(count):
        unit = (1, 10**6, 60 * 10**6, 3600 * 10**6)[number % 4]
        ends = sorted(chance.randrange(HOURS * 3600 * 10**6) // unit * unit for _ in range(2))
        if ends[0] < ends[1]:
            spans.append(Span(*(START + timedelta(microseconds=end) for end in ends)))
    return spans


def keep_all(output: Path) -> None:
    """All windows are there."""


def lose_all(output: Path) -> None:
    (output / AGGREGATIONS.name).rename(output.parent / "no windows at all")


def lose_hours(output: Path) -> None:
    (output / AGGREGATIONS.name / "window_size=1h").rename(output.parent / "no hours")


def lose_a_file_of_each(output: Path) -> None:
    for parts in WINDOWS:
        for path in sorted(output.joinpath(*parts).rglob("*.parquet"))[1::3]:
            path.unlink()


def add_late_reports(output: Path) -> None:
    """Reports that the windows do not have yet, in some hours."""
    late = [each for each in make_reports(30, 5000) if each["recorded_at"].hour % 2]
    store(output, REPORTS, [*make_reports(600), *late])


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("change", [keep_all, lose_all, lose_hours, lose_a_file_of_each, add_late_reports])
def test_a_summary_is_that_of_plain_sql(name: str, change: Callable[[Path], None], output: Path) -> None:
    change(output)
    ask = make_asker(output)
    for span in draw_spans(12):
        compare(ask(name, span), select(output, name, span))


def test_whole_hours_open_no_reports_and_edges_open_their_files(output: Path) -> None:
    ask = make_asker(output)
    hour, minute = timedelta(hours=1), timedelta(minutes=1)
    assert ask("agent-summary", Span()).files == 0
    assert ask("agent-summary", Span(START + hour, START + 4 * hour)).files == 0
    assert ask("agent-summary", Span(START + 7 * minute, START + 4 * hour)).files == 0
    ragged = Span(START + timedelta(seconds=90), START + 4 * hour + timedelta(seconds=30))
    assert ask("agent-summary", ragged).files == 2


def test_windows_of_hours_are_read_before_the_first_request(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in output.rglob("hour=*"):
        os.utime(folder, (1, 1))  # what changed just now is read again
    service = make_service(output)
    service.start()
    assert service.has_index.wait(timeout=PATIENCE)
    service.close()
    monkeypatch.setattr(window_cover, "read_file", lambda *_: pytest.fail("windows are read again"))
    assert make_asker(output, service)("agent-summary", Span()).files == 0


@pytest.mark.parametrize("column", ["accuracy", "recorded_at"])
def test_a_file_that_lacks_a_column_is_left_to_duckdb(column: str, output: Path) -> None:
    files, reports = OutputFiles.of(output), SpanReports(AgentNames(), FILE_MINUTES)
    found = reports.read(files, Span(), 10_000)
    assert found is not None
    assert sum(part.counts.sum() for part in found.parts) == 600
    path = next((output / REPORTS.name).rglob("*.parquet"))
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns([column]), path)
    assert reports.read(files, Span(), 10_000) is None


def test_a_row_group_without_rows_counts_nothing(output: Path) -> None:
    path = next((output / REPORTS.name).rglob("*.parquet"))
    lost = pq.read_metadata(path).num_rows
    pq.write_table(pq.read_table(path, partitioning=None).slice(0, 0), path)
    found = SpanReports(AgentNames(), FILE_MINUTES).read(OutputFiles.of(output), Span(), 10_000)
    assert found is not None
    assert sum(part.counts.sum() for part in found.parts) == 600 - lost


def test_a_report_that_no_window_has_yet_is_in_the_summary_at_once(output: Path) -> None:
    ask = make_asker(output)
    assert ask("agent-summary", Span()).files == 0
    for number in (1, 2):
        late = make_reports(1, 9000 + number)
        reports = [*make_reports(600), *late]
        replace_files(output, lambda folder, reports=reports: store(folder, REPORTS, reports))
        found = ask("agent-summary", Span())
        assert f"alone {9000 + number}" in found.rows["agent_id"].to_pylist()
        assert 1 <= found.files <= 60 // FILE_MINUTES
    replace_files(output, lambda folder: store_windows(folder, reports))
    assert ask("agent-summary", Span()).files == 0


def test_windows_whose_reports_have_expired_do_not_count(output: Path) -> None:
    ask = make_asker(output)
    day = START.date()
    change_ledger(
        output, lambda ledger: ledger.expire(REPORTS.name, day + timedelta(days=1), frozenset({day}), now())
    )
    assert ask("agent-summary", Span()).rows.num_rows == 0


@pytest.mark.parametrize("tables", [[REPORTS.name], [REPORTS.name, "/".join(WINDOWS[0])]])
def test_sealed_days_count_as_their_hours_do(tables: list[str], output: Path) -> None:
    day = START.date()
    for table in tables:
        files = sorted((output / table / f"date={day}").rglob("*.parquet"))
        (output / locate_day(table, day)).write_bytes(
            encode_file(concat([read_file(each) for each in files]))
        )
    for table in tables:
        change_ledger(output, lambda ledger, table=table: ledger.put_day(table, day, DayPlace(True), now()))
    ask = make_asker(output)
    for path in (output / REPORTS.name / f"date={day}").glob("hour=*/*.parquet"):
        path.unlink()
    for span in draw_spans(8):
        compare(ask("agent-summary", span), select(output, "agent-summary", span))
    assert ask("agent-summary", Span(START + timedelta(hours=1), START + timedelta(hours=3))).files == 0


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e308, -1e308])
def test_a_value_that_no_valid_report_has_is_left_to_duckdb(value: float, output: Path) -> None:
    rows = pa.Table.from_pylist(
        [{"recorded_at": START, "agent_id": "agent 1", "latency_ms": value, "accuracy": 0.5}] * 2
    ).cast(pa.schema([REPORTS.schema.field(name) for name in REPORT_COLUMNS]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="no number, or is larger"):
            AgentNames().read_reports(rows.combine_chunks().to_batches()[0]).check()
        file = next((output / REPORTS.name).rglob("*.parquet"))
        stored = pq.read_table(file, partitioning=None)
        place = stored.column_names.index("latency_ms")
        pq.write_table(stored.set_column(place, "latency_ms", pa.array([value] * len(stored))), file)
        reports = SpanReports(AgentNames(), FILE_MINUTES)
        assert reports.read(OutputFiles.of(output), Span(), 10**6) is None


def test_an_infinite_value_that_duckdb_has_summed_merges_without_a_warning() -> None:
    names = AgentNames()
    windows = pa.RecordBatch.from_pylist(
        [
            {"time_window_start": None, "agent_id": "a", "task_count": 1, "avg_latency_ms": latency,
             "latency_stddev": None, "avg_accuracy": 0.5}
            for latency in (float("inf"), 3.0)
        ],
        schema=pa.schema([AGGREGATIONS.schema.field(name) for name in SUMMED]),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (row,) = names.make_rows(merge_sums(names.read_windows(windows))).to_pylist()
    assert (row["task_count"], row["avg_latency_ms"], row["avg_accuracy"]) == (2, float("inf"), 0.5)
