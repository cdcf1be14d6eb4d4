"""How a sink does is what all of its writers say: those of a process, those of others, and none that is
gone."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.tables import DUPLICATES
from tests.transforms.sinks.test_write_tables import duplicates
from transforms.sinks import sink_status
from transforms.sinks.sink_status import SinkStatus, read_sink_statuses, remove_old_statuses


@pytest.fixture
def writers(tmp_path: Path) -> tuple[SinkStatus, SinkStatus]:
    """Two writers of a table in one process."""
    sink_status._get_counts.cache_clear()
    return SinkStatus(tmp_path, 0, DUPLICATES.name), SinkStatus(tmp_path, 0, DUPLICATES.name)


def statuses(folder: Path, begun: float = 0.0) -> list[tuple[int, str | None]]:
    return sorted((each["rows"], each["error"]) for each in read_sink_statuses(folder, begun))


def write_status(folder: Path, process: str, **content: Any) -> None:
    whole = {"sink": "out", "table": "kpi_reports", "rows": 1, "newest": None, "error": None} | content
    (folder / f"sink-0-kpi_reports-{process}.json").write_text(json.dumps({"waiting_since": None} | whole))


def test_a_write_of_one_writer_does_not_end_the_wait_of_another(
    tmp_path: Path, writers: tuple[SinkStatus, SinkStatus]
) -> None:
    one, other = writers
    one.report_waiting("out", "the disk is gone")
    other.report_written("out", 2, [duplicates(2)])
    assert statuses(tmp_path) == [(2, "the disk is gone")]
    one.report_written("out", 3, [duplicates(3)])
    assert statuses(tmp_path) == [(5, None)]


def test_a_writer_that_ended_is_waited_for_until_another_reports(
    tmp_path: Path, writers: tuple[SinkStatus, SinkStatus]
) -> None:
    one, other = writers
    one.report_waiting("out", "the disk is gone")
    one.close()
    assert statuses(tmp_path) == [(0, "the disk is gone")]
    other.report_written("out", 2, [duplicates(2)])
    assert statuses(tmp_path) == [(2, None)]


def test_a_restarted_process_waits_since_the_one_before_it_did(
    tmp_path: Path, writers: tuple[SinkStatus, SinkStatus]
) -> None:
    before = {"sink": "out", "table": DUPLICATES.name, "time": 1000, "rows": 0, "newest": None}
    before |= {"waiting_since": 7, "error": "gone"}
    (tmp_path / f"sink-0-{DUPLICATES.name}-1-a.json").write_text(json.dumps(before))

    def find_since() -> list[int | None]:
        return [each["waiting_since"] for each in read_sink_statuses(tmp_path, begun=2.0)]

    for _ in range(2):
        writers[0].report_waiting("out", "it is still gone")
        assert find_since() == [7]
    writers[0].report_written("out", 1, [duplicates(1)])
    assert find_since() == [None]
    writers[0].report_waiting("out", "it is gone again")
    assert (find_since()[0] or 0) > 7


def test_each_process_of_a_job_counts(tmp_path: Path) -> None:
    write_status(tmp_path, "1-a", time=1000, rows=4)
    write_status(tmp_path, "2-b", time=2000, rows=5, waiting_since=1, error="the disk is gone")
    assert statuses(tmp_path, begun=0.5) == [(4, None), (5, "the disk is gone")]


def test_processes_of_the_job_before_count_until_a_newer_one_reports(tmp_path: Path) -> None:
    write_status(tmp_path, "1-a", time=1000, waiting_since=1, error="the disk is gone")
    write_status(tmp_path, "2-b", time=1500, waiting_since=1, error="the disk was gone")
    assert statuses(tmp_path, begun=1.6) == [(1, "the disk was gone")]
    write_status(tmp_path, "3-c", time=2000, rows=7)
    assert statuses(tmp_path, begun=1.6) == [(7, None)]
    remove_old_statuses(tmp_path, begun=1.6)
    assert [path.name for path in tmp_path.iterdir()] == ["sink-0-kpi_reports-3-c.json"]


def test_a_file_that_cannot_be_read_counts_for_nothing(tmp_path: Path) -> None:
    write_status(tmp_path, "1-a", time=1000)
    (tmp_path / "sink-0-quarantine-1-a.json").write_text("{")
    assert statuses(tmp_path) == [(1, None)]
