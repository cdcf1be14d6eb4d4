"""Progress of a run over archives on stderr: what is read, then what is written."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from pipelines.console import announce, err
from pipelines.progress import LINE_SECONDS, open_bar
from transforms.core import stage_counters
from transforms.core.events import READING_PROGRESS, WRITING_PROGRESS, Event
from transforms.core.stage_counters import Stage

_BAR_SECONDS = 0.2


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
