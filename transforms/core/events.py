"""All events of kpiflow's logs: what programs match on, so no name and no field may change.

`log_event` writes one. Where the log is text, it is the event's text; where it is JSON (`log_as_json`), each
line is an object with `time` (RFC 3339, UTC), `level`, `event`, `pid` and the event's own fields.
"""

import json
import logging
import os
import re
import string
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any, TextIO

from transforms.core.counts import format_count, pluralize
from transforms.core.secrets import mask_values

EVENTS: dict[str, "Event"] = {}
"""All events by name."""
_log = logging.getLogger(__name__)
_is_json = False


class _Texts(string.Formatter):
    """Formats texts in which a noun in the braces stands for a count with its noun: `{rows:row}`."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if len(format_spec) > 1 and format_spec.isalpha():
            return f"unknown {pluralize(format_spec)}" if value is None else format_count(value, format_spec)
        return str(value) if value is None else str(super().format_field(value, format_spec))


class Event:
    """A kind of event. The braces of its text name its fields; `{rows:row}` is a count with its noun."""

    def __init__(self, name: str, text: str, level: int = logging.INFO) -> None:
        self.name, self.text, self.level = name, text, level
        self.fields = frozenset(re.findall(r"\{(\w+)", text))
        EVENTS[name] = self

    def format(self, fields: dict[str, Any]) -> str:
        """The event as text.

        Raises:
            TypeError: the fields are not those of the event.
        """
        if fields.keys() != self.fields:
            raise TypeError(f"{self.name} has the fields {sorted(self.fields)}, not {sorted(fields)}")
        return _Texts().format(self.text, **fields)


# Every command.
COMMAND_STARTED = Event("command_started", "kpiflow {version} {command}")
COMMAND_ENDED = Event("command_ended", "{command} ended with {exit_code} after {seconds:.1f} s")
COMMAND_FAILED = Event(
    "command_failed", "{command} ended with {exit_code} after {seconds:.1f} s: {error}; {fix}", logging.ERROR
)
NOTICE = Event("notice", "{message}")
RESULT = Event("result", "{message}")
LOG = Event("log", "{logger}: {message}", logging.WARNING)
OUTPUT = Event("output", "{process}: {message}")

# A stream.
JOB_STARTING = Event("job_starting", "the job starts from {restored_from}")
JOB_RUNNING = Event("job_running", "the job runs, from {restored_from}")
JOB_RESTARTING = Event(
    "job_restarting", "the job restarts ({restarts:restart} so far): {failure}", logging.WARNING
)
JOB_RENEWED = Event("job_renewed", "the job is renewed ({renewals:renewal} so far)")
JOB_STOPPING = Event("job_stopping", "the job stops, from {restored_from}")
CHECKPOINT_LEFT_OUT = Event("checkpoint_left_out", "{reason}", logging.WARNING)
MESSAGES_LOST = Event("messages_lost", "lost unread from {source}: {messages:message}", logging.ERROR)
SINK_UNAVAILABLE = Event("sink_unavailable", "{sink} is unavailable: {error}", logging.WARNING)
SINK_AVAILABLE = Event("sink_available", "{sink} is available again")
PROGRESS = Event(
    "progress",
    "read {read:,}, lag {lag}, watermark {watermark}, {checkpoints:checkpoint}, {checkpoint_bytes:,} bytes",
)
SERVING = Event("serving", "{output} is served on {address}")
REQUEST_FAILED = Event("request_failed", "a request of {path} failed: {error}", logging.ERROR)
CONNECTION_FAILED = Event("connection_failed", "a connection failed: {error}", logging.ERROR)
CLIENT_DROPPED = Event("client_dropped", "the socket of {subject} was closed: {reason}", logging.WARNING)
MAINTAINED = Event("maintained", "{action}: {folder} {day} {tier}")
METRICS_SERVED = Event("metrics_served", "metrics of {home} on {host}:{port}")

# Workers of a stream: its readers and writers.
ENTRIES_LOST = Event(
    "entries_lost",
    "entries of {source} between {after} and {until} were lost before they were read: {entries} ({reason})",
    logging.WARNING,
)
MESSAGES_EXPIRED = Event(
    "messages_expired",
    "{messages:message} for {table} not written: rows of that time have expired since the job began",
    logging.WARNING,
)
GROUP_MADE = Event("group_made", "made the group {group} of the stream {source} at {position}")
READ_AGAIN = Event(
    "read_again", "{source} is read again after {position}: the archive may lack what comes after that"
)
ARCHIVE_INCOMPLETE = Event(
    "archive_incomplete",
    "the archive may lack up to {entries:entry} of {source} after {position}, although the tables do not: "
    "they left the stream before they could be read again",
    logging.WARNING,
)
STREAM_WENT_BACK = Event(
    "stream_went_back",
    "the stream {source} went back to an older state, before {before}: it is read again from {position}",
    logging.WARNING,
)
SOURCE_WARNING = Event("source_warning", "{message}", logging.WARNING)
WINDOWS_DROPPED = Event(
    "windows_dropped", "{sink} drops {windows:window}, older than its {limit}", logging.WARNING
)
REVISIONS_EXHAUSTED = Event(
    "revisions_exhausted", "no revision is left for another change of {windows:window}", logging.WARNING
)
SNAPSHOT_KEPT = Event(
    "snapshot_kept", "{sink} keeps the snapshot {snapshot}, which uses disk space ({error})", logging.WARNING
)
STATE_NOT_WRITTEN = Event("state_not_written", "{path} cannot be written: {error}", logging.WARNING)
STATUS_DAMAGED = Event(
    "status_damaged",
    "{path} is damaged ({problem}): it counts as missing until its process writes it again. If no process "
    "does, remove it",
    logging.WARNING,
)
TOTALS_DAMAGED = Event(
    "totals_damaged",
    "{path} is damaged ({problem}): the totals in it begin again at 0. No table is affected. To keep the old "
    "totals, stop the job and put back a copy of the file; else remove it",
    logging.WARNING,
)

# The relay.
CERTIFICATES_NOT_USED = Event(
    "certificates_not_used", "new certificates are not used: {error}", logging.WARNING
)

# The service.
AUDIT_UNAVAILABLE = Event(
    "audit_unavailable", "the audit cannot be written, so nothing is answered: {error}", logging.ERROR
)
FILES_NOT_USED = Event("files_not_used", "a new version is not used: {error}", logging.ERROR)

# Batches.
READING_PROGRESS = Event(
    "reading_progress",
    "{stage}: {share:.0%} read, {messages:message}, {messages_per_second:,.0f}/s",
)
WRITING_PROGRESS = Event(
    "writing_progress", "{stage}: all read ({messages:message}), {rows:row} written, {seconds:.0f} s"
)
STEPS_PROGRESS = Event("steps_progress", "Flink {state}, {done} of {total:step} done")
COUNT_PROGRESS = Event("count_progress", "{doing}: {done:,} of {total:,}, {per_minute:,.0f}/min")
RELAY_PROGRESS = Event(
    "relay_progress",
    "{state}: {exported:report} of the export, {live:,} of the socket, {archived:,} archived as too old, "
    "lost {lost:time}; {problem}",
)
DERIVE_PROGRESS = Event("derive_progress", "{table}: {done:,} of {total:file}")
DERIVE_FAILED = Event("derive_failed", "{output}: {error}", logging.ERROR)
TABLE_LEFT_OUT = Event(
    "table_left_out",
    "the table {table} is left out: {module} is not installed; pip install 'kpiflow[{extra}]'",
    logging.WARNING,
)
INPUT_INCOMPLETE = Event("input_incomplete", "incomplete input: {problem}", logging.WARNING)


def is_json() -> bool:
    """Whether the log of this process is JSON."""
    return _is_json


def log_event(event: Event, **fields: Any) -> None:
    """Log an event."""
    if _log.isEnabledFor(event.level):
        _log.log(event.level, "%s", event.format(fields), extra={"event": event, "fields": fields})


def format_event(event: Event, level: int, fields: dict[str, Any], at: float, pid: int) -> str:
    """The line of an event at `at` (seconds since 1970), in ASCII, with the secrets of URLs masked."""
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = {"time": moment, "level": logging.getLevelName(level).lower(), "event": event.name, "pid": pid}
    return json.dumps(head | mask_values(fields), default=str).replace("\x7f", "\\u007f")


class JsonFormatter(logging.Formatter):
    """Formats events, and what other libraries log as LOG."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = getattr(record, "event", None), getattr(record, "fields", None)
        if not isinstance(event, Event) or fields is None:
            message = record.getMessage()
            if record.exc_info:
                message = f"{message}\n{self.formatException(record.exc_info)}"
            event, fields = LOG, {"logger": record.name, "message": message}
        return format_event(event, record.levelno, fields, record.created, record.process or 0)


