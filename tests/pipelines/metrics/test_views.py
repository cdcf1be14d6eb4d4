"""`status` and `top` show the numbers of the metrics."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.cli import run
from pipelines.commands.top import make_view
from pipelines.console import SafeConsole
from pipelines.jobs.job_description import FOLDER, JOB
from pipelines.jobs.job_status import OUTCOMES
from pipelines.metrics.numbers import SourceWatch, read_numbers
from pipelines.metrics.rejected import read_rejected
from schemas.tables import QUARANTINED
from tests.pipelines.metrics.jobs import KEY, Home, Source
from transforms.sinks.parquet.file_merge import write_rows
from transforms.storage.local_folder import LocalFolder


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.stop()


def reject(home: Home, at: float, ids: range) -> None:
    """Put messages into quarantine, a second apart."""
    base = dict.fromkeys(QUARANTINED.schema.names) | {"source": KEY, "payload": b"{", "revision": 1}
    rows = [
        base
        | {"message_id": str(each), "received_at": int((at + each) * 1e6)}
        | {"reason": "json", "message": "a \x1b[2J brace"}
        for each in ids
    ]
    batch = pa.RecordBatch.from_pylist(rows, QUARANTINED.schema)
    write_rows(QUARANTINED, LocalFolder(home.path), [batch], 60)


def test_status_reads_the_numbers_of_the_metrics(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", str(home.path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["ready"], said["reasons"], said["run"]["starts"]) == (True, [], 1)
    assert said["totals"]["read"] == {KEY: 80}
    assert {"outcome": "quarantined", "reason": "schema", "messages": 6} in said["totals"]["outcomes"]
    assert "localhost:1" in said["unreachable"]
    home.write_sink(waiting_seconds=40)
    assert run(["status", str(home.path)]) == 0
    shown = capsys.readouterr().out
    assert "79 messages, 9 of them rejected, 5 expired, 20 lost unread" in shown
    assert "the disk is gone" in shown
    shutil.rmtree(home.folder / OUTCOMES)
    assert run(["status", str(home.path)]) == 0
    assert "not available: the main output keeps no files" in capsys.readouterr().out


@pytest.mark.parametrize(
    "torn", ["", '{"source": "redis', "[]", "{}", '{"depends": null}', '{"depends": {}}']
)
@pytest.mark.parametrize("command", ["status", "metrics", "top"])
def test_a_torn_description_of_the_job_is_named_with_what_to_do(
    home: Home, torn: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.path / FOLDER / JOB).write_text(torn)
    assert run([command, str(home.path)]) == 3
    error = capsys.readouterr().err
    assert "job.json is damaged" in error
    assert "--fresh" in error
    assert "Traceback" not in error


def test_top_shows_rates_quality_and_the_newest_rejected_messages(home: Home) -> None:
    watch = SourceWatch(Source())
    watch.ask()
    before = read_numbers(home.path, watch)
    home.place_reader(100, 120)
    home.write_quality(minutes_ago=1, received=100, incomplete=10)
    after = read_numbers(home.path, watch)
    reject(home, after.at // 3600 * 3600 + 60, range(8))
    console = SafeConsole(width=200, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(make_view([before, after]))
    text = captured.get()
    for part in ("running, ready", "100 messages", "79 messages, 9 of them rejected", "99 % take longer",
                 "completeness 90.00%, below 98.0%", "a \\x1b[2J brace"):  # fmt: skip
        assert part in text
    assert "\x1b[2J" not in text


def test_the_newest_rejected_messages_come_first(home: Home) -> None:
    start = 1_760_000_400.0
    reject(home, start, range(8))
    assert [each.message_id for each in read_rejected([str(home.path)], start, 3)] == ["7", "6", "5"]
    assert read_rejected([str(home.path)], start + 7200, 3) == []


def test_top_ends_by_itself_if_asked_to(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["top", str(home.path), "--once"]) == 0
    assert "running, ready" in capsys.readouterr().out
