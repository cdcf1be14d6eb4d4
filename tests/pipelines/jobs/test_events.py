"""The events of a job: each change of its state is one, once."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.jobs.events import EventLog
from pipelines.jobs.job_status import Health, read_health
from runners.progress import Progress
from tests.pipelines.metrics.jobs import Home


@pytest.fixture
def found(tmp_path: Path) -> Health:
    return read_health(Home(tmp_path).path)


def names(log: EventLog, progress: Progress, found: Health, now: float = 1.0) -> list[str]:
    seen = list(log.find_events(progress, found, now))
    assert all(event.fields == fields.keys() for event, fields in seen)
    return [event.name for event, _ in seen]


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
