"""The way of reports, and what it costs, from what was noted on the way."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.journey import (
    READER,
    STEPS,
    Cost,
    costs_of,
    costs_table,
    journeys_of,
    paper_table,
    steps,
)
from tests.benchmarks.trials import ROOT, Passed

POINTS = list(STEPS)


def at(*pairs: tuple[int, int]) -> Passed:
    """Messages by the millisecond of their ids, and the milliseconds at which they passed."""
    return np.array([(millis << 20, 1000 * passed) for millis, passed in pairs], np.int64)


def test_a_journey_is_of_reports_that_passed_every_point_and_their_first_time_counts() -> None:
    passed = {
        "read": at((100, 105), (200, 201), (300, 310), (100, 900)),
        "validated": at((300, 330), (100, 107), (400, 401)),
    }
    found = journeys_of(passed, since_us=0)
    assert {point: values.tolist() for point, values in found.items()} == {
        "read": [5, 10],
        "validated": [7, 30],
    }


def test_reports_of_the_warm_up_do_not_count() -> None:
    passed = {"read": at((100, 105), (300, 310)), "validated": at((100, 106), (300, 312))}
    assert journeys_of(passed, since_us=200_000)["validated"].tolist() == [12]


def test_a_step_is_the_time_since_the_point_before_and_writing_goes_on_beside_publishing() -> None:
    journeys = {point: np.array([10.0 * (place + 1)]) for place, point in enumerate(POINTS)}
    rows = {
        cells[1]: cells[3:7]
        for cells in ([cell.strip() for cell in line.split("|")] for line in steps(journeys))
    }
    assert rows["read"] == ["10.0", "10.0", "10.0", "10.0"]
    assert rows["published"] == ["10.0", "10.0", "60.0", "60.0"]
    assert rows["written"] == ["20.0", "20.0", "70.0", "70.0"]


COSTS = [Cost(READER, 50.0, 80.0), Cost("the worker with history", 30.0, 70.0), Cost("java", 20.0, 40.0),
         Cost("redis-server", 5.0, 9.0), Cost("launcher", 1.0)]  # fmt: skip


def test_costs_add_up_over_the_processes() -> None:
    lines = list(costs_table(COSTS, 12.5, 100_000))
    assert "| all of them | 106.0 | 199.0 |" in lines
    assert "| launcher | 1.0 |  |" in lines
    assert "| kpiflow backfill, without its start | 12.5 | |" in lines


def test_a_worker_that_only_one_of_the_runs_had_counts_in_the_total_of_that_run() -> None:
    costs = costs_of(
        {"java": 20.0, "other workers": 6.0}, {"java": 40.0, "a worker that writes tables": 200.0}
    )
    lines = list(costs_table(costs, 12.5, 100_000))
    assert lines[2:6] == [
        "| java | 20.0 | 40.0 |",
        "| other workers | 6.0 |  |",
        "| a worker that writes tables |  | 200.0 |",
        "| all of them | 26.0 | 240.0 |",
    ]


def test_a_cluster_is_bound_by_cores_by_a_reader_by_redis_and_by_its_network() -> None:
    cells = [
        [cell.strip() for cell in line.split("|")]
        for line in paper_table(COSTS, shuffled=500.0, nodes=10, cores=2)
    ][2:]
    rates = [int(row[3].replace(",", "")) for row in cells]
    assert rates == pytest.approx([10_000, 200_000, 20_000, 200_000, 10 * 1.25e9 / 450], rel=1e-3)


PROGRAM = """
import sys
import apache_beam as beam
import pyarrow as pa
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from schemas.registry import load
from tests.benchmarks.stamps.sitecustomize import watch
from tests.builders import NOON, payload, report
from transforms.core.record_batches import RAW
watch(sys.argv[1])
from transforms.history.stream_history import StreamHistory
from transforms.core.sharding import KeyByShard
from transforms.validation.validate import MessageRules, Validate
with beam.Pipeline(FnApiRunner()) as pipeline:
    message = {"source": "kpi", "message_id": "1-0", "received_at": NOON, "payload": payload(report())}
    raw = pipeline | beam.Create([pa.RecordBatch.from_pylist([message], schema=RAW)])
    _ = (raw | Validate(MessageRules())).reports | KeyByShard(1) | StreamHistory(30, 3600, 60)
"""


def test_what_is_noted_are_steps_that_messages_pass(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, cwd=ROOT)
    assert {path.name.split(".")[1] for path in tmp_path.iterdir()} == {"validated", "shuffled", "remembered"}
