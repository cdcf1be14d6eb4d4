"""Reports into the Redis stream, or into the archive if they are too old for it."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipelines.relay.cursor import RelayedStream
from pipelines.relay.export import digest_report
from pipelines.relay.late import MARGIN_SECONDS, LateReports, split_by_age
from transforms.core.retry import retry_without_end

_REPORTS, _BYTES = 1000, 4 << 20
"""At most so many reports, and bytes of them unless one has more, are added at a time."""


class ExportPosition(NamedTuple):
    """Where the export's cursor is after some reports: the place, and the digests of the last ones."""

    place: int
    memory: list[bytes]


@dataclass
class _Work:
    """What is left to add, and the totals with it."""

    reports: list[bytes]
    place: ExportPosition | None
    totals: Counter[str]


class Delivery:
    """Adds reports, one call after the other, and repeats what Redis could not do.

    Late reports are safe on disk before the cursor moves. How old a report is, is judged by the clock of
    Redis, and again before each attempt: it may become too old while Redis cannot be reached.
    `notice` is called with what is wrong with Redis.
    """

    def __init__(
        self,
        stream: RelayedStream,
        late: LateReports,
        stale_seconds: float,
        notice: Callable[[str | None], None],
    ) -> None:
        self._stream, self._late, self._notice = stream, late, notice
        self._age = stale_seconds - MARGIN_SECONDS
        self._lock = asyncio.Lock()

    async def add(
        self,
        reports: Sequence[bytes],
        place: ExportPosition | None = None,
        totals: Counter[str] | None = None,
    ) -> None:
        """Add reports, counted as `totals` says, and move the cursor in the export, if a place is given.

        Raises:
            Superseded: another relay is active.
            OutputFull: the archive's disk is full.
        """
        async with self._lock:
            work = _Work(list(reports), place, Counter(totals or {}))
            async for attempt in retry_without_end(self._notice):
                with attempt:
                    await asyncio.to_thread(self._do, work)
            self._notice(None)

    def _do(self, work: "_Work") -> None:
        """Archive what is too old by now, and add the rest."""
        now = self._stream.read_clock()
        fresh, late = split_by_age(work.reports, now - self._age)
        if late:
            self._late.append(late, list(map(digest_report, late)), now)
            work.reports = fresh
            work.totals["archived"] += len(late)
        at, memory = (None, []) if work.place is None else work.place
        self._stream.move(fresh, at, memory, work.totals)


class Recent:
    """The digests of reports that came one way lately: a report that comes the other way is known. At most so
    many."""

    def __init__(self, most: int = 200_000) -> None:
        self._most = most
        self._order: deque[bytes] = deque()
        self._counts: Counter[bytes] = Counter()

    def add(self, digests: Sequence[bytes]) -> None:
        """Remember reports; the oldest ones are forgotten."""
        self._order.extend(digests)
        self._counts.update(digests)
        while len(self._order) > self._most:
            self._forget(self._order.popleft())

    def take(self, digest: bytes) -> bool:
        """Whether a report is known. Each one that was added is known once."""
        if not self._counts[digest]:
            del self._counts[digest]
            return False
        self._forget(digest)
        return True

    def _forget(self, digest: bytes) -> None:
        self._counts[digest] -= 1
        if self._counts[digest] <= 0:
            del self._counts[digest]


def split_by_size(reports: Sequence[bytes]) -> Iterator[slice]:
    """Slices of reports that can be added at a time."""
    start, size = 0, 0
    for at, report in enumerate(reports):
        if at > start and (at - start >= _REPORTS or size + len(report) > _BYTES):
            yield slice(start, at)
            start, size = at, 0
        size += len(report)
    if start < len(reports):
        yield slice(start, len(reports))
