"""The events of a job: their names do not change, each happens once, and a line is one JSON object."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.jobs.events import Event, EventLog, format_event
from pipelines.jobs.job_status import Health, read_health
from runners.progress import Progress
from tests.pipelines.metrics.jobs import Home

NAMES = {
    "job_starting", "job_running", "job_restarting", "job_renewed", "job_stopping", "checkpoint_left_out",
    "messages_lost", "sink_unavailable", "sink_available", "progress",
}  # fmt: skip
PAGE = (Path(__file__).parents[3] / "docs" / "monitoring.md").read_text(encoding="utf-8")


@pytest.fixture
def found(tmp_path: Path) -> Health:
    return read_health(Home(tmp_path).path)


def names(log: EventLog, progress: Progress, found: Health, now: float = 1.0) -> list[str]:
    return [event.value for event, _ in log.find_events(progress, found, now)]


def test_the_names_are_frozen_and_documented() -> None:
    assert {event.value for event in Event} == NAMES
    assert {name for name in NAMES if f"| `{name}` |" not in PAGE} == set()


def test_each_change_of_a_job_is_an_event_once(found: Health) -> None:
    log = EventLog(1000)
    running, restarted = Progress("running"), Progress("restarting", restarts=1, failure="poison")
    again = replace(restarted, state="running")
    renewed = replace(again, renewals=1)
    stopping = replace(renewed, state="stopping")
    steps = [Progress(), running, running, restarted, again, renewed, stopping]
    assert [names(log, step, found) for step in steps] == [
        ["job_starting"], ["job_running"], [], ["job_restarting"], ["job_running"], ["job_renewed"],
        ["job_stopping"],
    ]  # fmt: skip


def test_a_restart_between_two_looks_is_not_missed(found: Health) -> None:
    log = EventLog(1000)
    names(log, Progress("running"), found)
    assert names(log, Progress("running", restarts=1), found) == ["job_restarting", "job_running"]


def test_outputs_and_losses_are_events(tmp_path: Path) -> None:
    home, log = Home(tmp_path), EventLog(1000)
    names(log, Progress("running"), read_health(home.path))
    home.write_sink(waiting_seconds=3)
    away = read_health(home.path)
    assert names(log, Progress("running"), away) == ["sink_unavailable"]
    assert names(log, Progress("running"), away) == []
    home.write_sink()
    back = read_health(home.path)
    lost = replace(back, streams=tuple(replace(each, lost=5) for each in back.streams))
    assert names(log, Progress("running"), lost) == ["sink_available", "messages_lost"]


def test_progress_comes_every_so_often(found: Health) -> None:
    log = EventLog(10)
    assert [names(log, Progress(), found, now) for now in (100.0, 105.0, 111.0)] == [
        ["job_starting", "progress"], [], ["progress"],
    ]  # fmt: skip


def test_a_line_is_one_object_without_secrets() -> None:
    line = format_event(Event.SINK_UNAVAILABLE, {"error": "http://u:pw@host\n\x1b[2J"}, 1_760_000_000.5)
    assert json.loads(line) == {
        "time": "2025-10-09T08:53:20.500Z", "event": "sink_unavailable", "error": "http://u:***@host\n\x1b[2J",
    }  # fmt: skip
    assert line.isprintable()
