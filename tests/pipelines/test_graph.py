"""The whole graph on a handful of messages: what goes in, and which rows come out at each of its ends."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipelines.assembly import SourceRows, make_batch_timing, make_blocks
from pipelines.graph import Sinks, Sources, build, make_rules
from pipelines.settings import Settings
from runners import direct
from schemas.kinds import KINDS
from schemas.readers.verdicts import MessageLimits, Rejection
from schemas.registry import load
from schemas.tables import AGGREGATIONS, DUPLICATES, FLEET, QUARANTINED, RECORD_TABLES, REPORTS
from tests.builders import NOON, agent, agent_record, health, messages, report, result, task
from transforms import enrich, outliers
from transforms.core.record_batches import concat
from transforms.core.time_range import Span
from transforms.history import baseline
from transforms.validation.quarantine_rows import quarantine_messages
from transforms.validation.validate import MessageRules, judge_block

Row = dict[str, Any]
Tables = dict[str, list[Row]]
KEPT: Tables = defaultdict(list)


class Given(beam.PTransform):
    """A source: messages (RAW), and quarantine rows for what could not be one."""

    def __init__(self, messages: pa.RecordBatch, refused: Sequence[pa.RecordBatch] = ()) -> None:
        super().__init__()
        self.messages, self.refused = messages, refused

    def expand(self, root: beam.pvalue.PBegin) -> SourceRows:
        def given(name: str, batches: Sequence[pa.RecordBatch]) -> beam.PCollection:
            return root | name >> beam.Create(batches, reshuffle=False).with_output_types(pa.RecordBatch)

        return SourceRows(given("messages", [self.messages]), given("refused", self.refused))


class Stored(beam.PTransform):
    """A recall: whatever is new, these reports come back, whole or as lookback of the block of noon."""

    def __init__(self, reports: pa.RecordBatch, lookback: bool = False) -> None:
        super().__init__()
        blocks = make_blocks(Settings())
        numbers = np.full(reports.num_rows, blocks.number(np.array([NOON.timestamp() // 60], np.int64))[0])
        self.keyed = list(blocks.split_lookback(reports, numbers) if lookback else blocks.split(reports))

    def expand(self, new: beam.PCollection) -> beam.PCollection:
        stored = beam.Create(self.keyed, reshuffle=False).with_output_types(tuple[int, pa.RecordBatch])
        return new.pipeline | "stored" >> stored


class Keep(beam.PTransform):
    """Sinks in memory."""

    def expand(self, tables: Mapping[str, beam.PCollection]) -> list[beam.PCollection]:
        return [batches | name >> beam.Map(keep, name) for name, batches in tables.items()]


def keep(batch: pa.RecordBatch, table: str) -> None:
    KEPT[table].extend(batch.to_pylist())


def build_batch(sources: Sources, settings: Settings, fleet: bool = False) -> None:
    """Run the graph as a batch, into KEPT."""
    timing = make_batch_timing(settings)
    direct.run(lambda root: build(root, sources, Sinks(Keep(), fleet=fleet), settings, timing))


Run = Callable[..., Tables]


@pytest.fixture
def run() -> Run:
    """Runs the graph over messages: the rows of each table."""

    def run_(
        messages: pa.RecordBatch,
        recall: Stored | None = None,
        span: Span | None = None,
        fleet: bool = False,
        **settings: Any,
    ) -> Tables:
        KEPT.clear()
        build_batch(Sources(Given(messages), recall, span or Span()), Settings(**settings), fleet)
        return KEPT

    return run_


def ids(rows: list[Row]) -> list[str]:
    return sorted(row["message_id"] for row in rows)


def steady(count: int) -> list[Row]:
    """A report a minute before noon, of one agent, with latencies from 100 to 119 ms."""
    return [
        report(number, at=NOON - timedelta(minutes=number), latency_ms=100.0 + number % 20)
        for number in range(3, 3 + count)
    ]


def test_every_message_leaves_by_one_end(run: Run) -> None:
    tables = run(messages([report(1), report(2, accuracy=2), report(1), "{", report(3)]))
    ends = {table: ids(tables[table]) for table in ("kpi_reports", "duplicates", "quarantine")}
    assert ends == {"kpi_reports": ["m0", "m4"], "duplicates": ["m2"], "quarantine": ["m1", "m3"]}
    assert {row["reason"] for row in tables["quarantine"]} == {"schema", "json"}


def test_a_row_has_every_column_of_its_table(run: Run) -> None:
    tables = run(messages([report(1), report(1), "{"]))
    for table in (REPORTS, AGGREGATIONS, QUARANTINED, DUPLICATES):
        assert set(table.schema.names) == set(tables[table.name][0])


def test_what_a_source_refuses_joins_what_validation_refuses() -> None:
    KEPT.clear()
    misfit = quarantine_messages(messages(["[]"]), [Rejection("envelope", "no message_id")])
    build_batch(Sources(Given(messages(["{"]), [misfit])), Settings())
    assert sorted(row["reason"] for row in KEPT["quarantine"]) == ["envelope", "json"]


def test_a_report_is_measured_by_its_agents_past_hour(run: Run) -> None:
    slow, other = report(99, latency_ms=500.0), report(98, agent_id=agent(1), latency_ms=500.0)
    tables = run(messages([slow, other, *steady(50)], received_at=None))
    known, stranger = (row for row in tables["kpi_reports"] if row["latency_ms"] == 500)
    if known["agent_id"] == agent(1):
        known, stranger = stranger, known
    assert (known["baseline_n"], known["latency_baseline_state"], known["is_latency_anomaly"]) == (
        50,
        "ready",
        True,
    )
    assert (stranger["baseline_n"], stranger["latency_baseline_state"], stranger["is_latency_anomaly"]) == (
        0,
        "warmup",
        False,
    )
    assert known["revision"] == 50
    assert 100 < known["latency_q1"] < known["latency_q3"] < known["latency_high_fence"] < 500


def test_enriched_reports_are_aggregated_over_5_s_1_min_and_1_h(run: Run) -> None:
    fast = [
        report(number, at=NOON + timedelta(seconds=second), latency_ms=100.0)
        for number, second in enumerate((0, 4.9, 5, 60))
    ]
    tables = run(
        messages(
            [*fast, report(9, agent_id=agent(1), error_details={"code": 1})], NOON + timedelta(minutes=2)
        )
    )
    windows = {
        (row["granularity"], row["agent_id"], row["time_window_start"] - NOON): row
        for row in tables["kpi_aggregations"]
    }
    mine = {
        (name, at.seconds): row["task_count"] for (name, who, at), row in windows.items() if who == agent()
    }
    assert mine == {("5s", 0): 2, ("5s", 5): 1, ("5s", 60): 1, ("1m", 0): 3, ("1m", 60): 1, ("1h", 0): 4}
    hour = windows["1h", agent(1), timedelta()]
    assert (hour["success_rate"], hour["avg_latency_ms"], hour["time_window_end"]) == (
        0.0,
        120.0,
        NOON + timedelta(hours=1),
    )


FLEET_OF_REPORTS = """
    SELECT target_agent_type, time_bucket(INTERVAL 1 HOUR, recorded_at) AS time_window_start,
        count(*) AS task_count,
        avg(latency_ms) AS avg_latency_ms, stddev_samp(latency_ms) AS latency_stddev,
        max(latency_ms) AS max_latency_ms,
        quantile_disc(latency_ms, 0.5) AS latency_p50_ms, quantile_disc(latency_ms, 0.95) AS latency_p95_ms,
        avg(performance_score) AS performance_score,
        sum(is_latency_outlier::INT)::BIGINT AS latency_outlier_count,
        sum(1 + revision)::BIGINT AS revision
    FROM reports GROUP BY ALL ORDER BY target_agent_type NULLS LAST, time_window_start
