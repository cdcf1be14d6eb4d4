"""Progress of long work on stderr: a bar on a terminal, a plain line every ten seconds elsewhere."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipelines.console import announce, err
from transforms.core import stage_counters
from transforms.core.events import COUNT_PROGRESS, READING_PROGRESS, WRITING_PROGRESS, Event
from transforms.core.stage_counters import Stage

LINE_SECONDS = 10.0
"""Seconds between two lines where there is no terminal."""
_BAR_SECONDS = 0.2


def open_bar(*columns: ProgressColumn) -> Progress:
    """A bar that disappears when it is done, and is not there at all without a terminal."""
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


@contextmanager
def show_reading(total_bytes: int) -> Iterator[None]:
    """Show how much of `total_bytes` of input is read, and the rate of messages, while the block runs.

    Once everything is read, how many rows are written: how many there will be is not known.
    """
    done = threading.Event()
    show = _show_bar if err.is_terminal else _show_lines
    thread = threading.Thread(target=show, args=(total_bytes, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def show_count(doing: str, total: int, lines: bool = False) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many more messages are done, and shows the sum and the rate a
    minute.

    Without a terminal nothing is shown unless `lines` is set.
    """
    rate_column = TextColumn("{task.fields[rate]}")
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), rate_column, TimeRemainingColumn())
    began = shown = time.monotonic()
    count = 0
    with open_bar(*columns) as bar:
        task = bar.add_task(doing, total=total, rate="")

        def advance(more: int) -> None:
            nonlocal count, shown
            count, now = count + more, time.monotonic()
            per_minute = 60 * count / max(now - began, 1e-9)
            bar.update(task, advance=more, rate=f"{per_minute:,.0f}/min")
            if lines and not err.is_terminal and now - shown >= LINE_SECONDS:
                shown = now
                announce(COUNT_PROGRESS, doing=doing, done=count, total=total, per_minute=per_minute)

        yield advance


def _show_bar(total_bytes: int, done: threading.Event) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with open_bar(*columns) as bar:
        task = bar.add_task("read", total=max(total_bytes, 1), rate="")
        began = time.monotonic()
        while not done.wait(_BAR_SECONDS):
            stages = stage_counters.snapshot()
            size = _count_bytes(stages)
            # Without a total the bar only moves: it does not claim that the work is done.
            total = max(total_bytes, 1) if size < total_bytes else None
            counts = _describe(stages, total_bytes, time.monotonic() - began)
            bar.update(task, description=_find_stage(stages), total=total, completed=size, rate=counts)


def _show_lines(total_bytes: int, done: threading.Event) -> None:
    began = time.monotonic()
    while not done.wait(LINE_SECONDS):
        event, facts = _measure(stage_counters.snapshot(), total_bytes, time.monotonic() - began)
        announce(event, **facts)


def _describe(stages: Mapping[str, Stage], total_bytes: int, seconds: float) -> str:
    """How far a run is after so many seconds."""
    event, facts = _measure(stages, total_bytes, seconds)
    return event.format(facts).partition(": ")[2]


def _measure(stages: Mapping[str, Stage], total_bytes: int, seconds: float) -> tuple[Event, dict[str, Any]]:
    """How far a run is after so many seconds, as an event and its fields."""
    validated = stages.get("validate")
    messages, size = (validated.rows if validated else 0), _count_bytes(stages)
    facts: dict[str, Any] = {"stage": _find_stage(stages), "messages": messages}
    if size < total_bytes:
        rate = messages / max(seconds, 1e-9)
        return READING_PROGRESS, facts | {"share": size / total_bytes, "messages_per_second": rate}
    written = sum(stage.rows for name, stage in stages.items() if name.startswith("write "))
    return WRITING_PROGRESS, facts | {"rows": written, "seconds": seconds}


def _count_bytes(stages: Mapping[str, Stage]) -> int:
    return stages["read"].bytes if "read" in stages else 0


def _find_stage(stages: Mapping[str, Stage]) -> str:
    """The stage that was entered last."""
    return next(reversed(list(stages)), "read")
