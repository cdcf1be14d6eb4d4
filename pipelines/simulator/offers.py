"""What Layer 4 has offered until now, and keeps."""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from pipelines.simulator.clock import SimulatedClock
from pipelines.simulator.reports import BLOCK, Reports, Schedule

CACHED_BLOCKS = 32
"""Blocks of reports that are kept in memory, about 0.5 MB each."""


MOST_BEHIND = 20_000
"""Reports by which a consumer of the stream may be behind before its socket is dropped."""


class Offers:
    """The reports that were offered: those with the numbers from `first` to `end` are still kept.

    A report is in the record before anybody can get it.
    """

    def __init__(
        self,
        reports: Reports,
        schedule: Schedule,
        clock: SimulatedClock,
        most: int | None = None,
        keep: int | None = None,
        record: Path | None = None,
    ) -> None:
        """`most`: how many are offered in all; None is all there
        are. `keep`: how many reports Layer 4 keeps; None is all. `record`: the file of
        all that is offered.

        Raises:
            OSError: the record cannot be written.
        """
        self._reports, self._schedule, self._keep = reports, schedule, keep
        self._most = min((count for count in (most, reports.count) if count is not None), default=None)
        self.clock = clock
        self.end = 0
        self._blocks: OrderedDict[int, list[bytes]] = OrderedDict()
        self._record: BinaryIO | None = None if record is None else record.open("wb", 0)

    @property
    def first(self) -> int:
        """The number of the oldest report that is kept."""
        return 0 if self._keep is None else max(0, self.end - self._keep)

    @property
    def cached(self) -> int:
        """How many blocks are in memory."""
        return len(self._blocks)

    def advance(self) -> range:
        """Offer what is due now. Returns the numbers of the new reports.

        Raises:
            OSError: the record cannot be written.
        """
        due = self._schedule.count(self.clock.elapsed())
        due = due if self._most is None else min(due, self._most)
        new = range(self.end, max(self.end, due))
        if self._record is not None:
            for start in range(new.start, new.stop, BLOCK):
                part = self.read(start, min(start + BLOCK, new.stop))
                self._record.write(b"".join(report + b"\n" for report in part))
        self.end = new.stop
        return new

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The JSON of the reports from `start` to before `stop`."""
        for number in range(start // BLOCK, -(-stop // BLOCK)):
            offset = number * BLOCK
            yield from islice(self._block(number), max(0, start - offset), max(0, stop - offset))

    def _block(self, number: int) -> list[bytes]:
        block = self._blocks.pop(number, None)
        if block is None:
            block = self._reports.make_block(number)
            if len(self._blocks) >= CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks[number] = block
        return block

    def close(self) -> None:
        """Close the record."""
        if self._record is not None:
            self._record.close()
