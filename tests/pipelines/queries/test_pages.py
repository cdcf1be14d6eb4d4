"""Pages: cursors over ties, while rows arrive, and while files are replaced."""

import json
import os
import re
import shutil
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

import pyarrow.parquet as pq
import pytest

from pipelines.failures import WrongUse
from schemas.tables import REPORTS
from tests.pipelines.queries.small_output import AGENTS, START, ask, make_output, read_pages
from tests.pipelines.summary.test_queries import store
from transforms.core.time_range import Span

ASKED = {
    "agent-over-time": {"agent_id": AGENTS[0]},
    "reports-by-type": {"agent_type": "gpu"},
    "reports-by-performance": {"max_accuracy": "0.9"},
    "agent-summary": {},
    "hourly-patterns": {"min_reports": "4"},
    "anomalies": {},
    "aggregates": {"granularity": "5s"},
    "features": {"agent_id": AGENTS[0]},
    "quality": {},
    "recommendations": {"state": "all"},
    "quarantine": {"state": "all"},
}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_output(tmp_path_factory.mktemp("pages") / "out")


@pytest.mark.parametrize("name", ASKED)
def test_the_pages_of_a_query_are_its_whole_result(name: str, output: Path) -> None:
    whole = ask(output, name, **ASKED[name])
    assert whole.cursor is None
    pages = read_pages(output, name, max(1, whole.rows.num_rows // 2), **ASKED[name])
    assert pages.num_rows == whole.rows.num_rows
    for page_row, row in zip(pages.to_pylist(), whole.rows.to_pylist()):
        # A mean of floats depends on the order in which threads add them up.
        assert page_row == {
            key: pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            for key, value in row.items()
        }


@pytest.mark.parametrize("limit", [1, 2])
def test_pages_split_rows_of_one_time(limit: int, output: Path) -> None:
    span = Span(START, START + timedelta(minutes=10))
    whole = ask(output, "reports-by-type", agent_type="gpu", span=span)
    times = whole.rows["recorded_at"].to_pylist()
    assert len(set(times)) < len(times)
    pages = read_pages(output, "reports-by-type", limit, agent_type="gpu", span=span)
    assert pages.to_pylist() == whole.rows.to_pylist()


def test_a_page_of_the_past_opens_no_newer_files(output: Path) -> None:
    first = ask(output, "reports-by-type", 400, agent_type="gpu")
    second = ask(output, "reports-by-type", 400, first.cursor, agent_type="gpu")
    assert second.files < first.files / 2


def test_rows_that_arrive_between_pages_move_nothing(tmp_path: Path) -> None:
    output = make_output(tmp_path)
    whole = ask(output, "reports-by-type", agent_type="gpu").rows.to_pylist()
    first = ask(output, "reports-by-type", 50, agent_type="gpu")
    newer = {"agent_id": "new", "target_agent_type": "gpu", "accuracy": 0.5, "latency_ms": 1.0}
    later = START + timedelta(hours=40)
    store(output, REPORTS, [{"report_id": f"new {n}", "recorded_at": later, **newer} for n in range(9)])
    rest = ask(output, "reports-by-type", 10_000, first.cursor, agent_type="gpu")
    assert first.rows.to_pylist() + rest.rows.to_pylist() == whole


def test_a_cursor_belongs_to_what_was_asked(output: Path) -> None:
    cursor = ask(output, "aggregates", 1).cursor
    assert cursor
    assert re.fullmatch("[A-Za-z0-9_-]+", cursor)
    for name, options in (
        ("aggregates", {"granularity": "1m"}),
        ("aggregates", {"span": Span(START, None)}),
        ("quality", {}),
    ):
        with pytest.raises(WrongUse, match="cursor"):
            ask(output, name, 1, cursor, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("cursor", ["", "x", "é", "bnVsbA", "WzEsMiwzXQ", "W10", "A" * 5000, "W1tbW1tbW1tb"])
def test_a_text_that_is_no_cursor_is_refused(cursor: str, output: Path) -> None:
    with pytest.raises(WrongUse, match="not a cursor"):
        ask(output, "aggregates", 1, cursor)


def test_a_cursor_at_the_end_of_time_is_refused(output: Path) -> None:
    """Anybody can make one; the span of its page would end a microsecond later."""
    cursor = ask(output, "agent-over-time", 1, agent_id=AGENTS[0]).cursor
    assert cursor
    name, digest, values = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    last = (datetime.max.replace(tzinfo=UTC) - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
    values = [last if isinstance(each, int) else each for each in values]
    forged = urlsafe_b64encode(json.dumps([name, digest, values]).encode()).decode().rstrip("=")
    with pytest.raises(WrongUse, match="not a cursor"):
        ask(output, "agent-over-time", 1, forged, agent_id=AGENTS[0])


@contextmanager
def replacing(output: Path) -> Iterator[list[int]]:
    """Replace the files of half an hour of reports by renames, again and again: by files of the same rows,
    with other row groups in every second round. Yields a list whose item is the number of replacements."""
    files = list((output / REPORTS.name).glob("*/hour=21/21[012]0.parquet"))
    others = output.parent / "others"
    others.mkdir()
    for number, path in enumerate(files):
        shutil.copy(path, others / f"{number}.0")
        pq.write_table(pq.read_table(path, partitioning=None), others / f"{number}.1", row_group_size=5)
    done, count = Event(), [0]

    def replace() -> None:
        while not done.is_set():
            for number, path in enumerate(files):
                temporary = path.with_name(f".{path.name}.new")
                shutil.copy(others / f"{number}.{count[0] // len(files) % 2}", temporary)
                os.replace(temporary, path)
                count[0] += 1
                time.sleep(0.004)  # leaves the queries some time

    writer = Thread(target=replace)
    writer.start()
    try:
        yield count
    finally:
        done.set()
        writer.join()


def test_no_query_fails_while_files_are_replaced(tmp_path: Path) -> None:
    output = make_output(tmp_path / "it's replaced")
    span = Span(START + timedelta(hours=1), START + timedelta(hours=1.5))
    whole = ask(output, "agent-over-time", agent_id=AGENTS[0], span=span).rows
    tasks = ask(output, "reports-by-task", task_id="task 20").rows
    with replacing(output) as count:
        for number in range(50):
            found = ask(output, "agent-over-time", agent_id=AGENTS[0], span=span).rows
            assert found == whole
            if number % 10 == 0:
                assert ask(output, "reports-by-task", task_id="task 20").rows == tasks
        assert count[0] > 50


def test_open_descriptors_are_closed(output: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    ask(output, "agent-summary")
    assert len(os.listdir("/proc/self/fd")) == before
