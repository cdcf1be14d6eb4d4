"""Where the reports that were not relayed yet begin in the pages of an export.

An export has page numbers and no cursor. Its reports are in the order in which Layer 4 took them: new ones
are appended, and the oldest may be dropped, which moves all others to lower places. Numbers that an export
states may be wrong, so they only suggest where to look. A report is taken as new only if it follows, in one
response, the reports that were relayed last. So no report is skipped, whatever pages are short, repeated,
empty, or moved between two requests; a report may be taken twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

MOST = 1000
"""Reports of a page, at most."""
LEAST = 20
"""An export that gives fewer on a page cannot be read: windows would not overlap."""
MEMORY = 1000
"""So many reports that were relayed last are remembered: at least as many as a page has."""
_BEYOND = 100
"""Pages beyond twice the place at which it is searched, if there are so many, as the export says."""
_SEARCHES = 3
"""So often the whole export is searched before what was relayed last counts as dropped."""


class PageWindow(NamedTuple):
    """A page, counted from 1, of pages of so many reports."""

    page: int
    per_page: int

    @property
    def start(self) -> int:
        """The place of its first report, counted from 0."""
        return (self.page - 1) * self.per_page

    @property
    def end(self) -> int:
        """The place after its last report."""
        return self.page * self.per_page


def choose_window(place: int, most: int = MOST) -> PageWindow:
    """The window that has a place and most places behind it, with at most `most` reports.

    Pages of different sizes begin at different places: among those of half to all of `most` reports is one
    that begins close before any place.
    """
    sizes = range(most, most // 2, -1)
    per_page = max(sizes, key=lambda size: size - place % size)
    return PageWindow(place // per_page + 1, per_page)


def find_new(memory: Sequence[bytes], page: Sequence[bytes], expected: int = 0) -> int | None:
    """The place in a page of the first report that was not relayed: after the last one of `memory`, the
    digests of what was relayed last, oldest first.

    It is beyond the page if that ends before. None if no report of the page is in memory. Reports of the same
    bytes may allow several places: it is then the `expected` one, or else the first. What is skipped are then
    copies of what was relayed.
    """
    ends = range(1, len(page) + len(memory)) if memory and page else range(0)
    if expected in ends and _fits(memory, page, expected):
        return expected
    return next((end for end in ends if _fits(memory, page, end)), None)


def _fits(memory: Sequence[bytes], page: Sequence[bytes], end: int) -> bool:
    """Whether memory may end at a place of a page: all reports that both have are the same."""
    shift = len(memory) - end
    first, last = max(0, -shift), min(end, len(page))
    return page[last - 1] == memory[last - 1 + shift] and list(page[first:last]) == list(
        memory[first + shift : last + shift]
    )


@dataclass
class PageOrder:
    """Which page to ask for, and what is new in the response.

    Attributes:
        place: of the first report that was not relayed, in the export as it was seen last.
        memory: digests of the reports that were relayed last, oldest first; empty before the first one.
        most: reports of a page that the export gives.
        lost: how often what was relayed last was dropped before the next report was read.
    """

    place: int = 0
    memory: list[bytes] = field(default_factory=list)
    most: int = MOST
    lost: int = 0
    _margin: int = 0
    _below: int | None = None
    _failures: int = 0
    _total: int = 0

    @property
    def is_searching(self) -> bool:
        """Whether what was relayed last was not where it was expected."""
        return self._below is not None

    def next_window(self) -> PageWindow:
        """The page to ask for."""
        if not self.memory:
            return PageWindow(1, self.most)
        if self._below is not None:
            return PageWindow(max(1, -(-self._below // self.most)), self.most)
        return choose_window(max(0, self.place - 1 - self._margin), self.most)

    def take(self, window: PageWindow, page: Sequence[bytes], total: int) -> int:
        """The place in a response to `window` of the first report that is new; all from there on are. `page`:
        digests of its reports; `total`: how many the export says it has."""
        self._total = max(0, total)
        if not self.memory:
            return 0
        found = find_new(self.memory, page, self.place - window.start)
        if found is None:
            self._search_below(window, bool(page))
            return len(page)
        place = window.start + found
        self._margin = min(self.most // 4, 2 * max(0, self.place - place))
        self.place, self._below, self._failures = place, None, 0
        return min(found, len(page))

    def advance(self, digests: Sequence[bytes]) -> None:
        """Some of the new reports were relayed, the first ones."""
        self.place += len(digests)
        self.memory = [*self.memory, *digests][-MEMORY:]

    def _search_below(self, window: PageWindow, has_reports: bool) -> None:
        """What was relayed last can only have moved to lower places: look there next."""
        below = window.start
        if not has_reports and not self._failures and 0 < self._total < below:
            below = self._total
        elif not has_reports and below > self.place:  # the total that led here was too high
            below = max(self.place, below // 2)
        if below > 0:
            self._below = below
            return
        self._failures += 1
        if self._failures < _SEARCHES:
            self._below = max(self.place, min(self._total, 2 * self.place + _BEYOND * self.most), 1)
            return
        self.lost += 1
        self.place, self.memory, self._below, self._failures, self._margin = 0, [], None, 0, 0
