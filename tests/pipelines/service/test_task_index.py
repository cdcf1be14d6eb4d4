"""The index of tasks: a lookup opens the files that have the task and no other, while files are replaced."""

import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from pipelines.failures import RunFailed
from pipelines.queries.registry import QUERIES
from pipelines.queries.run import Answer, run_query
from pipelines.service.task_index import _Group
from schemas.tables import REPORTS
from tests.builders import NOON, report
from tests.pipelines.service.test_export import add, judge, make_output
from tests.pipelines.summary.test_queries import store
from tests.service import MOST, make_service
from transforms.core.record_batches import concat
from transforms.core.time_range import Span
from transforms.sinks.parquet.maintenance_ledger import (
    NAME,
    DayPlace,
    Ledger,
    locate_day,
    now,
    put_ledger,
    read_ledger,
)
from transforms.sinks.parquet.output_files import OutputFile
from transforms.sinks.parquet.parquet_file import encode_file, read_file
from transforms.storage.local_folder import LocalFolder

TASKS = [report(number)["task_id"] for number in range(60)]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Reports of 60 tasks in 60 files, one each 10 minutes, and two of task 7."""
    documents = [report(number, NOON + timedelta(minutes=10 * number)) for number in range(60)]
    return make_output(tmp_path, [*documents, report(7, NOON + timedelta(minutes=95))])


EVER = Span()


def make_asker(output: Path) -> Callable[..., Answer]:
    service = make_service(output)
    query = QUERIES["reports-by-task"]

    def ask(task: str, span: Span = EVER) -> Answer:
        return run_query(output, query, query.parse({"task_id": task}), span, 10, MOST, means=service.means)

    return ask


def test_a_lookup_opens_only_the_files_of_its_task(output: Path) -> None:
    ask = make_asker(output)
    for number in (0, 30, 59):
        answer = ask(TASKS[number])
        assert (answer.rows["task_id"].to_pylist(), answer.files) == ([TASKS[number]], 1)
    assert (ask(TASKS[7]).rows.num_rows, ask(TASKS[7]).files) == (2, 2)
    hour = Span(NOON + timedelta(hours=1), NOON + timedelta(hours=1, minutes=25))
    assert (ask(TASKS[7], hour).rows.num_rows, ask(TASKS[7], hour).files) == (1, 2)
    assert (ask(TASKS[0], hour).files, ask("no task").files) == (0, 0)


def test_a_report_that_was_written_is_found_at_once(output: Path) -> None:
    ask = make_asker(output)
    new = report(999)["task_id"]
    assert ask(new).files == 0
    for number in range(3):
        store(output, REPORTS, judge([report(999, NOON + timedelta(hours=20 + number))]).to_pylist())
        assert ask(new).rows.num_rows == number + 1
    for path in (output / REPORTS.name).glob("date=*/hour=14"):
        for file in path.iterdir():
            file.unlink()
    assert ask(TASKS[12]).rows.num_rows == 0
    assert ask(TASKS[11]).rows.num_rows == 1


@pytest.mark.parametrize("year", [1971, 1999, 9999])
def test_a_report_of_any_year_is_found(year: int, output: Path) -> None:
    ask = make_asker(output)
    task = report(999)["task_id"]
    at = NOON.replace(year=year, month=12, day=31, hour=23)
    store(output, REPORTS, judge([report(999, at)]).to_pylist())
    assert ask(task).rows.num_rows == 1
    assert ask(task, Span(at, None)).rows.num_rows == 1


def test_a_folder_with_another_name_is_no_day_or_hour(output: Path) -> None:
    day = output / REPORTS.name / f"date={NOON.date()}"
    for folder in (day.with_name(f"{day.name}.bak"), day / "hour=12.bak"):
        folder.mkdir()
    assert make_asker(output)(TASKS[7]).files == 2


def change_ledger(output: Path, change: Callable[[Ledger], Ledger]) -> None:
    ledger, version = read_ledger(LocalFolder(output))
    put_ledger(LocalFolder(output), change(ledger), version)


def test_a_sealed_day_is_one_file_and_an_expired_one_is_none(output: Path) -> None:
    """Also while the files of its hours are still there."""
    ask = make_asker(output)
    day, sealed = NOON.date(), output / locate_day(REPORTS.name, NOON.date())
    assert ask(TASKS[7]).files == 2
    files = sorted((output / REPORTS.name / f"date={day}").rglob("*.parquet"))
    rows = concat([read_file(path) for path in files])
    sealed.write_bytes(encode_file(rows))
    assert ask(TASKS[7]).files == 2
    change_ledger(output, lambda ledger: ledger.put_day(REPORTS.name, day, DayPlace(True), now()))
    assert (ask(TASKS[7]).rows.num_rows, ask(TASKS[7]).files) == (2, 1)
    sealed.with_name("new").write_bytes(encode_file(rows.slice(0, 0)))
    sealed.with_name("new").rename(sealed)
    assert ask(TASKS[7]).files == 0
    sealed.unlink()
    with pytest.raises(RunFailed, match=f"{sealed.name} is missing"):
        ask(TASKS[7])
    (output / NAME).unlink()
    assert ask(TASKS[7]).files == 2
    change_ledger(
        output, lambda ledger: ledger.expire(REPORTS.name, day + timedelta(days=1), frozenset({day}), now())
    )
    assert ask(TASKS[7]).files == 0


def test_the_index_forgets_the_hours_of_sealed_and_expired_days(output: Path) -> None:
    service = make_service(output)
    index, query = service.index, QUERIES["reports-by-task"]
    days = [NOON.date(), NOON.date() + timedelta(days=1)]
    store(output, REPORTS, judge([report(999, NOON + timedelta(days=1))]).to_pylist())

    def look() -> tuple[int, list[str]]:
        """The files of a task, and the places of the index."""
        asked = query.parse({"task_id": TASKS[7]})
        answer = run_query(output, query, asked, EVER, 10, MOST, means=service.means)
        return answer.files, [path.partition(f"{REPORTS.name}/")[2] for path in index._groups]

    assert look()[0] == 2
    assert len(look()[1]) == 11
    sealed = output / locate_day(REPORTS.name, days[0])
    paths = sorted((output / REPORTS.name / f"date={days[0]}").rglob("*.parquet"))
    sealed.write_bytes(encode_file(concat([read_file(path) for path in paths])))
    change_ledger(output, lambda ledger: ledger.put_day(REPORTS.name, days[0], DayPlace(True), now()))
    assert look()[0] == 1
    assert sorted(look()[1]) == [f"date={days[0]}/day.parquet", f"date={days[1]}/hour=12"]
    change_ledger(output, lambda ledger: ledger.expire(REPORTS.name, days[1], frozenset({days[0]}), now()))
    assert look() == (0, [f"date={days[1]}/hour=12"])
    assert list(index._hours) == days[1:]


def test_a_task_of_the_largest_hash_is_found(tmp_path: Path) -> None:
    largest = np.uint64(0xFFFFFFFF) << np.uint64(32)
    keys = np.array([1, 5, largest - np.uint64(1), largest, largest | np.uint64(1)], np.uint64)
    files = tuple(OutputFile(name, LocalFolder(tmp_path)) for name in "ab")
    bounds = np.array([largest, np.uint64(0xFFFFFFFFFFFFFFFF)])
    assert _Group(0, files, {}, keys).find(bounds) == list(files)


def test_a_lookup_in_which_nothing_changed_reads_no_folder(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = make_asker(output)
    for folder in (output / REPORTS.name).rglob("*"):
        if folder.is_dir():
            os.utime(folder, (1, 1))
    os.utime(output / REPORTS.name, (1, 1))
    ask(TASKS[0])
    monkeypatch.delattr(os, "listdir")
    monkeypatch.delattr(os, "scandir")
    assert ask(TASKS[7]).rows.num_rows == 2


def test_a_damaged_file_is_named(output: Path) -> None:
    ask = make_asker(output)
    path = next((output / REPORTS.name).rglob("*.parquet"))
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(RunFailed, match=path.name):
        ask(TASKS[0])


def test_no_lookup_fails_or_misses_a_row_while_files_are_replaced(tmp_path: Path) -> None:
    output = make_output(tmp_path, [report(0)])
    ask, ended = make_asker(output), threading.Event()

    def replace_files() -> None:
        for number in range(1, 60):
            add(output, [report(number, NOON + timedelta(seconds=number))])
        ended.set()

    writer = threading.Thread(target=replace_files)
    writer.start()
    seen = 0
    while not ended.is_set() or seen < 59:
        was_ended = ended.is_set()
        assert ask(TASKS[0]).rows.num_rows == 1
        while seen < 59 and ask(TASKS[seen + 1]).rows.num_rows == 1:
            seen += 1
        assert seen == 59 or not was_ended
    writer.join()
    assert all(ask(task).files == 1 for task in TASKS)
