from datetime import UTC, datetime, timedelta

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from schemas.tables import DUPLICATE
from transforms import history
from transforms.batches import BASELINED, REPORT_BATCH
from transforms.history import History, judge

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)


def batch(*rows: dict) -> pa.RecordBatch:
    """Reports that differ from a plain one as told; `at` is their second after noon, `id` their report and message."""
    plain = {"agent_id": "a", "latency_ms": 100.0, "accuracy": 0.9, "cpu_usage": 0.5, "memory_mb": 512.0, "context": False}
    return pa.RecordBatch.from_pylist([plain | _identified(**row) for row in rows], REPORT_BATCH)


def _identified(id: str, at: float, message: str = "", delay: float = 1, **fields) -> dict:
    recorded = NOON + timedelta(seconds=at)
    times = {"recorded_at": recorded, "received_at": recorded + timedelta(seconds=delay)}
    return times | {"report_id": id * 32, "source": "s", "message_id": message or id, "custom_metrics": {"turns": at}} | fields


def judged(*batches: pa.RecordBatch, min_samples: int = 2) -> tuple[pa.Table, pa.RecordBatch]:
    reports, duplicates = judge(batches, min_samples)
    return pa.Table.from_batches(reports, BASELINED), duplicates


def test_a_report_leaves_with_its_baseline_and_the_size_of_it_as_revision():
    reports, duplicates = judged(batch({"id": "1", "at": 0}, {"id": "2", "at": 60}, {"id": "3", "at": 240}))
    assert reports["baseline_n"].to_pylist() == reports["revision"].to_pylist() == [0, 0, 2]
    assert reports["latency_baseline_state"].to_pylist() == ["warmup", "warmup", "flat"]
    assert reports["custom_metrics"].to_pylist() == [[("turns", 0.0)], [("turns", 60.0)], [("turns", 240.0)]]
    assert duplicates == pa.RecordBatch.from_pylist([], DUPLICATE)


def test_a_duplicate_feeds_no_baseline():
    again = {"id": "1", "at": 0, "message": "y", "delay": 9}
    reports, duplicates = judged(batch(again, {"id": "1", "at": 0, "message": "x"}), batch({"id": "2", "at": 200}))
    assert reports.select(["message_id", "baseline_n"]).to_pylist() == [
        {"message_id": "x", "baseline_n": 0},
        {"message_id": "2", "baseline_n": 1},
    ]
    lost = {"source": "s", "message_id": "y", "received_at": NOON + timedelta(seconds=9), "report_id": "1" * 32, "revision": 1}
    assert duplicates.to_pylist() == [lost]


def test_context_feeds_baselines_but_does_not_come_out():
    reports, _ = judged(batch({"id": "1", "at": 0, "context": True}), batch({"id": "2", "at": 200}))
    assert reports.select(["message_id", "baseline_n"]).to_pylist() == [{"message_id": "2", "baseline_n": 1}]


def test_only_context_gives_nothing():
    stored = {"id": "1", "at": 0, "context": True}
    reports, duplicates = judged(batch(stored, stored | {"message": "2"}))
    assert (reports.num_rows, duplicates.num_rows) == (0, 0)


@pytest.mark.parametrize("portion", [1, 2, 3, 100])
def test_what_leaves_is_the_same_in_portions_of_any_size(portion, monkeypatch):
    rows = [{"id": "13579bdf02468ace"[i], "at": 40 * i, "context": i in (2, 3), "latency_ms": 90.0 + i} for i in range(10)]
    whole, _ = judged(batch(*rows))
    monkeypatch.setattr(history, "PORTION", portion)
    portions = list(judge([batch(*rows[:4]), batch(*rows[4:])], 2)[0])
    assert pa.Table.from_batches(portions) == whole
    assert all(0 < part.num_rows <= portion for part in portions)


def test_nothing_gives_nothing():
    reports, duplicates = judged(batch())
    assert (reports.num_rows, duplicates.num_rows) == (0, 0)


def test_the_transform_gathers_a_shard_from_all_its_batches():
    again = {"id": "1", "at": 200, "message": "3"}
    shards = [(0, batch({"id": "1", "at": 0})), (1, batch({"id": "2", "at": 0})), (0, batch(again))]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        typed = beam.Create(shards).with_output_types(tuple[int, pa.RecordBatch])
        out = pipeline | typed | History(min_samples=2)
        reports = out.reports | "message ids" >> beam.FlatMap(lambda rows: rows["message_id"].to_pylist())
        duplicates = out.duplicates | "lost ids" >> beam.FlatMap(lambda rows: rows["message_id"].to_pylist())
        assert_that(reports, equal_to(["1", "2"]), "reports")
        assert_that(duplicates, equal_to(["3"]), "duplicates")
        assert {out.reports.element_type, out.duplicates.element_type} == {pa.RecordBatch}