class _Notices:
    """A stream in place of stderr: each text that is written there becomes an event."""

    encoding, errors = "utf-8", "backslashreplace"

    def write(self, text: str) -> int:
        if message := text.strip():
            log_event(NOTICE, message=message)
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        """It is no terminal, so no bars are drawn on it."""
        return False


@contextmanager
def log_as_json(to: TextIO | None = None) -> Iterator[None]:
    """While the block runs, this process logs as JSON to `to` (stderr), also what is printed on stderr."""
    global _is_json
    root, own, stderr, was_json = logging.getLogger(), logging.getLogger("transforms"), sys.stderr, _is_json
    handler = _JsonHandler(to or _find_stream())
    handlers, level = root.handlers[:], own.level
    root.handlers[:] = [handler]
    own.setLevel(logging.INFO)
    sys.stderr, _is_json = _Notices(), True
    try:
        yield
    finally:
        root.handlers[:], sys.stderr, _is_json = handlers, stderr, was_json
        own.setLevel(level)


def with_logs(within: Callable[[], AbstractContextManager[Any]]) -> Callable[[], AbstractContextManager[Any]]:
    """A worker's context in which it logs as this process does; it pickles if `within` does."""
    return partial(_log_within, within) if _is_json else within


@contextmanager
def _log_within(within: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    with log_as_json(), within():
        yield


def format_output(process: str, line: bytes) -> bytes:
    """What a process wrote as a line of a log: an event as it is, other text as OUTPUT.

    Warnings among the events are also in the log of this process; what other libraries log is not, as they
    warn of each planned end of a job.
    """
    text = line.decode(errors="replace").strip()
    found = _parse_event(text)
    if found is None:
        fields = {"process": process, "message": text}
        text = format_event(OUTPUT, OUTPUT.level, fields, time.time(), os.getpid()) if text else ""
    elif found["event"] != LOG.name and found.get("level") in ("warning", "error"):
        for handler in logging.getLogger().handlers:
            if isinstance(handler, _JsonHandler):
                handler.write_line(text)
    return f"{text}\n".encode() if text else b""


def _parse_event(text: str) -> dict[str, Any] | None:
    """The event of a line; None if it is none."""
    try:
        found = json.loads(text) if text.startswith("{") else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None


class _JsonHandler(logging.StreamHandler[TextIO]):
    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(JsonFormatter())

    def write_line(self, text: str) -> None:
        """Write a line that another process has formatted."""
        with self.lock or nullcontext():
            self.stream.write(text + self.terminator)
            self.flush()


def _find_stream() -> TextIO:
    """stderr, also in a process that was forked while it was replaced."""
    return sys.__stderr__ if isinstance(sys.stderr, _Notices) and sys.__stderr__ else sys.stderr
