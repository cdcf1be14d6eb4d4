"""`kpiflow generate --redis`: reports into a Redis stream at a steady rate, until done or interrupted."""

import json
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from pipelines.commands.generate import describe_fates
from pipelines.connections import connect_redis
from pipelines.console import print_result
from pipelines.failures import RunFailed, WrongUse
from pipelines.progress import show_count
from pipelines.settings import Settings
from pipelines.synthetic import KpiTestGenerator
from pipelines.synthetic.archive import write_truth
from pipelines.synthetic.live import Run
from pipelines.synthetic.live_plan import REPORT, LivePlan, plan
from pipelines.synthetic.messages import Mix
from pipelines.synthetic.reports import Scenario
from pipelines.synthetic.sending import Sender
from schemas.kinds import KINDS
from transforms.core.counts import format_count
from transforms.core.message_encodings import JSON
from transforms.redis.connection import Connection
from transforms.redis.errors import RedisUnavailable


def send(
    url: str,
    settings: Settings,
    streams: Sequence[str],
    per_minute: float,
    generator: KpiTestGenerator,
    scenario: Scenario,
    mix: Mix,
    truth: Path | None,
    warm: bool,
    inconsistent: float | None = None,
    encoding: str = JSON,
) -> None:
    """Send a mix of messages to a stream, and write their expected fates to the file `truth`, if one is
    given.

    `warm`: the agents already have an hour of history, so outliers are sent from the first minute.
    `inconsistent`: the share of reports with a fault; records are sent too, to the default
    stream of each kind.

    Raises:
        WrongUse: a rate below 0, several streams, a file that cannot be written, or Redis cannot be used.
        RunFailed: Redis was unavailable for too long, or refused an entry.
        KeyboardInterrupt: interrupted by the user. The truth file has the messages that were sent until then.
    """
    if len(streams) != 1:
        raise WrongUse(f"one stream is needed, and there are {len(streams)}", "give one --stream KEY")
    if not 0 <= per_minute < float("inf"):
        raise WrongUse(
            f"--rate {per_minute} is not possible",
            "give 0 (as fast as possible) or a positive number",
        )
    connection = connect_redis(url, settings)
    _write_truth(truth, {"complete": False})
    keys = {REPORT: streams[0]}
    if inconsistent is not None:
        keys = {name: kind.stream for name, kind in KINDS.items()} | keys
    with _catch_interrupt() as stop, ExitStack() as opened:
        senders = {name: _open(opened, connection, key, stop) for name, key in keys.items()}
        start = senders[REPORT].now_us()
        run = Run(
            _plan(generator, scenario, mix, per_minute, start, warm, inconsistent), senders, stop, encoding
        )
        began = time.perf_counter()
        with show_count("sending messages of reports", run.reports, lines=True) as advance:
            run.send(advance)
    said = run.truth()
    _write_truth(truth, said)
    print_result(
        _describe_result(said, f"{streams[0]} of {connection.public}", time.perf_counter() - began, truth)
    )
    if run.problem:
        raise RunFailed(run.problem, "fix that and send again: what was sent until then is counted above")
    if stop.is_set():
        raise KeyboardInterrupt


def _open(opened: ExitStack, connection: Connection, key: str, stop: Event) -> Sender:
    try:
        sender = Sender(connection, key, stop)
    except RedisUnavailable as error:
        raise WrongUse(str(error)) from error
    opened.callback(sender.close)
    return sender


def _plan(
    generator: KpiTestGenerator,
    scenario: Scenario,
    mix: Mix,
    per_minute: float,
    start: int,
    warm: bool,
    inconsistent: float | None,
) -> LivePlan:
    try:
        return plan(generator, scenario, mix, per_minute, start, warm, inconsistent)
    except MemoryError as error:
        raise RunFailed(
            f"there is no memory for {format_count(mix.messages, 'message')}", "send fewer at a time"
        ) from error


def _write_truth(truth: Path | None, said: dict[str, Any]) -> None:
    if truth is None:
        return
    try:
        write_truth(truth, said)
    except OSError as error:
        raise WrongUse(
            f"{truth} cannot be written: {error.strerror}", f"its content would be: {json.dumps(said)}"
        ) from error


@contextmanager
def _catch_interrupt() -> Iterator[Event]:
    """Yields an event that Ctrl-C sets, so that no entry is interrupted halfway."""
    stop = Event()

    def interrupted(_: int, __: FrameType | None) -> None:
        stop.set()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _describe_result(said: dict[str, Any], place: str, seconds: float, truth: Path | None) -> str:
    unsure = f"; {said['unsure']:,} more may have arrived when the connection broke" if said["unsure"] else ""
    kept = f"; {truth} has the expected fates" if truth else ""
    messages, of_reports = said["messages"], ""
    if "records" in said:
        messages = sum(said["records"]["messages"].values())
        of_reports = " of reports"
    rate = 60 * said["messages"] / max(seconds, 1e-9)
    sent = f"sent {format_count(messages, 'message')} ({describe_fates(said, messages)}) to {place}"
    return f"{sent} in {seconds:.1f} s: {rate:,.0f}/min{of_reports}{unsure}{kept}"
