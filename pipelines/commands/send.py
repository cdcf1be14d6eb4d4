"""The live half of `kpiflow generate`: reports into a Redis stream at a rate, with progress, until done or interrupted."""

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.assembly import connect_redis
from pipelines.console import err, out
from pipelines.failures import RunFailed, WrongUse
from pipelines.settings import Settings
from pipelines.synthetic import KpiTestGenerator
from pipelines.synthetic.archive import write_truth
from pipelines.synthetic.live import Run, plan
from pipelines.synthetic.messages import Mix
from pipelines.synthetic.reports import Scenario
from pipelines.synthetic.sending import Sender
from transforms.redis.connection import RedisUnavailable

_LINE_SECONDS = 10.0


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
) -> None:
    """Send a mix of messages to a stream; the truth about what was sent goes to a file, if one is named.

    `warm`: the agents have an hour of history already, so outliers are sent from the first minute.

    Raises:
        WrongUse: a rate below 0, several streams, a file that cannot be written, or Redis cannot be used.
        RunFailed: Redis was away for too long, or refused an entry.
        KeyboardInterrupt: it was interrupted; the truth says what was sent until then.
    """
    if len(streams) != 1:
        raise WrongUse(f"{len(streams)} streams cannot be sent to", "give one --stream KEY")
    if not 0 <= per_minute < float("inf"):
        raise WrongUse(
            f"{per_minute} messages a minute cannot be sent",
            "give --rate a number from 0 (as fast as possible) on",
        )
    connection = connect_redis(url, settings)
    _keep(truth, {"complete": False})
    with _interruptible() as stop:
        try:
            sender = Sender(connection, streams[0], stop)
        except RedisUnavailable as error:
            raise WrongUse(str(error)) from error
        try:
            run = Run(_planned(generator, scenario, mix, per_minute, sender.now_us(), warm), sender, stop)
            began = time.perf_counter()
            with _followed(mix.messages) as advance:
                run.send(advance)
        finally:
            sender.close()
    said = run.truth()
    _keep(truth, said)
    out.print(_closing(said, f"{streams[0]} of {connection.public}", time.perf_counter() - began, truth))
    if run.problem:
        raise RunFailed(run.problem, "mend that and send again: what was sent until then is counted above")
    if stop.is_set():
        raise KeyboardInterrupt


def _planned(
    generator: KpiTestGenerator, scenario: Scenario, mix: Mix, per_minute: float, start: int, warm: bool
) -> Any:
    try:
        return plan(generator, scenario, mix, per_minute, start, warm)
    except MemoryError as error:
        raise RunFailed(
            f"{mix.messages:,} messages do not fit into memory", "send fewer at a time"
        ) from error


def _keep(truth: Path | None, said: dict[str, Any]) -> None:
    if truth is None:
        return
    try:
        write_truth(truth, said)
    except OSError as error:
        raise WrongUse(
            f"{truth} cannot be written: {error.strerror}", f"what was to be kept: {json.dumps(said)}"
        ) from error


@contextmanager
def _interruptible() -> Iterator[Event]:
    """An event that Ctrl-C sets, so that no entry is left in between."""
    stop = Event()

    def interrupted(_: int, __: FrameType | None) -> None:
        stop.set()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _followed(messages: int) -> Iterator[Callable[[int], None]]:
    """Shows how many messages were sent and at which rate: a bar on a terminal, a line now and then elsewhere."""
    columns = (
        TextColumn("sending"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    began = told = time.monotonic()
    sent = 0
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("sending", total=messages, rate="")

        def advance(count: int) -> None:
            nonlocal sent, told
            sent, now = sent + count, time.monotonic()
            rate = f"{60 * sent / max(now - began, 1e-9):,.0f}/min"
            bar.update(task, advance=count, rate=rate)
            if not err.is_terminal and now - told >= _LINE_SECONDS:
                told = now
                err.print(f"sending: {sent:,} of {messages:,}, {rate}")

        yield advance


def _closing(said: dict[str, Any], place: str, seconds: float, truth: Path | None) -> str:
    fates = f"{said['reports']:,} reports, {said['outliers']:,} of them outliers; "
    fates += f"{said['duplicates']:,} duplicates, {said['quarantined']:,} to quarantine"
    unsure = f"; {said['unsure']:,} more may have arrived when Redis went away" if said["unsure"] else ""
    kept = f"; {truth} says what must become of each" if truth else ""
    rate = 60 * said["messages"] / max(seconds, 1e-9)
    return f"sent {said['messages']:,} messages ({fates}) to {place} in {seconds:.1f} s: {rate:,.0f}/min{unsure}{kept}"
