"""The relay that is active: it reads the export and the socket, and adds what is new to the stream.

The export is complete and the socket is fast. So the export is read all the time, also while the socket is
open, and what the socket brought already is left out. What the socket missed, in a gap or otherwise, is added
from the export: nobody has to find out when a gap began and ended.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from pipelines.relay.cursor import Cursor
from pipelines.relay.delivery import Delivery, ExportPosition, Recent, split_by_size
from pipelines.relay.errors import Layer4Refused
from pipelines.relay.export import ExportPage, ExportReader, digest_report
from pipelines.relay.home import Situation
from pipelines.relay.live import LiveReader, Received
from pipelines.relay.page_order import LEAST, MEMORY, PageOrder, PageWindow
from transforms.core.process_stats import observe_latency
from transforms.core.time_units import SECOND_US

POLL_SECONDS = 5.0
"""From one look at the end of the export to the next."""
RELAYED = "relayed"
"""The stage that the latency of reports of the socket is measured to: they are in the stream."""
_SOON_SECONDS = 1.0
"""The same if the export says that it has more than it gave."""
_GRACE_SECONDS = 1.0
"""The socket gets so long to bring what the export has already."""
_ENDS, _END_SECONDS = 5, 0.3
"""So many looks must find nothing new, that far apart, before an export counts as drained."""
_BATCH = 1000
_SAME_SIZES = 3
"""So many pages of one size in a row that nobody asked for are the limit of the export."""


class _Look(NamedTuple):
    """Whether a page had new reports, and whether it was the end of the export, as that says."""

    is_new: bool
    is_end: bool


class ActiveRelay:
    """Relays from one Layer 4 into one stream, from a cursor on."""

    def __init__(
        self,
        cursor: Cursor,
        reader: ExportReader,
        live: LiveReader | None,
        delivery: Delivery,
        situation: Situation,
    ) -> None:
        self._reader, self._live, self._delivery, self._situation = reader, live, delivery, situation
        self._order = PageOrder(cursor.place, list(cursor.memory))
        self._by_live, self._by_export = Recent(), Recent()
        self._is_caught_up = False
        self._sizes: list[int] = []
        self._counted = 0

    async def drain_export(self) -> None:
        """Relay the export until its end. Reports that come meanwhile do not put that off.

        Raises: as `follow_export` does.
        """
        ends = 0
        while ends < _ENDS:
            look = await self._read_page()
            ends = 0 if self._order.is_searching or not (look.is_end or not look.is_new) else ends + 1
            if ends:
                await asyncio.sleep(_END_SECONDS)

    async def follow_export(self) -> None:
        """Relay the export until cancelled.

        Raises:
            Layer4Refused: it cannot be read.
            Superseded: another relay is active.
            OutputFull: the archive's disk is full.
        """
        while True:
            is_new = (await self._read_page()).is_new
            has_more = (self._situation.behind or 0) > 0
            if self._order.is_searching or (is_new and has_more):
                continue
            self._is_caught_up = self._is_caught_up or not has_more
            await asyncio.sleep(_SOON_SECONDS if has_more else POLL_SECONDS)

    async def follow_live(self) -> None:
        """Add what the socket brings until cancelled.

        Raises:
            Superseded: another relay is active.
            OutputFull: the archive's disk is full.
        """
        assert self._live is not None
        queue = self._live.queue
        while True:
            batch = [await queue.get()]
            while len(batch) < _BATCH and not queue.empty():
                batch.append(queue.get_nowait())
            await self._add_live(batch)

    async def _add_live(self, batch: Sequence[Received]) -> None:
        digests = [digest_report(report) for _, report in batch]
        new = [at for at, digest in enumerate(digests) if not self._by_export.take(digest)]
        reports = [batch[at][1] for at in new]
        for part in split_by_size(reports):
            more = self._situation.connections - self._counted
            self._counted += more
            totals = Counter(live=part.stop - part.start, connections=more)
            await self._delivery.add(reports[part], totals=totals)
            self._by_live.add([digests[at] for at in new[part]])
        observe_latency(RELAYED, pa.array([int(batch[at][0] * SECOND_US) for at in new], pa.timestamp("us")))

    async def _read_page(self) -> _Look:
        """Read a page and relay what is new."""
        window = self._order.next_window()
        page = await self._reader.fetch(window)
        now = time.time()
        self._situation.read_at = now
        self._situation.ahead_seconds = None if page.timestamp is None else page.timestamp - now
        self._note_size(window, page)
        lost = self._order.lost
        first = self._order.take(window, page.digests, page.total)
        if self._order.lost > lost:
            await self._delivery.add([], ExportPosition(0, []), Counter(lost=1))
            return _Look(True, False)
        is_new = first < len(page.reports)
        if is_new and self._situation.connected and self._is_caught_up:
            await asyncio.sleep(_GRACE_SECONDS)
        for part in split_by_size(page.reports[first:]):
            await self._add_exported(
                page.reports[first + part.start : first + part.stop],
                page.digests[first + part.start : first + part.stop],
                page.malformed,
            )
        behind = self._situation.behind = max(0, page.total - self._order.place)
        return _Look(is_new, behind == 0 and len(page.reports) < window.per_page)

    def _note_size(self, window: PageWindow, page: ExportPage) -> None:
        """Take in that the export has a limit for per_page. A single response proves nothing: it may be the
        one of another request."""
        is_other = page.per_page not in (0, window.per_page)
        self._sizes = [*self._sizes, page.per_page][-_SAME_SIZES:] if is_other else []
        if len(self._sizes) < _SAME_SIZES or len(set(self._sizes)) > 1:
            return
        if not LEAST <= page.per_page < self._order.most:
            raise Layer4Refused(
                f"the export gives pages of {page.per_page} reports where {window.per_page} were asked for; "
                f"it must keep per_page, or a limit of {LEAST} or more"
            )
        self._order.most, self._sizes = page.per_page, []

    async def _add_exported(
        self, reports: Sequence[bytes], digests: Sequence[bytes], malformed: frozenset[bytes]
    ) -> None:
        new = [at for at, digest in enumerate(digests) if not self._by_live.take(digest)]
        order = self._order
        place = ExportPosition(order.place + len(digests), [*order.memory, *digests][-MEMORY:])
        is_healed = self._live is not None and self._is_caught_up
        totals = Counter(exported=len(new), healed=len(new) if is_healed else 0)
        totals["malformed"] = sum(digests[at] in malformed for at in new)
        if self._live is not None:
            self._by_export.add([digests[at] for at in new])
        await self._delivery.add([reports[at] for at in new], place, totals)
        order.advance(digests)
