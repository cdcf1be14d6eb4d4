"""The index of tasks: a lookup opens the files that have the task and no other, while files are replaced."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.failures import RunFailed
from pipelines.queries.registry import QUERIES
from pipelines.queries.run import Answer, run_query
from schemas.tables import REPORTS
from tests.builders import NOON, report
from tests.pipelines.service.test_export import add, judge, make_output
from tests.pipelines.summary.test_queries import store
from tests.service import MOST, make_service
from transforms.core.time_range import Span

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
