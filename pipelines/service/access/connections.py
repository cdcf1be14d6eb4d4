"""What is checked while an answer goes on."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from pipelines.service.access.subject import Subject, Unidentified
from pipelines.service.guards import Entry

CHECK_SECONDS = 60.0
"""From one check of an open connection to the next."""


class _Progress(Protocol):
    rows: int


@contextmanager
def watch_connection(
    transport: asyncio.Transport | None,
    subject: Subject,
    identify: Callable[[asyncio.BaseTransport | None], Subject],
    entry: Entry,
    progress: _Progress,
) -> Iterator[None]:
    """While the block runs, check every CHECK_SECONDS that the connection is still that of the subject, and
    record that the answer goes on.

    If its certificate, its role or its grants do not count any more, the connection is aborted. The interval
    is of a clock that nobody can set.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def check() -> None:
        nonlocal timer
        try:
            is_same = identify(transport) == subject
        except Unidentified:
            is_same = False
        if not is_same and transport is not None:
            transport.abort()
            return
        entry.note(progress.rows)
        timer = loop.call_later(CHECK_SECONDS, check)

    timer = loop.call_later(CHECK_SECONDS, check)
    try:
        yield
    finally:
        timer.cancel()
