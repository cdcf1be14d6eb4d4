"""The pages of the export as text."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from pipelines.synthetic.columns import SECOND

LARGEST_PAGE = 1000
USUAL_PAGE = 100


@dataclass(frozen=True)
class PageRequest:
    """Which page a consumer asks for: `page` from 1, of `per_page` reports."""

    page: int
    per_page: int

    @classmethod
    def parse(cls, page: str, per_page: str) -> "PageRequest":
        """The request of two numbers as text.

        Raises:
            ValueError: one of them is not a number, or is out of range.
        """
        asked = cls(_parse_number("page", page), _parse_number("per_page", per_page))
        if asked.per_page > LARGEST_PAGE:
            raise ValueError(f"per_page = {per_page} is above {LARGEST_PAGE}")
        return asked

    def find(self, first: int, end: int) -> range:
        """The numbers of the reports on the page, if those from `first` to before `end` are kept."""
        start = min(first + (self.page - 1) * self.per_page, end)
        return range(start, min(start + self.per_page, end))


def format_page(
    reports: Iterable[bytes], asked: PageRequest, total: int, now: int, pages: int | None = None
) -> bytes:
    """The body of a page; `now` in microseconds since 1970; `pages`: the number of pages, if not that of
    `total` reports.
    """
    pagination = {
        "page": asked.page,
        "per_page": asked.per_page,
        "total_pages": -(-total // asked.per_page) if pages is None else pages,
        "total_count": total,
    }
    moment = datetime.fromtimestamp(now // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    head = f'{{"timestamp":"{moment}","kpi_reports":['
    tail = f'],"pagination":{json.dumps(pagination, separators=(",", ":"))}}}'
    return b"".join([head.encode(), b",".join(reports), tail.encode()])


def _parse_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise ValueError(f"{name} = {text} is not a number from 1 on")
    return int(text)
