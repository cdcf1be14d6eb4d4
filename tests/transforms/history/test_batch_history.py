"""History of a batch: each report once, with the baseline of its agent."""

from datetime import timedelta
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from schemas.tables import DUPLICATE
from tests.transforms.history.builders import FAULTY, NO_LOOKBACK, NOON, apply_to, batch, fail_at, reports
from transforms.history import batch_history
from transforms.history.batch_history import BatchHistory, apply_history
from transforms.history.blocks import LOOKBACK, Blocks


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
        "kind": "kpi_report",
        "record_id": None,
        "report_id": "1" * 32,
        "revision": 1,
    }
    assert duplicates.to_pylist() == [lost]


def test_lookback_feeds_baselines_but_does_not_come_out():
    stored = batch({"id": "1", "at": -70}, {"id": "3", "at": -65})
    lookback = feeding(stored, 1)
    reports, duplicates = apply_to(batch({"id": "2", "at": 200}), lookback=lookback)
    assert reports.select(["message_id", "baseline_n"]).to_pylist() == [{"message_id": "2", "baseline_n": 2}]
    assert duplicates.num_rows == 0


def feeding(reports: pa.RecordBatch, number: int) -> pa.Table:
    """Reports as lookback of a block."""
    keyed = Blocks().split_lookback(reports, np.full(reports.num_rows, number))
    return pa.Table.from_batches([rows for _, rows in keyed], LOOKBACK)


@pytest.mark.parametrize(
    ("portion", "hours"), [(1, [[0], [1], [2], [5]]), (3, [[0], [1, 2], [5]]), (99, [[0, 1, 2, 5]])]
)
def test_a_batch_has_all_reports_of_its_hours_and_hours_ascend(portion, hours, monkeypatch):
    minutes = (301, 59, 0, 62, 125, 30, 119, 1)
    given = [reports(*minutes[:5]), reports(*minutes[5:], first=5)]
    whole, _ = apply_to(*given)
    monkeypatch.setattr(batch_history, "PIECE_ROWS", portion)
    parts = list(apply_history(given, NO_LOOKBACK, 2)[0])
    assert [
        sorted({(at - NOON).seconds // 3600 for at in part["recorded_at"].to_pylist()}) for part in parts
    ] == hours
    assert pa.Table.from_batches(parts).sort_by("report_id") == whole.sort_by("report_id")


def test_nothing_gives_nothing():
    reports, duplicates = apply_to(batch())
    assert (reports.num_rows, duplicates.num_rows) == (0, 0)


def test_the_transform_gathers_a_block_from_all_its_batches():
    again = {"id": "1", "at": 200, "message": "3"}
    blocks = [(0, batch({"id": "1", "at": 0})), (1, batch({"id": "2", "at": 0})), (0, batch(again))]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        typed = beam.Create(blocks).with_output_types(tuple[int, pa.RecordBatch])
        out = pipeline | typed | BatchHistory(min_samples=2)
        reports = out.reports | "message ids" >> beam.FlatMapTuple(
            lambda block, rows: [(block, each) for each in rows["message_id"].to_pylist()]
        )
        duplicates = out.duplicates | "lost ids" >> beam.FlatMap(lambda rows: rows["message_id"].to_pylist())
        assert_that(reports, equal_to([(0, "1"), (1, "2")]), "reports")
        assert_that(duplicates, equal_to(["3"]), "duplicates")
        assert out.reports.element_type == beam.typehints.Tuple[int, pa.RecordBatch]
        assert out.duplicates.element_type is pa.RecordBatch


def test_lookback_alone_gives_nothing_and_a_report_that_came_as_two_messages_feeds_once():
    stored = [batch({"id": "1", "at": -70, "message": name}) for name in "xy"]
    lookback = [rows for each in stored for rows in feeding(each, 1).to_batches()]
    assert list(batch_history._apply_to_block((1, lookback), 2)) == []
    ((block, rows),) = batch_history._apply_to_block(
        (1, [lookback[0], batch({"id": "2", "at": 200}), lookback[1]]), 2
    )
    assert (block, rows["message_id"].to_pylist(), rows["baseline_n"].to_pylist()) == (1, ["2"], [1])


def test_a_report_at_which_history_raises_in_a_batch_is_refused(monkeypatch):
    fails, baseline = fail_at(FAULTY["latency_ms"]), batch_history.baseline.compute_baselines
    monkeypatch.setattr(
        batch_history.baseline,
        "compute_baselines",
        lambda rows, *more: fails(rows) or baseline(rows, *more),
    )
    sound = [batch({"id": "1", "at": 0}), batch({"id": "2", "at": 200}), batch({"id": "3", "at": 400})]
    bad = batch({"id": "4", "at": 1, **FAULTY}, {"id": "5", "at": 401})
    with beam.Pipeline(FnApiRunner()) as pipeline:
        blocks = beam.Create([(0, each) for each in (*sound, bad)]).with_output_types(
            tuple[int, pa.RecordBatch]
        )
        out = pipeline | blocks | BatchHistory(min_samples=2)
        named = [
            each | f"{name}" >> beam.Map(lambda batch: sorted(batch["message_id"].to_pylist()))
            for name, each in (("reports", out.reports | beam.Values()), ("quarantine", out.quarantine))
        ]
        assert_that(named[0], equal_to([["1", "2", "3", "5"]]), "reports, the hour in one batch")
        assert_that(named[1], equal_to([["4"]]), "refused")


@pytest.mark.parametrize("error", [MemoryError, OverflowError])
def test_what_raises_at_no_report_alone_ends_the_run(error, monkeypatch):
    def fails(rows: pa.Table, *_: Any) -> None:
        if rows.num_rows > 1:
            raise error

    monkeypatch.setattr(batch_history.baseline, "compute_baselines", fails)
    monkeypatch.setattr(batch_history, "_attach_baselines", lambda *_: iter([]))
    with pytest.raises(error):
        list(batch_history._apply_to_block((0, [reports(0), reports(1, first=1)]), 2))
