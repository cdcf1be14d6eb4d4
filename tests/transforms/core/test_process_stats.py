"""What a process measures of itself: in a file of its own, and nothing outside of a stream."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.tables import TIME
from tests.patience import PATIENCE
from transforms.core import process_stats
from transforms.core.process_stats import (
    LATENCY_BOUNDS,
    VALIDATED,
    ProcessStats,
    StatsFile,
    count_attempt,
    observe_latency,
    record_process,
)
from transforms.core.status_files import read_status


def received(*seconds_ago: float | None) -> pa.Array:
    now = datetime.now(UTC)
    return pa.array([each if each is None else now - timedelta(seconds=each) for each in seconds_ago], TIME)


def read_stats(folder: Path) -> ProcessStats:
    total = ProcessStats()
    for path in folder.glob("*.json"):
        total.add(ProcessStats.of(read_status(path, StatsFile)))
    return total


def test_latencies_fall_into_their_buckets_and_attempts_are_counted_by_peer(tmp_path: Path) -> None:
    with record_process(tmp_path, "worker"):
        observe_latency(VALIDATED, received(0.07, 0.07, 2.0, 4000.0, None, -5.0))
        count_attempt("redis")
        count_attempt("redis", failed=True)
    found = read_stats(tmp_path)
    counts = dict(zip((*LATENCY_BOUNDS, "more"), found.latency[VALIDATED].counts))
    assert {bound: count for bound, count in counts.items() if count} == {0.005: 1, 0.1: 2, 2.5: 1, "more": 1}
    assert found.latency[VALIDATED].seconds == pytest.approx(4002.14, abs=0.1)
    assert (found.attempts, found.errors) == ({"redis": 2}, {"redis": 1})
    assert found.cpu["worker"] > 0


def test_two_runs_of_one_process_add_up(tmp_path: Path) -> None:
    for _ in range(2):
        with record_process(tmp_path, "worker"):
            count_attempt("a")
    assert read_stats(tmp_path).attempts == {"a": 2}


def test_a_process_that_dies_has_written_what_it_measured_a_second_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_stats, "_SECONDS", 0.02)
    with record_process(tmp_path, "worker"):
        count_attempt("a")
        end = time.monotonic() + PATIENCE
        while not read_stats(tmp_path).attempts and time.monotonic() < end:
            time.sleep(0.01)
        assert read_stats(tmp_path).attempts == {"a": 1}


def test_outside_of_a_stream_nothing_is_measured(tmp_path: Path) -> None:
    observe_latency(VALIDATED, received(1.0))
    count_attempt("a")
    assert not process_stats.is_recording()


@pytest.mark.parametrize("torn", ["", '{"latency": 1}', '{"latency": {"a": [[1], 1]}}', '{"attempts": 5}'])
def test_what_cannot_be_read_counts_for_nothing(tmp_path: Path, torn: str) -> None:
    (tmp_path / "1-1.json").write_text(torn)
    assert read_stats(tmp_path) == ProcessStats()
