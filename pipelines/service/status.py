"""/kpi/status: what came in and what became of it, as `kpiflow show` counts it, for a page that asks often.

To count reads some columns of the files that have changed since. So one request counts for all that wait, and
the numbers are kept for a time that grows with what they cost: counting takes at most a twentieth of a core.
Who asks when they are older gets them nevertheless if new ones take long; `counted_at` says when it was.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from pipelines.failures import Failure
from pipelines.service.access.policy import Rights
from pipelines.service.errors import as_http_error
from pipelines.service.exchange import Exchange
from pipelines.service.live import LiveReports, format_id
from pipelines.summary.kept_counts import KeptCounts
from pipelines.summary.queries import summarise
from pipelines.summary.summary import Summary
from schemas.kinds import KINDS
from schemas.tables import DUPLICATES, QUARANTINED, REPORTS

FRESH_SECONDS = 2.0
"""Numbers are kept at least so long."""
COST = 20
"""And so many times as long as it took to count them."""
PATIENCE_SECONDS = 1.0
"""So long new numbers are waited for where there are some that are younger than OLDEST_SECONDS."""
OLDEST_SECONDS = 600.0
HOURS = 48
"""Hours that an answer lists, the newest ones."""


@dataclass(frozen=True)
class CountedSummary:
    """A summary, and when it was made."""

    summary: Summary
    at: datetime


class StatusCounts:
    """The newest summary of an output; of all requests that need a new one, one makes it."""

    def __init__(self, folder: Path, count: Callable[[Path], Summary] | None = None) -> None:
        self._folder, self._summarise = folder, count or partial(summarise, kept=KeptCounts())
        self._kept: CountedSummary | None = None
        self._until = 0.0
        self._counting: asyncio.Task[CountedSummary] | None = None

    async def read(self) -> CountedSummary:
        """The summary, counted now or some time ago.

        Raises:
            Failure: the output cannot be read.
        """
        if self._kept is not None and time.monotonic() < self._until:
            return self._kept
        if self._counting is None:
            self._counting = asyncio.create_task(self._count())
            self._counting.add_done_callback(self._end)
        counting = asyncio.shield(self._counting)
        if self._kept is None or (datetime.now(UTC) - self._kept.at).total_seconds() > OLDEST_SECONDS:
            return await counting
        try:
            return await asyncio.wait_for(counting, PATIENCE_SECONDS)
        except TimeoutError:
            return self._kept

    async def _count(self) -> CountedSummary:
        began, at = time.monotonic(), datetime.now(UTC)
        summary = await asyncio.to_thread(self._summarise, self._folder)
        ended = time.monotonic()
        self._kept, self._until = (
            CountedSummary(summary, at),
            ended + max(FRESH_SECONDS, COST * (ended - began)),
        )
        return self._kept

    def _end(self, task: "asyncio.Task[CountedSummary]") -> None:
        self._counting = None
        if not task.cancelled():
            task.exception()  # it is of nobody's interest where all clients have left


async def show_status(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """The fates of all messages, by hour too, and whether there are live reports."""
    service, rights = exchange.service, exchange.rights
    for table in (REPORTS, DUPLICATES, QUARANTINED, *(kind.table for kind in KINDS.values())):
        rights.refuse_table(table.name)
    try:
        counted = await service.status.read()
    except Failure as error:
        raise as_http_error(error) from error
    exchange.rows = 1
    answer = _describe(counted, rights) | {
        "output": service.folder.name,
        "live": _describe_live(service.live),
    }
    answer["now"] = datetime.now(UTC)
    return web.Response(body=orjson.dumps(answer), content_type="application/json")


def _describe(counted: CountedSummary, rights: Rights) -> dict[str, Any]:
    """A summary as JSON. What is counted from a column to which there is no right is left out and listed."""
    found = counted.summary
    fates = ("received", "reports", "records", "duplicates", "quarantined")
    answer: dict[str, Any] = {
        "counted_at": counted.at,
        "first": found.first,
        "last": found.last,
        **{name: getattr(found, name) for name in fates},
        "agents": found.agents,
        "outliers": found.outliers,
        "kinds": [
            {name: getattr(each, name) for name in ("kind", "stored", "duplicates", "quarantined")}
            for each in found.kinds
        ],
        "hours": [
            {"start": each.start, "reports": each.reports, "duplicates": each.duplicates}
            | {"quarantined": each.quarantined, "outliers": sum(each.outliers.values())}
            for each in found.hours[-HOURS:]
        ],
    }
    if rights.may_see(REPORTS.name, "error_details"):
        return answer | {"failed": found.failed}
    return answer | {"withheld": ["failed"]}


def _describe_live(live: LiveReports | None) -> dict[str, Any] | None:
    """Where the live reports are; None if there are none."""
    return None if live is None else {"last": format_id(live.last), "problem": live.problem}
