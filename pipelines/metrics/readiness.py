"""Whether a job is alive, and whether it does its work: what /healthz and /readyz answer.

A job that fails and restarts in a loop is alive, and never ready: no checkpoint completes.
"""

from collections.abc import Iterator

from pipelines.metrics.numbers import Numbers

READ_SECONDS = 30.0
"""A reader reports about once a second; longer ago than this it does not read."""
_CHECKPOINTS, _MORE_SECONDS = 3, 30.0


def find_reasons(numbers: Numbers) -> Iterator[str]:
    """Why the job is not ready, in words; nothing if it reads, makes checkpoints and its sinks take rows."""
    health, run = numbers.health, numbers.run
    if not health.running:
        yield f"the job does not run{_because(run.failure)}"
        return
    if run.state != "running":
        yield f"the job is {run.state}{_because(run.failure)}"
    reported = health.reported.timestamp() if health.reported else None
    if reported is None or numbers.at - reported > READ_SECONDS:
        yield (
            "no reader has reported since the start"
            if reported is None
            else (f"no reader has reported for {numbers.at - reported:,.0f} s")
        )
    if health.checkpoint is None or health.checkpoint.at.timestamp() < run.begun:
        yield "no checkpoint is complete since the job was started, restarted or renewed"
    elif (age := numbers.at - health.checkpoint.at.timestamp()) > longest_checkpoint_age(numbers):
        yield f"the newest checkpoint is {age:,.0f} s old"
    for sink in health.sinks:
        if sink.waiting_since:
            yield f"{sink.name} is unavailable: {sink.error}"


def longest_checkpoint_age(numbers: Numbers) -> float:
    """Seconds after which a newer checkpoint is missing."""
    return _CHECKPOINTS * numbers.run.checkpoint_seconds + _MORE_SECONDS


def _because(failure: str | None) -> str:
    return f": {failure}" if failure else ""
