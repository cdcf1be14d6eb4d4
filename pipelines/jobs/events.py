"""The events of a streaming job, for logs that programs read: one JSON object a line.

Each has `time` (RFC 3339, UTC), `event`, a name of Event, and its own fields.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pipelines.console import mask_secrets
from pipelines.jobs.job_status import Health
from runners.progress import Progress


class Event(StrEnum):
    """All events. Programs match on these names: none may change."""

    JOB_STARTING = "job_starting"
    JOB_RUNNING = "job_running"
    JOB_RESTARTING = "job_restarting"
    JOB_RENEWED = "job_renewed"
    JOB_STOPPING = "job_stopping"
    CHECKPOINT_LEFT_OUT = "checkpoint_left_out"
    MESSAGES_LOST = "messages_lost"
    SINK_UNAVAILABLE = "sink_unavailable"
    SINK_AVAILABLE = "sink_available"
    PROGRESS = "progress"


_STATES = {
    "starting": Event.JOB_STARTING,
    "running": Event.JOB_RUNNING,
    "restarting": Event.JOB_RESTARTING,
    "stopping": Event.JOB_STOPPING,
}

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
            yield Event.SINK_UNAVAILABLE, {"sink": name, "error": waiting[name]}
        for name in self._waiting.keys() - waiting.keys():
            yield Event.SINK_AVAILABLE, {"sink": name}
        self._waiting = waiting
        for stream in found.streams:
            if (more := stream.lost - self._lost.get(stream.stream, 0)) > 0:
                yield Event.MESSAGES_LOST, {"source": stream.stream, "messages": more}
            self._lost[stream.stream] = stream.lost
        if now - self._shown >= self._every:
            self._shown = now
            yield (
                Event.PROGRESS,
                {
                    "read": found.read,
                    "lag": found.lag,
                    "watermark": found.watermark and found.watermark.isoformat(),
                    "checkpoints": progress.checkpoints,
                    "checkpoint_bytes": progress.checkpoint_bytes,
                },
            )


def format_event(event: Event, fields: Fields, now: float) -> str:
    """The line of an event, in ASCII, with the passwords of URLs masked."""
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    masked = {
        name: mask_secrets(value) if isinstance(value, str) else value for name, value in fields.items()
    }
    return json.dumps({"time": at, "event": event.value} | masked).replace("\x7f", "\\u007f")


def _compare(before: Progress | None, now: Progress) -> Iterator[tuple[Event, Fields]]:
    """What has happened to the job."""
    if before is not None and now.renewals > before.renewals:
        yield Event.JOB_RENEWED, {"renewals": now.renewals}
    has_restarted = before is not None and now.restarts > before.restarts
    if before is None or now.state != before.state or has_restarted:
        fields: Fields = {"restored_from": now.restored_from}
        if now.state == "restarting" or has_restarted:
            fields = {"restarts": now.restarts, "failure": now.failure}
        yield Event.JOB_RESTARTING if has_restarted else _STATES[now.state], fields
        if has_restarted and now.state == "running":
            yield Event.JOB_RUNNING, {"restored_from": now.restored_from}
    for why in now.left_out[len(before.left_out) if before else 0 :]:
        yield Event.CHECKPOINT_LEFT_OUT, {"reason": why}
