"""Progress of long work on stderr: a bar on a terminal, a plain line every ten seconds elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from pipelines.console import announce, err
from transforms.core.events import COUNT_PROGRESS

LINE_SECONDS = 10.0
"""Seconds between two lines where there is no terminal."""


def open_bar(*columns: ProgressColumn) -> Progress:
    """A bar that disappears when it is done, and is not there at all without a terminal."""
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


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
