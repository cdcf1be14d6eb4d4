"""A run from job to job, with a stand-in for Flink: renewals, seals, unusable checkpoints, ends."""

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runners.flink import job, job_server, launch
from runners.flink.checkpoints import choose_checkpoints, list_complete_checkpoints
from runners.flink.engine import StreamEngine, make_folders
from runners.flink.job_server import FlinkFailed, JobServer
from runners.flink.rest import Checkpoints, Failure, JobReport
from runners.flink.restore import CheckpointRefused
from runners.progress import Progress

UNREADABLE = "java.lang.Exception: x\nCaused by: java.io.IOException: Could not restore keyed state backend"


@dataclass
class Flink:
    """Job server, REST interface and submission in one; each job is named job-<n> by it."""

    folder: Path
    jobs: list[str] = field(default_factory=list)
    restored: list[str | None] = field(default_factory=list)
    trace: str | None = None
    restarts: int = 0
    is_over: bool = False
    text: str = ""
    canceled: list[str] = field(default_factory=list)
    url: str = "http://flink"
    exit_code: int | None = None
    last_line: str = "the last line"

    def __post_init__(self) -> None:
        self.numbers = itertools.count(1)

    has_hung_up: bool = False

    @property
    def cause(self) -> str:
        return self.text

    @property
    def matches(self) -> dict[str, str]:
        return {"job": "1", "rest": "2"}  # the ports that the job server has written to its log

    def submit(self, build: Any, options: list[str]) -> "Flink":
        configuration = (self.folder / "conf" / "flink-conf.yaml").read_text()
        restored = [
            line for line in configuration.splitlines() if line.startswith("execution.savepoint.path")
        ]
        self.restored.append(Path(restored[0].partition(": file://")[2]).name if restored else None)
        self.jobs.append(f"job-{len(self.jobs)}")
        return self

    def write_log(self, line: bytes) -> None:
        pass

    def find_job(self, name: str) -> str:
        return self.jobs[-1]

    def ask_state(self, name: str) -> tuple[str, bool]:
        return ("CANCELED", False) if name in self.canceled else ("RUNNING", True)

    def ask_report(self, name: str) -> JobReport:
        completed = len(list((self.folder / "checkpoints").glob(f"{name}/chk-*/")))
        failures = [Failure(number + 1, self.trace or "") for number in reversed(range(self.restarts))]
        return JobReport(failures, not self.restarts, Checkpoints(completed))

    def make_checkpoint(self, name: str, patience: float = 0.0) -> bool:
        path = self.folder / "checkpoints" / name / f"chk-{next(self.numbers)}"
        path.mkdir(parents=True)
        (path / "_metadata").write_text(name)
        return True

    def cancel(self, name: str) -> None:
        self.canceled.append(name)


@pytest.fixture
def flink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flink]:
    flink = Flink(tmp_path)
    monkeypatch.setattr(job_server, "submit", flink.submit)
    monkeypatch.setattr(job_server, "Rest", lambda url: flink)
    monkeypatch.setattr(launch, "REPORT_SECONDS", 0.001)
    monkeypatch.setattr(job, "_TICK", 0.001)
    with make_folders(tmp_path):
        yield flink


def run(flink: Flink, renewals: int = 0, renew_seconds: float = 0.0, reports: int = 1000) -> list[Progress]:
    """Run until the job after so many renewals runs, or for so many reports; what was reported."""
    interrupted, reported = threading.Event(), list[Progress]()

    def follow(progress: Progress) -> None:
        reported.append(progress)
        renewed = renewals and progress.renewals >= renewals and progress.state == "running"
        if renewed or len(reported) >= reports:
            interrupted.set()

    engine = StreamEngine(flink.folder, renew_seconds=renew_seconds)
    pool = SimpleNamespace(find_death=lambda: None)
    server = JobServer(engine, flink, pool, 50000, interrupted)  # type: ignore[arg-type]
    try:
        launch._Run(engine, server, follow).run_jobs(lambda root: None)
    except KeyboardInterrupt:
        return reported
    raise AssertionError("it ended by itself")


def test_a_renewal_stops_the_job_with_a_checkpoint_that_the_next_job_goes_on_from(flink: Flink) -> None:
    reported = run(flink, renewals=2)
    assert flink.restored[:3] == [None, "chk-1", "chk-2"]
    assert flink.canceled[:2] == ["job-0", "job-1"]
    assert {progress.renewals for progress in reported} >= {0, 1, 2}
    assert reported[-1].state == "stopping"


def test_each_job_leaves_a_sealed_checkpoint_and_the_job_before_is_removed(flink: Flink) -> None:
    run(flink, renewals=1)
    (newest,) = list_complete_checkpoints(flink.folder)
    assert newest.parent.name == "job-1"
    assert choose_checkpoints(flink.folder).is_sealed


def test_an_unreadable_checkpoint_is_left_out_for_the_one_before(
    flink: Flink, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "older"):
        flink.make_checkpoint(name)
    submit = flink.submit

    def fail_first(build: Any, options: list[str]) -> Flink:
        submit(build, options)
        flink.trace, flink.restarts = (UNREADABLE, 2) if len(flink.jobs) == 1 else (None, 0)
        return flink

    monkeypatch.setattr(job_server, "submit", fail_first)
    reported = run(flink, renewals=0, renew_seconds=1000, reports=8)
    assert flink.restored == ["chk-2", "chk-1"]
    assert (
        "chk-2 cannot be read: java.io.IOException: Could not restore keyed state" in reported[-1].left_out[0]
    )


def test_where_every_checkpoint_is_unreadable_the_fix_is_named(flink: Flink) -> None:
    flink.make_checkpoint("old")
    flink.trace, flink.restarts = UNREADABLE, 2
    with pytest.raises(CheckpointRefused, match=r"no checkpoint can be read.*Start with --fresh"):
        run(flink)


def test_a_sealed_checkpoint_that_flink_refuses_is_of_another_graph(flink: Flink) -> None:
    run(flink, renewals=1)
    flink.is_over, flink.text = True, "JobInitializationException: Cannot map checkpoint/savepoint state"
    with pytest.raises(CheckpointRefused, match="The graph is another one now"):
        run(flink)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"is_over": True, "text": "out of slots"}, "the job ended: out of slots"),
        ({"exit_code": -9}, "Java process was killed by signal 9: the last line"),
        ({"exit_code": 1}, "Java process ended with exit code 1"),
    ],
)
def test_an_end_of_the_job_or_of_java_names_its_cause(
    flink: Flink, change: dict[str, Any], cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(build: Any, options: list[str]) -> Flink:
        vars(flink).update(change)
        return flink

    monkeypatch.setattr(job_server, "submit", submit)
    with pytest.raises(FlinkFailed, match=cause):
        run(flink)


def test_an_interrupted_run_leaves_a_last_checkpoint(flink: Flink) -> None:
    reported = run(flink, renew_seconds=1000, reports=5)
    assert [path.name for path in list_complete_checkpoints(flink.folder)] == ["chk-1"]
    assert choose_checkpoints(flink.folder).is_sealed
    assert reported[-1].state == "stopping"


def test_a_checkpoint_that_cannot_be_synced_is_reported_and_not_sealed(
    flink: Flink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError("Input/output error")

    monkeypatch.setattr(job, "seal", fail)
    flink.jobs.append("job-0")
    flink.make_checkpoint("job-1")
    reported = run(flink, renew_seconds=1000, reports=6)
    assert "cannot be synced to disk: Input/output error" in (reported[-2].failure or "")
    assert not choose_checkpoints(flink.folder).is_sealed
