"""History of a batch: each report once, with the baseline of its agent."""

from datetime import timedelta

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from schemas.tables import DUPLICATE
from tests.transforms.history.builders import FAULTY, NOON, apply_to, batch, fail_at, reports
from transforms.history import batch_history
from transforms.history.batch_history import BatchHistory, apply_history


def test_a_report_leaves_with_its_baseline_and_the_size_of_it_as_revision():
    reports, duplicates = apply_to(batch({"id": "1", "at": 0}, {"id": "2", "at": 60}, {"id": "3", "at": 240}))
    assert reports["baseline_n"].to_pylist() == reports["revision"].to_pylist() == [0, 0, 2]
    assert reports["latency_baseline_state"].to_pylist() == ["warmup", "warmup", "flat"]
    assert reports["custom_metrics"].to_pylist() == [[("turns", 0.0)], [("turns", 60.0)], [("turns", 240.0)]]
    assert duplicates == pa.RecordBatch.from_pylist([], DUPLICATE)


def test_a_duplicate_feeds_no_baseline():
    again = {"id": "1", "at": 0, "message": "y", "delay": 9}
    reports, duplicates = apply_to(
        batch(again, {"id": "1", "at": 0, "message": "x"}), batch({"id": "2", "at": 200})
    )
    assert reports.select(["message_id", "baseline_n"]).to_pylist() == [
        {"message_id": "x", "baseline_n": 0},
        {"message_id": "2", "baseline_n": 1},
    ]
    lost = {
        "source": "s",
        "message_id": "y",
        "received_at": NOON + timedelta(seconds=9),
        "report_id": "1" * 32,
        "revision": 1,
    }
    assert duplicates.to_pylist() == [lost]


def test_context_feeds_baselines_but_does_not_come_out():
    reports, _ = apply_to(batch({"id": "1", "at": 0, "context": True}), batch({"id": "2", "at": 200}))
    assert reports.select(["message_id", "baseline_n"]).to_pylist() == [{"message_id": "2", "baseline_n": 1}]


def test_only_context_gives_nothing():
    stored = {"id": "1", "at": 0, "context": True}
    reports, duplicates = apply_to(batch(stored, stored | {"message": "2"}))
    assert (reports.num_rows, duplicates.num_rows) == (0, 0)


@pytest.mark.parametrize(
    ("portion", "octets"), [(1, 1 << 28), (2, 1 << 28), (3, 1), (100, 1 << 28), (100, 2000)]
)
def test_what_leaves_is_the_same_in_portions_of_any_size(portion, octets, monkeypatch):
    rows = [
        {"id": "13579bdf02468ace"[i], "at": 40 * i, "context": i in (2, 3), "latency_ms": 90.0 + i}
        for i in range(10)
    ]
    whole, _ = apply_to(batch(*rows))
    monkeypatch.setattr(batch_history, "OUTPUT_ROWS", portion)
    monkeypatch.setattr(batch_history, "PIECE_BYTES", octets)
    portions = list(apply_history([batch(*rows[:4]), batch(*rows[4:])], 2)[0])
    assert pa.Table.from_batches(portions) == whole
    assert all(0 < part.num_rows <= portion for part in portions)


def test_nothing_gives_nothing():
    reports, duplicates = apply_to(batch())
    assert (reports.num_rows, duplicates.num_rows) == (0, 0)


def test_the_transform_gathers_a_shard_from_all_its_batches():
    again = {"id": "1", "at": 200, "message": "3"}
    shards = [(0, batch({"id": "1", "at": 0})), (1, batch({"id": "2", "at": 0})), (0, batch(again))]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        typed = beam.Create(shards).with_output_types(tuple[int, pa.RecordBatch])
        out = pipeline | typed | BatchHistory(min_samples=2)
        reports = out.reports | "message ids" >> beam.FlatMapTuple(
            lambda shard, rows: [(shard, each) for each in rows["message_id"].to_pylist()]
        )
        duplicates = out.duplicates | "lost ids" >> beam.FlatMap(lambda rows: rows["message_id"].to_pylist())
        assert_that(reports, equal_to([(0, "1"), (1, "2")]), "reports")
        assert_that(duplicates, equal_to(["3"]), "duplicates")
        assert out.reports.element_type == beam.typehints.Tuple[int, pa.RecordBatch]
        assert out.duplicates.element_type is pa.RecordBatch


def test_a_report_at_which_history_raises_in_a_batch_is_refused_unless_it_is_stored(monkeypatch):
    fails, baseline = fail_at(FAULTY["latency_ms"]), batch_history.baseline.compute_baselines
    monkeypatch.setattr(
        batch_history.baseline,
        "compute_baselines",
        lambda rows, samples: fails(rows) or baseline(rows, samples),
    )
    sound = [batch({"id": "1", "at": 0}), batch({"id": "2", "at": 200}), batch({"id": "3", "at": 400})]
    bad = batch({"id": "4", "at": 1, **FAULTY}, {"id": "5", "at": 2, "context": True, **FAULTY})
    with beam.Pipeline(FnApiRunner()) as pipeline:
        shards = beam.Create([(0, each) for each in (*sound, bad)]).with_output_types(
            tuple[int, pa.RecordBatch]
        )
        out = pipeline | shards | BatchHistory(min_samples=2)
        rows = [
            each | f"{name}" >> beam.FlatMap(lambda batch: batch["message_id"].to_pylist())
            for name, each in (("reports", out.reports | beam.Values()), ("quarantine", out.quarantine))
        ]
        assert_that(rows[0], equal_to(["1", "2", "3"]), "reports")
        assert_that(rows[1], equal_to(["4"]), "refused")


@pytest.mark.parametrize("error", [MemoryError, OverflowError])
def test_what_raises_at_no_report_alone_ends_the_run(error, monkeypatch):
    def fails(rows: pa.Table, _: int) -> None:
        if rows.num_rows > 1:
            raise error

    monkeypatch.setattr(batch_history.baseline, "compute_baselines", fails)
    monkeypatch.setattr(batch_history, "_attach_baselines", lambda *_: iter([]))
    with pytest.raises(error):
        list(batch_history._apply_to_shard((0, [reports(0), reports(1, first=1)]), 2))
