"""Each named query gives what plain SQL over all files gives."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from pipelines.failures import RunFailed, WrongUse
from pipelines.queries.limits import QueryLimits
from pipelines.queries.query import LONGEST_TEXT, ParameterKind
from pipelines.queries.registry import QUERIES
from pipelines.queries.run import run_query
from schemas.tables import REPORTS
from tests.pipelines.queries.small_output import AGENTS, FILE_MINUTES, HOURS, START, ask, make_output
from transforms.core.time_range import Span

SPAN = Span(START + timedelta(hours=2, minutes=3), START + timedelta(hours=10, minutes=31))
LATER = Span(START + timedelta(hours=7), START + timedelta(hours=11))
BASELINE = {"baseline_from": f"{SPAN.start:%Y-%m-%dT%H:%M}", "baseline_to": f"{SPAN.end:%Y-%m-%dT%H:%M}"}
LIST = ", ".join(f"k.{name}" for name in QUERIES["agent-over-time"].columns.names)
OF_LIST = f"SELECT {LIST} FROM kpi_reports k WHERE"
WITHIN = "recorded_at >= $start AND recorded_at < $end"
NEWEST = "ORDER BY k.recorded_at DESC, report_id"
SUMMARY = "AVG(latency_ms) AS l, AVG(accuracy) AS a, COUNT(*), STDDEV(latency_ms)"
REJECTED = "SELECT * EXCLUDE payload REPLACE (coalesce(kind, 'kpi_report') AS kind) FROM quarantine WHERE"
TIMELESS_LAST = "ORDER BY received_at DESC NULLS LAST, source, message_id"
MARKED = (
    "LEFT JOIN (SELECT report_id, MAP {'accuracy': 'false', 'latency_ms': 'verified'} AS m FROM _marks "
    "GROUP BY 1) USING (report_id)"
)
OF_FLAG = "task_id, agent_id, target_agent_type, baseline_n, c, v, latency_low_fence"
CAUSE = "coalesce(kind, 'kpi_report') AS k, reason, rule"
PLAIN: list[tuple[str, dict[str, str], Span, str]] = [
    ("reports-by-task", {"task_id": "task 100"}, Span(),
     f"SELECT * FROM kpi_reports k WHERE task_id = 'task 100' {NEWEST}"),
    ("reports-by-task", {"task_id": "task 100"}, SPAN,
     f"SELECT * FROM kpi_reports k WHERE task_id = 'task 100' AND {WITHIN} {NEWEST}"),
    ("agent-over-time", {"agent_id": AGENTS[1]}, SPAN,
     f"{OF_LIST} agent_id = 'agent 1' AND {WITHIN} {NEWEST}"),
    ("reports-by-type", {"agent_type": "gpu"}, SPAN,
     f"{OF_LIST} target_agent_type = 'gpu' AND {WITHIN} {NEWEST}"),
    ("reports-by-performance", {"max_accuracy": "0.85", "min_latency_ms": "110"}, Span(),
     f"{OF_LIST} accuracy <= 0.85 AND latency_ms >= 110 "
     "ORDER BY accuracy, latency_ms DESC, recorded_at DESC, report_id"),
    ("agent-summary", {}, SPAN,
     f"SELECT agent_id, {SUMMARY} FROM kpi_reports WHERE {WITHIN} GROUP BY agent_id ORDER BY a DESC"),
    ("hourly-patterns", {"min_reports": "15"}, SPAN,
     "SELECT DATE_TRUNC('hour', recorded_at) AS h, agent_id, AVG(latency_ms), AVG(accuracy), COUNT(*) "
     f"FROM kpi_reports WHERE {WITHIN} GROUP BY h, agent_id HAVING COUNT(*) > 15 ORDER BY h, agent_id"),
    ("anomalies", BASELINE, LATER,
     "WITH b AS (SELECT agent_id, AVG(latency_ms) AS l, STDDEV(latency_ms) AS ls, AVG(accuracy) AS a, "
     "STDDEV(accuracy) AS s FROM kpi_reports WHERE recorded_at >= $bs AND recorded_at < $be GROUP BY 1) "
     f"SELECT {LIST}, l, ls, a, s, m FROM kpi_reports k JOIN b ON k.agent_id = b.agent_id {MARKED} "
     f"WHERE {WITHIN} "
     f"AND (ABS(latency_ms - l) > 2 * ls OR ABS(accuracy - a) > 2 * s) {NEWEST}"),
    ("outliers", {"agent_id": AGENTS[1]}, SPAN,
     f"SELECT recorded_at, report_id, {OF_FLAG}, latency_high_fence, q, q, b, m FROM (SELECT *, 'latency_ms' "
     "AS c, latency_ms AS v, latency_q1 AS q, latency_baseline_state AS b FROM kpi_reports "
     "WHERE is_latency_outlier UNION ALL SELECT * REPLACE (NULL AS latency_high_fence), 'accuracy', "
     "accuracy, NULL, NULL FROM kpi_reports WHERE is_accuracy_outlier) k "
     f"{MARKED} WHERE agent_id = 'agent 1' AND {WITHIN} {NEWEST}, c"),
    ("outliers", {"column": "accuracy"}, Span(),
     "SELECT recorded_at, report_id, task_id, agent_id, target_agent_type, baseline_n, 'accuracy', accuracy, "
     f"NULL, NULL, NULL, NULL, NULL, m FROM kpi_reports k {MARKED} WHERE is_accuracy_outlier {NEWEST}"),
    ("aggregates", {"granularity": "1m", "agent_id": AGENTS[0]}, SPAN,
     "SELECT * FROM kpi_aggregations WHERE granularity = '1m' AND agent_id = 'agent 0' "
     "AND time_window_start >= $start AND time_window_start < $end ORDER BY time_window_start DESC"),
    ("fleet", {"granularity": "5s", "agent_type": "gpu"}, SPAN,
     "SELECT * FROM kpi_fleet WHERE granularity = '5s' AND target_agent_type = 'gpu' "
     "AND time_window_start >= $start AND time_window_start < $end ORDER BY time_window_start DESC"),
    ("totals", {"granularity": "1h"}, SPAN,
     "SELECT DISTINCT time_window_start, count(*) OVER w, sum(task_count) OVER w, NULL, "
     "sum(task_count * avg_latency_ms) OVER w / sum(task_count) OVER w, NULL, NULL, NULL, NULL "
     "FROM kpi_fleet WHERE granularity = '1h' AND time_window_start >= $start AND time_window_start < $end "
     "WINDOW w AS (PARTITION BY time_window_start) ORDER BY time_window_start DESC"),
    ("features", {"task_id": "task 7"}, Span(),
     f"SELECT * FROM features k WHERE task_id = 'task 7' {NEWEST}"),
    ("experiments", {}, SPAN,
     "SELECT 'routing', ['control', 'treatment'], COUNT(DISTINCT task_id), COUNT(DISTINCT agent_id), "
     "MIN(recorded_at), MAX(recorded_at) FROM features WHERE experiment = 'routing' AND variant <> '' AND "
     f"{WITHIN}"),
    ("experiment", {"experiment": "routing"}, SPAN,
     "SELECT task_id, variant, k.agent_id, MIN(k.recorded_at) AS m, COUNT(*), AVG(latency_ms), "
     "AVG(accuracy), AVG(cpu_usage), AVG(memory_mb), AVG(performance_score) FROM kpi_reports k JOIN "
     "(SELECT report_id, variant FROM features WHERE experiment = 'routing') USING (report_id) "
     "WHERE variant IS NOT NULL AND "
     f"{WITHIN} GROUP BY ALL ORDER BY m, task_id, k.agent_id, variant"),
    ("trends", {"kind": "change", "agent_type": "gpu"}, SPAN,
     "SELECT * FROM trends WHERE kind = 'change' AND target_agent_type = 'gpu' "
     "AND time_window_start >= $start AND time_window_start < $end ORDER BY time_window_start DESC"),
    ("quality", {"granularity": "1h", "source": "a"}, SPAN,
     "SELECT * FROM data_quality WHERE granularity = '1h' AND source = 'a' AND (time_window_start >= $start "
     "AND time_window_start < $end OR time_window_start IS NULL) ORDER BY time_window_start DESC NULLS LAST"),
    ("recommendations", {"state": "all", "rule": "fix_producer"}, SPAN,
     "SELECT *, lead(decided_at) OVER w, lead(state) OVER w FROM recommendations WHERE rule = 'fix_producer' "
     "AND decided_at >= $start AND decided_at < $end WINDOW w AS (PARTITION BY subject ORDER BY decided_at) "
     "ORDER BY decided_at DESC"),
    ("recommendations", {"at": "2025-10-21T08:00:00Z"}, Span(),
     "SELECT *, NULL, NULL FROM recommendations k WHERE state <> 'ended' AND expires_at > "
     "'2025-10-21T08:00:00Z'::TIMESTAMPTZ AND NOT EXISTS (FROM recommendations l WHERE l.rule = k.rule AND "
     "l.subject = k.subject AND l.decided_at > k.decided_at) ORDER BY decided_at DESC"),
    ("quarantine", {"reason": "schema"}, SPAN,
     f"{REJECTED} reason = 'schema' AND resolution IS NULL AND (received_at >= $start "
     f"AND received_at < $end OR received_at IS NULL) {TIMELESS_LAST}"),
    ("quarantine", {"state": "all", "kind": "kpi_report"}, Span(),
     f"{REJECTED} kind IS NULL {TIMELESS_LAST}"),
    ("quarantine-causes", {}, Span(),
     f"SELECT {CAUSE}, n, NULL, source, message_id, received_at, message FROM (SELECT *, row_number() OVER "
     f"(PARTITION BY kind, reason, rule {TIMELESS_LAST}) AS place, count(*) OVER (PARTITION BY kind, reason, "
     "rule) AS n FROM quarantine WHERE resolution IS NULL) WHERE place = 1 ORDER BY n DESC, k, reason, rule"),
    ("marks", {"column": "latency_ms"}, Span(),
     "SELECT DISTINCT ON (report_id) * FROM (FROM _marks WHERE \"column\" = 'latency_ms' "
     "ORDER BY marked_at DESC) ORDER BY marked_at DESC"),
    ("marks", {"state": "all", "agent_id": AGENTS[0]}, Span(),
     "SELECT * FROM _marks WHERE agent_id = 'agent 0' ORDER BY marked_at DESC"),
]  # fmt: skip


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_output(tmp_path_factory.mktemp("queries") / "out")


def select(output: Path, sql: str, span: Span) -> list[tuple[Any, ...]]:
    """The rows of plain SQL over all files of each table."""
    bound = {"start": span.start, "end": span.end, "bs": SPAN.start, "be": SPAN.end}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for folder in (each for each in output.iterdir() if each.is_dir()):
            files = f"read_parquet('{folder}/**/*.parquet', hive_partitioning = false)"
            connection.execute(f"CREATE VIEW {folder.name} AS FROM {files}")
        used = {name: value for name, value in bound.items() if f"${name}" in sql}
        return connection.execute(sql, used).fetchall()


@pytest.mark.parametrize(("name", "parameters", "span", "sql"), PLAIN, ids=lambda each: str(each)[:25])
def test_a_query_gives_what_plain_sql_gives(
    name: str, parameters: dict[str, str], span: Span, sql: str, output: Path
) -> None:
    answer = ask(output, name, span=span, **parameters)
    expected = select(output, sql, span)
    assert answer.rows.schema == QUERIES[name].columns
    assert len(expected) == answer.rows.num_rows > 0
    for row, plain in zip(answer.rows.to_pylist(), expected):
        pairs = {key: value for key, value in row.items() if isinstance(value, list)}
        maps = {key: dict(value) for key, value in pairs.items() if isinstance(value[0], tuple)}
        assert (row | maps) == {
            key: pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            for key, value in zip(row, plain, strict=True)
        }


def test_every_query_is_compared_with_plain_sql() -> None:
    assert {name for name, *_ in PLAIN} == set(QUERIES)


@pytest.mark.parametrize("query", QUERIES.values(), ids=lambda each: each.name)
def test_an_output_without_files_gives_no_rows(query: Any, tmp_path: Path) -> None:
    given = {each.name: "x" for each in query.parameters if each.required}
    answer = ask(tmp_path, query.name, **given)
    assert (answer.rows.num_rows, answer.files, answer.cursor) == (0, 0, None)
    assert answer.rows.schema == query.columns


def test_a_column_that_old_files_lack_is_null(tmp_path: Path) -> None:
    output = make_output(tmp_path)
    for path in (output / REPORTS.name).rglob("*.parquet"):
        pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["gpu_utilization"]), path)
    answer = ask(output, "reports-by-task", task_id="task 100")
    assert answer.rows.num_rows == 3
    assert answer.rows["gpu_utilization"].null_count == 3


@pytest.mark.parametrize("minutes", [1, 10, 60])
def test_a_query_with_a_short_span_opens_few_files(minutes: int, output: Path) -> None:
    start = START + timedelta(hours=3, minutes=4)
    answer = ask(
        output, "reports-by-task", task_id="task 45", span=Span(start, start + timedelta(minutes=minutes))
    )
    assert answer.files <= minutes // FILE_MINUTES + 2
    assert ask(output, "reports-by-task", task_id="task 45").files == HOURS * 60 // FILE_MINUTES


def test_a_value_is_never_part_of_the_sql(output: Path) -> None:
    assert ask(output, "agent-over-time", agent_id="' OR true --").rows.num_rows == 0
    assert ask(output, "quarantine", reason="$state'); DROP TABLE x; --").rows.num_rows == 0


@pytest.mark.parametrize(
    "sql",
    ["FROM read_text('/etc/hostname')", "FROM reports UNION ALL BY NAME FROM read_parquet('/tmp/*.parquet')"],
)
def test_sql_of_a_query_reaches_no_other_file(sql: str, output: Path) -> None:
    query = QUERIES["agent-summary"]
    reaching = type(query)(**(vars(query) | {"sql": sql}))
    with pytest.raises(RunFailed, match=r"Cannot access file|disabled by config"):
        run_query(output, reaching, query.parse({}), Span(), FILE_MINUTES)


def test_a_query_is_stopped_after_its_seconds(output: Path) -> None:
    query = QUERIES["agent-summary"]
    columns = "agent_id, 1.0 AS avg_latency, 1.0 AS avg_accuracy, 1 AS task_count, 1.0 AS latency_stddev"
    endless = type(query)(**(vars(query) | {"sql": f"SELECT {columns} FROM reports, range(100000000000)"}))
    with pytest.raises(RunFailed, match=r"stopped after 0\.2 s"):
        run_query(output, endless, query.parse({}), Span(), FILE_MINUTES, QueryLimits(seconds=0.2))


def test_a_query_is_stopped_at_its_memory(output: Path) -> None:
    query = QUERIES["agent-summary"]
    rows = "SELECT range, 1 AS avg_latency, 1 AS task_count, 1 AS latency_stddev FROM range(9000000)"
    sql = f"SELECT (range * range)::VARCHAR AS agent_id, 1.0 AS avg_accuracy, * FROM ({rows}) GROUP BY ALL"
    huge = type(query)(**(vars(query) | {"sql": sql}))
    with pytest.raises(RunFailed, match="needs more than 64 MB"):
        run_query(output, huge, query.parse({}), Span(), FILE_MINUTES, QueryLimits(memory_mb=64))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    output = make_output(tmp_path)
    broken = next(iter((output / REPORTS.name).rglob("*.parquet")))
    broken.write_bytes(b"PAR1 is not enough")
    with pytest.raises(RunFailed, match=str(broken.name)):
        ask(output, "agent-summary")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("agent-summary", {"agnet_id": "a"}, "no parameter agnet_id"),
        ("agent-over-time", {}, "needs agent_id"),
        ("aggregates", {"granularity": "2h"}, "cannot be 2h"),
        ("anomalies", {"deviations": "nan"}, "not a number"),
        ("hourly-patterns", {"min_reports": "1.5"}, "not a whole number"),
        ("anomalies", {"baseline_from": "noon"}, "not a time"),
        ("agent-summary", {"agent_id": "\udcff"}, "not a text"),
        ("agent-summary", {"agent_id": "x" * (LONGEST_TEXT + 1)}, "characters"),
    ],
)
def test_a_wrong_parameter_is_refused(name: str, given: dict[str, str], message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        QUERIES[name].parse(given)


@pytest.mark.parametrize("query", QUERIES.values(), ids=lambda each: each.name)
def test_a_query_declares_what_its_sql_uses(query: Any) -> None:
    names = {each.name for each in query.parameters}
    times = {each.name for each in query.parameters if each.kind is ParameterKind.TIME}
    for source in query.inputs:
        assert set(source.span or ()) <= times
        assert {source.window} - {""} <= names
    for each in query.order:
        assert each.column in query.columns.names
    for each in query.parameters:
        assert f"${each.name}" in query.sql + each.condition or each.kind is ParameterKind.TIME


def test_queries_import_neither_beam_nor_runners() -> None:
    code = (
        "import sys, pipelines.queries.formats, pipelines.queries.registry\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('apache_beam', 'runners')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
