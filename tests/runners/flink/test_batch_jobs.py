"""A bounded run from job to job, with a stand-in for Flink: lost workers, restarts in vain, its end."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runners.flink import batch, job, job_server
from runners.flink.engine import BatchEngine, make_folders
from runners.flink.job_server import FlinkFailed, JobServer
from runners.flink.rest import BatchReport, Failure
from runners.progress import BatchProgress

LOST = (
    "org.apache.x.StatusRuntimeException: CANCELLED: call already cancelled. Use setOnCancelHandler()\n\tat x"
)
HUNG_UP = "org.apache.x.StatusRuntimeException: CANCELLED: client cancelled\n\tat x"


@dataclass
class Flink:
    """Job server, REST interface and submission in one. Each job is restarted once a report, for ever if its
    number is in `stuck`; the others are done after two reports."""

    stuck: tuple[int, ...] = ()
    trace: str = LOST
    jobs: list[int] = field(default_factory=list)
    canceled: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    restarts: int = 0
    exit_code: int | None = None
    last_line: str = ""
    text: str = ""
    url: str = "http://flink"
    has_hung_up: bool = False

    @property
    def matches(self) -> dict[str, str]:
        return {"job": "1", "rest": "2"}

    def submit(self, build: Any, options: list[str]) -> "Flink":
        self.jobs.append(len(self.jobs) + 1)
        self.restarts = 0
        return self

    def wait(self, seconds: float) -> bool:
        self.restarts += 1
        return self.is_done

    @property
    def is_over(self) -> bool:
        return self.is_done

    @property
    def is_done(self) -> bool:
        return self.jobs[-1] not in self.stuck and self.restarts > 2

    def ask_metrics(self) -> Any:
        return f"metrics of job {self.jobs[-1]}"

    def write_log(self, line: bytes) -> None:
        self.warnings.append(line.decode())

    def find_job(self, name: str) -> int:
        return self.jobs[-1]

    def ask_state(self, number: int) -> tuple[str, bool]:
        return ("CANCELED", False) if number in self.canceled else ("RUNNING", True)

    def ask_batch_report(self, number: int) -> BatchReport:
        return BatchReport([Failure(self.restarts, self.trace)], "RUNNING", 4, 1, 100)

    def cancel(self, number: int) -> None:
        self.canceled.append(number)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    monkeypatch.setattr(job, "_TICK", 0.001)
    monkeypatch.setattr(job_server, "_TICK", 0.001)

    def run_batch(flink: Flink, reported: list[BatchProgress] | None = None) -> Any:
        monkeypatch.setattr(job_server, "submit", flink.submit)
        monkeypatch.setattr(job_server, "Rest", lambda url: flink)
        pool = SimpleNamespace(find_death=lambda: "Python worker 1-1 was killed by signal 9")
        engine = BatchEngine(tmp_path)
        server = JobServer(engine, flink, pool, 50000, threading.Event())  # type: ignore[arg-type]
        follow = (reported if reported is not None else []).append
        return batch._Run(engine, server, follow).run_jobs(lambda root: None)

    with make_folders(tmp_path):
        yield run_batch


def test_a_job_that_keeps_a_lost_worker_is_replaced_by_another_one(run: Callable[..., Any]) -> None:
    flink, reported = Flink(stuck=(1,)), list[BatchProgress]()
    result = run(flink, reported)
    assert result.metrics() == "metrics of job 2"
    assert flink.jobs == [1, 2]
    assert flink.canceled == [1]
    assert "Python worker 1-1 was killed by signal 9: the graph is run again" in flink.warnings[0]
    assert [each.restarts for each in reported] == sorted(each.restarts for each in reported)


def test_after_three_jobs_that_keep_a_lost_worker_the_run_ends_with_the_cause(
    run: Callable[..., Any],
) -> None:
    flink = Flink(stuck=(1, 2, 3))
    with pytest.raises(FlinkFailed, match="in vain: Python worker 1-1 was killed by signal 9"):
        run(flink)
    assert flink.canceled == [1, 2, 3]


def test_restarts_for_another_reason_are_no_cause_for_another_job(run: Callable[..., Any]) -> None:
    flink = Flink(stuck=(1,), trace=HUNG_UP)
    with pytest.raises(FlinkFailed, match="restarts the job in vain"):
        run(flink)
    assert flink.jobs == [1]
    assert flink.restarts > 12


class Dying(Flink):
    """Hangs up, and ends some questions later, as a process does that was killed on a busy machine."""

    ends_after = 5

    @property
    def exit_code(self) -> int | None:  # type: ignore[override]
        self.asked += self.is_over
        return -9 if self.asked > self.ends_after else None

    @exit_code.setter
    def exit_code(self, value: int | None) -> None:
        self.asked = 0

    @property
    def is_over(self) -> bool:
        return self.restarts > 0

    def wait(self, seconds: float) -> bool:
        self.restarts += 1
        return True

    @property
    def is_done(self) -> bool:
        return False


def test_a_java_process_that_hangs_up_before_it_has_ended_is_the_cause(run: Callable[..., Any]) -> None:
    with pytest.raises(FlinkFailed, match="Java process was killed by signal 9"):
        run(Dying(has_hung_up=True))


def test_a_java_process_that_hangs_up_and_does_not_end_is_given_up(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_server, "_END_SECONDS", 0.01)
    monkeypatch.setattr(Dying, "ends_after", 1_000_000)
    with pytest.raises(FlinkFailed, match="the job ended: it gave no reason"):
        run(Dying(has_hung_up=True))


def test_a_job_that_recovers_from_a_lost_worker_is_the_only_one(run: Callable[..., Any]) -> None:
    flink = Flink()
    assert run(flink).metrics() == "metrics of job 1"
    assert flink.canceled == []
