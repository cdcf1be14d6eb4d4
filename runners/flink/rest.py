"""What Flink's REST interface says of a job, in the words of a progress line."""

import json
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

_SECONDS = 5.0
_GIVEN_UP = "Coordinator is suspending"
"""Why a checkpoint failed that was on its way when its job did."""
_PYTHON_ERROR = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(?P<error>\S.*)")
_CAUSE = re.compile(r"^(?:Caused by: )?((?:[\w$]+\.)+[\w$]*(?:Exception|Error|Failure)\b.*)$", re.MULTILINE)


class Unreachable(Exception):  # noqa: N818 (a state, not yet an error)
    """Nothing answers there, or not with what was asked for."""


@dataclass(frozen=True)
class Checkpoints:
    """What a job says of its checkpoints."""

    completed: int = 0
    bytes: int = 0
    at: float | None = None
    """When the newest was complete, in seconds since 1970."""
    seconds: float = 0.0
    """How long the newest took."""
    restored_from: str | None = None
    failure: str | None = None
    """Why the newest attempt failed, if it is newer than the newest complete one."""


class Rest:
    """A job manager, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        """The JSON that a path answers.

        Raises:
            Unreachable: it does not answer, or with an error.
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

    def state(self, job: str) -> tuple[str, bool]:
        """The job's state as Flink calls it, and whether all of its tasks run."""
        told = self.ask(f"/jobs/{job}")
        done = all(vertex["status"] in ("RUNNING", "FINISHED") for vertex in told["vertices"])
        return told["state"], done and told["state"] == "RUNNING"

    def restarts(self, job: str) -> int:
        """How often Flink has started the job again by itself."""
        told = self.ask(f"/jobs/{job}/metrics?get=numRestarts")
        return int(told[0]["value"]) if told else 0

    def checkpoints(self, job: str) -> Checkpoints:
        """The job's checkpoints, as far as this job manager knows."""
        told = self.ask(f"/jobs/{job}/checkpoints")
        latest = told["latest"]
        done, failed, restored = latest.get("completed"), latest.get("failed"), latest.get("restored")
        reason = (failed.get("failure_message") or "no reason given") if failed else ""
        newer = failed is not None and (done is None or failed["id"] > done["id"])
        failure = f"a checkpoint failed: {reason}" if newer and _GIVEN_UP not in reason else None
        return Checkpoints(
            told["counts"]["completed"],
            done["state_size"] if done else 0,
            done["latest_ack_timestamp"] / 1000 if done else None,
            done["end_to_end_duration"] / 1000 if done else 0.0,
            restored["external_path"].removeprefix("file:") if restored else None,
            failure,
        )

    def trace(self, job: str) -> str | None:
        """Java's stack trace of the job's last failure; None if it never failed."""
        entries = (
            self.ask(f"/jobs/{job}/exceptions?maxExceptions=1").get("exceptionHistory", {}).get("entries", [])
        )
        return entries[0]["stacktrace"] if entries else None

    def make_checkpoint(self, job: str, patience: float) -> bool:
        """Make a checkpoint and wait for it; whether it is complete."""
        asked = self.ask(f"/jobs/{job}/checkpoints", {"checkpointType": "FULL"})["request-id"]
        end = time.monotonic() + patience
        while time.monotonic() < end:
            told = self.ask(f"/jobs/{job}/checkpoints/{asked}")
            if told["status"]["id"] == "COMPLETED":
                return "failureCause" not in told.get("operation", {})
            time.sleep(0.05)
        return False

    def cancel(self, job: str) -> None:
        """End the job; its checkpoints stay."""
        self.ask(f"/jobs/{job}?mode=cancel", method="PATCH")


def find_root_cause(trace: str) -> str:
    """The line of a Java stack trace that says why: that of the Python error in it, else its innermost cause."""
    if python := _PYTHON_ERROR.findall(trace):
        return str(python[-1]).strip()
    causes = _CAUSE.findall(trace)
    return str(causes[-1]).strip() if causes else (trace.strip().splitlines() or ["no reason given"])[0]
