"""What a job remembers of its runs: no end of a process, and no step back of a reader, changes a total."""

import json
from pathlib import Path

import pytest

from pipelines.jobs import run_record
from pipelines.jobs.job_status import READERS
from pipelines.jobs.run_record import (
    PROCESSES,
    RUN,
    STOPPED,
    ReadMark,
    RunKeeper,
    RunRecord,
    begin_run,
    keep_run,
    read_totals,
)
from runners.progress import Progress
from transforms.core.process_stats import ProcessStats

GONE = 2**22 + 1
"""No process has this id."""


def begin(folder: Path) -> None:
    begin_run(folder, 10, 1800)


def place_reader(folder: Path, index: int, added: int, key: str = "s") -> None:
    (folder / READERS).mkdir(parents=True, exist_ok=True)
    content = {"streams": {key: {"index": index, "added": added}}, "read": 0, "watermark": None, "time": 0}
    (folder / READERS / f"reader-{key}.json").write_text(json.dumps(content))


def leave_process(folder: Path, attempts: int, pid: int = GONE, number: int = 0) -> Path:
    stats = ProcessStats()
    stats.attempts["redis"] = attempts
    path = folder / PROCESSES / f"{pid}-{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stats.as_json()))
    return path


@pytest.mark.parametrize(
    ("places", "read"),
    [
        ([(5, 9), (9, 9)], 9),
        ([(9, 9), (4, 9), (8, 12), (12, 12)], 12),
        ([(9, 9), (2, 3), (3, 3)], 10),
        ([(9, 9), (0, 0), (20, 20)], 29),
        ([(9, 9), (None, None), (12, 12)], 12),
    ],
    ids=["goes on", "goes back to a checkpoint", "was made again", "was emptied", "is unknown for a while"],
)
def test_a_message_counts_as_read_once(places: list[tuple[int | None, int | None]], read: int) -> None:
    mark = ReadMark()
    for place in places:
        mark = mark.move(*place)
    assert mark.total == read


def test_a_reader_that_goes_on_from_a_checkpoint_after_a_kill_changes_nothing(tmp_path: Path) -> None:
    begin(tmp_path)
    place_reader(tmp_path, 70, 100)
    assert read_totals(tmp_path).marks["s"].total == 70
    begin(tmp_path)
    (tmp_path / READERS / "reader-s.json").unlink()  # set aside
    assert read_totals(tmp_path).marks["s"].total == 70
    place_reader(tmp_path, 40, 100)
    assert read_totals(tmp_path).marks["s"].total == 70
    place_reader(tmp_path, 90, 100)
    assert read_totals(tmp_path).marks["s"].total == 90


def test_starts_restarts_and_renewals_add_up_over_runs(tmp_path: Path) -> None:
    for _ in range(2):
        begin(tmp_path)
        with keep_run(tmp_path) as keeper:
            keeper.follow(Progress("running"))
            keeper.follow(Progress("running", restarts=2))
            keeper.follow(Progress("running", restarts=2, renewals=1))
    record = RunRecord.read(tmp_path)
    assert (record.starts, record.restarts, record.renewals, record.state) == (2, 4, 2, STOPPED)
    assert record.started > record.first_started > 0


def test_the_present_job_begins_with_a_start_a_restart_or_a_renewal(tmp_path: Path) -> None:
    begin(tmp_path)
    keeper = RunKeeper(tmp_path)
    record = keeper.record
    moments = [record.begun]
    for progress in (Progress("running"), Progress("running", restarts=1), Progress("running", restarts=1)):
        keeper.follow(progress)
        moments.append(record.begun)
    assert moments[0] == moments[1] < moments[2] == moments[3]
    assert record.renewed == moments[0]


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(RuntimeError), keep_run(tmp_path):
        raise RuntimeError("no luck")
    assert (RunRecord.read(tmp_path).state, RunRecord.read(tmp_path).failure) == (STOPPED, "no luck")


def test_what_a_dead_process_measured_is_kept_and_its_file_is_not(tmp_path: Path) -> None:
    begin(tmp_path)
    files = [leave_process(tmp_path, 5), leave_process(tmp_path, 7, number=1)]
    mine = leave_process(tmp_path, 1, pid=1)
    assert read_totals(tmp_path).stats.attempts == {"redis": 13}
    RunKeeper(tmp_path).follow(Progress("running"))
    assert [path.exists() for path in (*files, mine)] == [False, False, True]
    assert read_totals(tmp_path).stats.attempts == {"redis": 13}
    begin(tmp_path)
    assert (mine.exists(), read_totals(tmp_path).stats.attempts) == (False, {"redis": 13})


def test_a_kill_between_the_record_and_the_removal_of_a_file_counts_nothing_twice(tmp_path: Path) -> None:
    begin(tmp_path)
    file = leave_process(tmp_path, 5)
    content = file.read_text()
    RunKeeper(tmp_path).follow(Progress("running"))
    file.write_text(content)
    assert read_totals(tmp_path).stats.attempts == {"redis": 5}
    begin(tmp_path)
    assert (file.exists(), read_totals(tmp_path).stats.attempts) == (False, {"redis": 5})


def test_a_record_that_cannot_be_written_removes_nothing_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path)
    warnings: list[tuple[object, ...]] = []
    monkeypatch.setattr(run_record, "log_event", lambda *words, **fields: warnings.append(words))
    file, keeper = leave_process(tmp_path, 5), RunKeeper(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(run_record, "replace_file", fail)
        for state in ("running", "restarting"):
            keeper.follow(Progress(state))
    assert (file.exists(), len(warnings)) == (True, 1)
    keeper.follow(Progress("running"))
    assert (file.exists(), read_totals(tmp_path).stats.attempts) == (False, {"redis": 5})


@pytest.mark.parametrize("torn", ["", "{", "[1]", '{"marks": {"s": 1}}', '{"starts": "1"}'])
def test_a_torn_record_counts_as_none_and_is_reported_once(
    tmp_path: Path, torn: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / RUN).write_text(torn)
    assert RunRecord.read(tmp_path) == RunRecord()
    assert [str(tmp_path / RUN) in each.getMessage() for each in caplog.records] == [True]
    begin(tmp_path)
    assert RunRecord.read(tmp_path).starts == 1
