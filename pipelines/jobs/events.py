"""The events of a streaming job, found by how its state changes (`transforms.core.events` lists all)."""

from collections.abc import Iterator
from typing import Any

from pipelines.jobs.job_status import Health
from runners.progress import Progress
from transforms.core.events import (
    CHECKPOINT_LEFT_OUT,
    JOB_RENEWED,
    JOB_RESTARTING,
    JOB_RUNNING,
    JOB_STARTING,
    JOB_STOPPING,
    MESSAGES_LOST,
    PROGRESS,
    SINK_AVAILABLE,
    SINK_UNAVAILABLE,
    Event,
)

_STATES = {"starting": JOB_STARTING, "running": JOB_RUNNING, "stopping": JOB_STOPPING}

Fields = dict[str, Any]


class EventLog:
    """What has happened since the job was looked at before."""

    def __init__(self, progress_seconds: float) -> None:
        self._every, self._shown = progress_seconds, 0.0
        self._progress: Progress | None = None
        self._waiting: dict[str, str] = {}
        self._lost: dict[str, int] = {}

    def find_events(self, progress: Progress, found: Health, now: float) -> Iterator[tuple[Event, Fields]]:
        """The events that lead to what is seen now, at `now` seconds since 1970."""
        before, self._progress = self._progress, progress
        yield from _compare(before, progress)
        waiting = {sink.name: sink.error or "" for sink in found.sinks if sink.waiting_since}
        for name in waiting.keys() - self._waiting.keys():
            yield SINK_UNAVAILABLE, {"sink": name, "error": waiting[name]}
        for name in self._waiting.keys() - waiting.keys():
            yield SINK_AVAILABLE, {"sink": name}
        self._waiting = waiting
        for stream in found.streams:
            if (more := stream.lost - self._lost.get(stream.stream, 0)) > 0:
                yield MESSAGES_LOST, {"source": stream.stream, "messages": more}
            self._lost[stream.stream] = stream.lost
        if now - self._shown >= self._every:
            self._shown = now
            yield (
                PROGRESS,
                {
                    "read": found.read,
                    "lag": found.lag,
                    "watermark": found.watermark and found.watermark.isoformat(),
                    "checkpoints": progress.checkpoints,
                    "checkpoint_bytes": progress.checkpoint_bytes,
                },
            )


def _compare(before: Progress | None, now: Progress) -> Iterator[tuple[Event, Fields]]:
    """What has happened to the job."""
    if before is not None and now.renewals > before.renewals:
        yield JOB_RENEWED, {"renewals": now.renewals}
    has_restarted = before is not None and now.restarts > before.restarts
    if before is None or now.state != before.state or has_restarted:
        if now.state == "restarting" or has_restarted:
            yield JOB_RESTARTING, {"restarts": now.restarts, "failure": now.failure}
        if now.state in _STATES and (now.state == "running" or not has_restarted):
            yield _STATES[now.state], {"restored_from": now.restored_from}
    for why in now.left_out[len(before.left_out) if before else 0 :]:
        yield CHECKPOINT_LEFT_OUT, {"reason": why}