"""


def test_the_fleet_is_what_a_query_over_all_reports_of_a_type_gives(run: Run) -> None:
    crowd = [
        report(
            number,
            NOON + timedelta(seconds=11 * number),
            agent_id=agent(number % 7),
            latency_ms=50.0 + number**2 % 997,
        )
        | {"target_agent_type": ("gpu", "cpu", None)[number % 3]}
        for number in range(600)
    ]
    tables = run(messages(crowd, None), fleet=True, shards=4, min_samples=10, iqr_factor=0.5)
    reports = pa.Table.from_pylist(tables[REPORTS.name], schema=REPORTS.schema)
    expected = duckdb.query(FLEET_OF_REPORTS).to_arrow_table().to_pandas()
    hours = pa.Table.from_pylist(
        [row for row in tables[FLEET.name] if row["granularity"] == "1h"], schema=FLEET.schema
    ).to_pandas()
    got = hours.sort_values(["target_agent_type", "time_window_start"], ignore_index=True)[list(expected)]
    assert reports.num_rows == 600
    assert expected["latency_outlier_count"].sum() > 0
    percentiles = ["latency_p50_ms", "latency_p95_ms"]
    pd.testing.assert_frame_equal(got[percentiles], expected[percentiles], rtol=0.01)
    pd.testing.assert_frame_equal(
        got.drop(columns=percentiles), expected.drop(columns=percentiles), rtol=1e-9, check_dtype=False
    )


def test_no_fleet_is_made_unless_a_place_takes_it(run: Run) -> None:
    assert FLEET.name not in run(messages([report(1)]))


def test_duplicates_and_refused_messages_are_in_no_window(run: Run) -> None:
    tables = run(messages([report(1), report(1), report(2, accuracy=2)]))
    assert [row["task_count"] for row in tables["kpi_aggregations"]] == [1, 1, 1]


def stored(documents: list[Row]) -> pa.RecordBatch:
    """Reports as an output holds them, under messages of a source of their own."""
    reports, _ = judge_block(messages(documents, received_at=None), load("kpi_report"), MessageRules())
    columns = {name: reports[name] for name in reports.schema.names}
    columns["source"] = pa.array(["past"] * reports.num_rows)
    return pa.RecordBatch.from_pydict(columns, schema=reports.schema)


def test_lookback_feeds_baselines_and_is_written_nowhere(run: Run) -> None:
    tables = run(messages([report(99)], None), Stored(stored(steady(40)), lookback=True))
    assert [(row["message_id"], row["baseline_n"]) for row in tables["kpi_reports"]] == [("m0", 40)]
    assert {row["task_count"] for row in tables["kpi_aggregations"]} == {1}


def test_recalled_reports_have_baselines_and_are_aggregated_with_the_new_ones(run: Run) -> None:
    tables = run(
        messages([report(98, at=NOON + timedelta(minutes=10))], None),
        Stored(stored([report(99)])),
    )
    assert sorted((row["source"], row["baseline_n"]) for row in tables["kpi_reports"]) == [
        ("past", 0),
        ("test", 1),
    ]
    assert [row["task_count"] for row in tables["kpi_aggregations"] if row["granularity"] == "1h"] == [2]


def test_a_new_copy_of_a_recalled_report_is_a_duplicate(run: Run) -> None:
    tables = run(messages([report(99)], None), Stored(stored([report(99)])))
    assert [(row["source"], row["message_id"]) for row in tables["kpi_reports"]] == [("past", "m0")]
    assert [(row["source"], row["message_id"]) for row in tables["duplicates"]] == [("test", "m0")]


@pytest.mark.parametrize(("start", "kept"), [(NOON, ["m0", "m1"]), (NOON + timedelta(seconds=1), ["m1"])])
def test_a_span_keeps_reports_by_when_they_were_recorded(run: Run, start: datetime, kept: list[str]) -> None:
    tables = run(messages([report(1), report(2, at=NOON + timedelta(seconds=1)), "{"]), span=Span(start))
    assert ids(tables["kpi_reports"]) == kept
    assert ids(tables["quarantine"]) == ["m2"]


def test_a_span_keeps_refused_messages_by_when_they_were_received(run: Run) -> None:
    assert run(messages(["{"], NOON), span=Span(NOON + timedelta(seconds=1)))["quarantine"] == []
    assert ids(run(messages(["{"], None), span=Span(NOON))["quarantine"]) == ["m0"]


def test_settings_reach_the_step_that_they_are_for(run: Run) -> None:
    slow = messages([report(99, latency_ms=500.0), *steady(6)], received_at=None)
    tables = run(slow, min_samples=4, iqr_factor=1000, reference_latency_ms=500)
    (known,) = (row for row in tables["kpi_reports"] if row["latency_ms"] == 500)
    assert (known["latency_baseline_state"], known["is_latency_outlier"]) == ("ready", False)
    assert known["performance_score"] == pytest.approx(known["accuracy"] / 2)


def test_the_rules_of_a_message_are_those_of_the_settings() -> None:
    asked = Settings(max_payload_bytes=2000, max_depth=5, stale_seconds=60, future_seconds=0)
    assert make_rules(asked) == MessageRules(MessageLimits(2000, 5), 60, 0)
    assert make_rules(Settings()) == MessageRules()


@pytest.mark.parametrize("division", [{"shards": 16}, {"block_hours": 1}, {"block_hours": 1, "shards": 3}])
def test_blocks_decide_who_does_the_work_and_nothing_else(run: Run, division: dict[str, int]) -> None:
    crowd = messages(
        [
            report(number, NOON + timedelta(minutes=7 * number - 140), agent_id=agent(number % 3))
            | {"latency_ms": 100.0 + number, "target_agent_type": "ab"[number % 2]}
            for number in [*range(40), 3, 17]
        ],
        None,
    )
    one, many = (
        {
            name: sorted(map(repr, rows))
            for name, rows in run(crowd, fleet=True, min_samples=4, **each).items()
        }
        for each in ({}, division)
    )
    assert one == many
    assert all(one[name] for name in (REPORTS.name, AGGREGATIONS.name, FLEET.name, DUPLICATES.name))


@pytest.mark.parametrize(
    ("name", "module"), [("compute_baselines", baseline), ("flag_outliers", outliers), ("enrich", enrich)]
)
def test_a_report_at_which_a_later_kernel_raises_is_refused_and_its_neighbours_go_on(
    run: Run, name: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = getattr(module, name)

    def fails(batch: pa.RecordBatch, *options: Any) -> pa.RecordBatch:
        if 77.0 in batch["latency_ms"].to_pylist():
            raise OverflowError("date value out of range")
        return kernel(batch, *options)

    monkeypatch.setattr(module, name, fails)
    rich = {"custom_metrics": {"a": 1.5}, "error_details": {"code": [1]}, "odd": {"x": None}, "priority": 50}
    tables = run(messages([report(1), report(2, latency_ms=77.0, **rich), report(3)]))
    assert ids(tables["kpi_reports"]) == ["m0", "m2"]
    assert {row["task_count"] for row in tables["kpi_aggregations"]} == {2}
    (row,) = tables["quarantine"]
    assert (row["message_id"], row["reason"], row["message"]) == (
        "m1",
        "error",
        "OverflowError: date value out of range",
    )
    both = (row["payload"], report(2, latency_ms=77.0, **rich))
    kept, original = (judge_block(messages([each]), load("kpi_report"), MessageRules())[0] for each in both)
    assert kept == original


def test_records_go_straight_to_their_tables_and_join_one_quarantine(run: Run) -> None:
    documents = {
        "task": task(1),
        "execution_result": result(1),
        "agent": agent_record(),
        "system_health": health(),
    }
    sent = [messages([each, "[]"], source=KINDS[name].stream) for name, each in documents.items()]
    tables = run(concat([*sent, messages([report(1)])]))
    assert {name: ids(tables[name]) for name in (REPORTS.name, *RECORD_TABLES)} == {
        REPORTS.name: ["m0"],
        **{name: ["m0"] for name in RECORD_TABLES},
    }
    assert sorted(row["kind"] for row in tables["quarantine"]) == sorted(documents)


def test_a_span_keeps_the_records_of_its_time(run: Run) -> None:
    later = NOON + timedelta(hours=1)
    times = [NOON, later]
    sent = [
        messages([task(0, at) for at in times], source="layer4_tasks"),
        messages([result(0, at) for at in times], None, source="layer4_results"),
        messages([agent_record()], NOON, source="layer4_agents"),
        messages([agent_record()], later, source="layer4_agents"),
        messages([agent_record(1)], None, source="layer4_agents"),
    ]
    tables = run(concat(sent), span=Span(later))
    assert [row["created_at"] for row in tables["tasks"]] == [later]
    assert [row["completed_at"] for row in tables["results"]] == [later]
    assert [row["effective_at"] for row in tables["agents"]] == [later, None]
