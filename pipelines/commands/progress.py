"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from pipelines.console import err
from transforms.core import stage_counters

_TICK = 0.2
_LINE_SECONDS = 10.0


@contextmanager
def show_progress(total_bytes: int) -> Iterator[None]:
    """Show how much of `total_bytes` of input is read and at which rate reports come through, while the block runs."""
    done = threading.Event()
    shown = _bar if err.is_terminal else _lines
    thread = threading.Thread(target=shown, args=(total_bytes, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _bar(total_bytes: int, done: threading.Event) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("read", total=max(total_bytes, 1), rate="")
        started = time.monotonic()
        while not done.wait(_TICK):
            progress.update(bar, description=_stage(), completed=_read(), rate=_rate(started))


def _lines(total_bytes: int, done: threading.Event) -> None:
    started = time.monotonic()
    while not done.wait(_LINE_SECONDS):
        share = min(1.0, _read() / max(total_bytes, 1))
        err.print(f"{_stage()}: {share:.0%} read, {_rate(started)}")


def _read() -> int:
    stage = stage_counters.snapshot().get("read")
    return stage.bytes if stage else 0


def _stage() -> str:
    """The stage that was entered last."""
    return next(reversed(stage_counters.snapshot()), "read")


def _rate(started: float) -> str:
    validated = stage_counters.snapshot().get("validate")
    rows = validated.rows if validated else 0
    return f"{rows:,} messages, {rows / max(time.monotonic() - started, 1e-9):,.0f}/s"
