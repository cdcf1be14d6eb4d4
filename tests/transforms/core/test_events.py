"""The events of logs: names and fields do not change, the documentation has them, and a line is one JSON
object without secrets."""

import io
import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from transforms.core import events
from transforms.core.events import EVENTS, PROGRESS, SINK_UNAVAILABLE, format_output, log_as_json, log_event

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
HEAD = {"time", "level", "event", "pid"}


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def documented() -> dict[str, tuple[str, set[str]]]:
    """Level and fields of each event of the page."""
    row = re.compile(r"^\| `(\w+)` \| (info|warning|error) \| ([^|]*) \|", re.MULTILINE)
    return {name: (level, set(re.findall(r"`(\w+)`", fields))) for name, level, fields in row.findall(PAGE)}


def test_the_documentation_has_each_event_with_its_level_and_fields() -> None:
    known = {
        name: (logging.getLevelName(event.level).lower(), set(event.fields)) for name, event in EVENTS.items()
    }
    assert documented() == known


def test_no_code_logs_text_of_its_own() -> None:
    loggers = [
        path.relative_to(ROOT).as_posix()
        for room in ("schemas", "transforms", "pipelines")
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"\b_?log(ger)?\.(debug|info|warning|error|exception)\(", path.read_text("utf-8"))
    ]
    assert loggers == []


def test_an_event_has_exactly_its_fields() -> None:
    with pytest.raises(TypeError, match="sink_unavailable has the fields"):
        SINK_UNAVAILABLE.format({"sink": "out"})


def test_a_line_is_one_object_without_secrets(log: io.StringIO) -> None:
    with log_as_json(log):
        log_event(SINK_UNAVAILABLE, sink="s3://k:pw@host", error="http://u:pw@host\n\x1b[2J?token=secret")
    (found,) = lines(log)
    assert log.getvalue().strip().isprintable()
    assert found.keys() > HEAD
    assert (found["event"], found["level"]) == ("sink_unavailable", "warning")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])
    assert (found["sink"], found["error"]) == ("s3://k:***@host", "http://u:***@host\n\x1b[2J?token=***")


def test_what_others_log_and_print_is_an_event_too(log: io.StringIO) -> None:
    with log_as_json(log):
        print("a line of\ntext", file=sys.stderr)
        try:
            raise ValueError("redis://u:pw@host")
        except ValueError:
            logging.getLogger("other").exception("it failed")
    notice, other = lines(log)
    assert (notice["event"], notice["message"]) == ("notice", "a line of\ntext")
    assert (other["event"], other["level"], other["logger"]) == ("log", "error", "other")
    assert "ValueError: redis://u:***@host" in other["message"]


def test_afterwards_everything_is_as_before(log: io.StringIO) -> None:
    before = sys.stderr, logging.getLogger().handlers[:]
    with log_as_json(log), warnings.catch_warnings():
        assert events.is_json()
    assert (sys.stderr, logging.getLogger().handlers, events.is_json()) == (*before, False)


def test_output_of_processes_is_events_and_their_warnings_are_in_this_log_too(log: io.StringIO) -> None:
    worker = io.StringIO()
    with log_as_json(worker):
        log_event(SINK_UNAVAILABLE, sink="out", error="it is gone")
        log_event(events.GROUP_MADE, group="g", source="s", position="0-0")
    with log_as_json(log):
        written = [format_output("1-1", line) for line in worker.getvalue().encode().splitlines(True)]
        plain = json.loads(format_output("flink", b"INFO http://u:pw@host\n"))
        assert format_output("flink", b"\n") == b""
    assert "".join(line.decode() for line in written) == worker.getvalue()
    assert [each["event"] for each in lines(log)] == ["sink_unavailable"]
    assert (plain["event"], plain["process"]) == ("output", "flink")
    assert plain["message"] == "INFO http://u:***@host"


def test_a_command_begins_ends_and_fails_with_events(tmp_path: Path) -> None:
    def say(*words: str) -> tuple[int, list[dict[str, Any]]]:
        command = [sys.executable, "-m", "pipelines.cli", *words, "--log-format", "json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]

    code, said = say("generate", "--reports", "20", "--output", str(tmp_path / "a"))
    assert (code, [each["event"] for each in said]) == (0, ["command_started", "result", "command_ended"])
    words = ["--input", str(tmp_path / "none"), "--output", "bigquery://u:pw@p/d"]
    code, said = say("backfill", *words)
    assert (code, said[-1]["event"], said[-1]["exit_code"], said[-1]["level"]) == (
        2, "command_failed", 2, "error",
    )  # fmt: skip
    code, said = say("backfill", "--no-such-option")
    assert (code, said[-1]["event"], said[-1]["exit_code"]) == (2, "command_ended", 2)
    assert any("no-such-option" in each.get("message", "") for each in said)


def test_progress_has_text_where_nothing_is_known() -> None:
    known = dict.fromkeys(PROGRESS.fields) | {"read": 1000, "checkpoint_bytes": 0}
    assert PROGRESS.format(known).startswith("read 1,000, lag None")
    assert "unknown checkpoints" in PROGRESS.format(known)
