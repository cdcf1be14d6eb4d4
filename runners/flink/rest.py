"""Flink's REST interface: how a job does, its checkpoints, and the cause of a failure in one line."""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

_SECONDS = 5.0
_FAILURES = 8
"""How many failures of a job are asked for: more than one between two reports is rare. Flink keeps 16."""
_GIVEN_UP = "Coordinator is suspending"
"""Flink's reason for a checkpoint that failed because its job did."""
_LOST_WORKER = "call already cancelled"
_PYTHON_ERROR = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(?P<error>\S.*)")
_CAUSE = re.compile(r"^(?:Caused by: )?((?:[\w$]+\.)+[\w$]*(?:Exception|Error|Failure)\b.*)$", re.MULTILINE)


class Unreachable(Exception):  # noqa: N818 (a state, not yet an error)
    """Flink does not answer, or with an error."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a job, as far as this job manager knows."""

    completed: int = 0
    bytes: int = 0
    at: float | None = None
    """Completion time of the newest, in seconds since 1970."""
    seconds: float = 0.0
    """Duration of the newest."""
    failure: str | None = None
    """Why the newest attempt failed, if it is newer than the newest complete one."""


class Failure(NamedTuple):
    """A failure after which Flink restarted a job or a part of it: when, in ms since 1970, and Java's stack
    trace."""

    at: int
    trace: str


@dataclass(frozen=True)
class Report:
    """How a job does; the newest of its last failures comes first."""

    failures: Sequence[Failure]

    @property
    def trace(self) -> str | None:
        """Java's stack trace of the last failure; None if it never failed."""
        return self.failures[0].trace if self.failures else None


@dataclass(frozen=True)
class JobReport(Report):
    """How a stream does."""

    is_running: bool
    checkpoints: Checkpoints


@dataclass(frozen=True)
class BatchReport(Report):
    """How a batch does: its `state` in Flink's words, `steps` are Flink's tasks, and `bytes` what they have
    written for others."""

    state: str
    steps: int
    steps_done: int
    bytes: int


class Rest:
    """The REST interface of a job manager."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        """The JSON reply of a path.

        Raises:
            Unreachable: there is no reply, or an error.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as reply:
                return json.loads(reply.read() or b"{}")
        except (OSError, ValueError, urllib.error.HTTPError) as error:
            raise Unreachable(f"{self.url}{path}: {error}") from error

    def find_job(self, name: str) -> str | None:
        """The id of the newest job of that name."""
        jobs = [job for job in self.ask("/jobs/overview")["jobs"] if job["name"] == name]
        return max(jobs, key=lambda job: job["start-time"])["jid"] if jobs else None

    def ask_report(self, job: str) -> JobReport:
        """How the job does."""
        state = self.ask_state(job)[1]
        return JobReport(self.ask_failures(job), state, self.ask_checkpoints(job))

    def ask_batch_report(self, job: str) -> BatchReport:
        """How the batch job does."""
        reply = self.ask(f"/jobs/{job}")
        steps = reply["vertices"]
        done = sum(step["status"] == "FINISHED" for step in steps)
        written = sum(step["metrics"]["write-bytes"] for step in steps)
        return BatchReport(self.ask_failures(job), reply["state"], len(steps), done, written)

    def ask_state(self, job: str) -> tuple[str, bool]:
        """The job's state in Flink's words, and whether all of its tasks run."""
        reply = self.ask(f"/jobs/{job}")
        done = all(vertex["status"] in ("RUNNING", "FINISHED") for vertex in reply["vertices"])
        return reply["state"], done and reply["state"] == "RUNNING"

    def ask_checkpoints(self, job: str) -> Checkpoints:
        """The job's checkpoints."""
        reply = self.ask(f"/jobs/{job}/checkpoints")
        latest = reply["latest"]
        done, failed = latest.get("completed"), latest.get("failed")
        reason = (failed.get("failure_message") or "no reason given") if failed else ""
        newer = failed is not None and (done is None or failed["id"] > done["id"])
        failure = f"a checkpoint failed: {reason}" if newer and _GIVEN_UP not in reason else None
        return Checkpoints(
            reply["counts"]["completed"],
            done["state_size"] if done else 0,
            done["latest_ack_timestamp"] / 1000 if done else None,
            done["end_to_end_duration"] / 1000 if done else 0.0,
            failure,
        )

    def ask_failures(self, job: str) -> list[Failure]:
        """The last failures of the job, the newest first."""
        reply = self.ask(f"/jobs/{job}/exceptions?maxExceptions={_FAILURES}")
        entries = reply.get("exceptionHistory", {}).get("entries", [])
        return [Failure(entry["timestamp"], entry["stacktrace"]) for entry in entries]

    def make_checkpoint(self, job: str, patience: float) -> bool:
        """Make a checkpoint and wait for it; whether it is complete."""
        asked = self.ask(f"/jobs/{job}/checkpoints", {"checkpointType": "FULL"})["request-id"]
        end = time.monotonic() + patience
        while time.monotonic() < end:
            reply = self.ask(f"/jobs/{job}/checkpoints/{asked}")
            if reply["status"]["id"] == "COMPLETED":
                return "failureCause" not in reply.get("operation", {})
            time.sleep(0.05)
        return False

    def cancel(self, job: str) -> None:
        """End the job; its checkpoints stay."""
        self.ask(f"/jobs/{job}?mode=cancel", method="PATCH")


def is_python_error(trace: str) -> bool:
    """Whether a step raised an error, and not only lost its process."""
    return _PYTHON_ERROR.search(trace) is not None


def is_lost_worker(trace: str) -> bool:
    """Whether a task was given a worker whose connection had ended before."""
    return _LOST_WORKER in trace


def find_root_cause(trace: str) -> str:
    """The cause in a Java stack trace, in one line: the Python error in it, else the innermost cause."""
    if python := _PYTHON_ERROR.findall(trace):
        return str(python[-1]).strip()
    causes = _CAUSE.findall(trace)
    return str(causes[-1]).strip() if causes else (trace.strip().splitlines() or ["no reason given"])[0]
