"""Spans of time, and which of it the inputs of a derived table cover.

The plan chooses stored files by these bounds, and the views of the SQL have only rows within them.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from schemas.readers.formats import FIRST_US, LAST_US
from transforms.core.time_units import SECOND_US
from transforms.derived.derived_table import SETTLED, Clock, DerivedTable


class Period(NamedTuple):
    """A span of time from `start` up to but not including `end`, in microseconds since 1970."""

    start: int = FIRST_US
    end: int = LAST_US


EVER = Period()
UNTIMED = Period(LAST_US, LAST_US)
"""The span of what was received at an unknown time."""


class Bounds(NamedTuple):
    """The bounds of the inputs of a derived table, for a span of its rows."""

    table: DerivedTable
    settings: Mapping[str, Any]
    period: Period

    def find(self, name: str) -> Period:
        """The span of an input by the own time of its rows: recorded_at, created_at, completed_at, ...

        That of an input that is not declared is as if it had no `before`.
        """
        before = self.count_before(name)
        if self.table.clock is Clock.EFFECTIVE and name in ("tasks", "results"):
            before += self.count_before("inconsistencies")
        start = add_time(self.period.start, -before)
        if name == "agents":
            return EVER
        if name in ("tasks", "results"):
            return Period(start, LAST_US)
        return Period(start, add_time(self.period.end, before) if name == "claims" else self.period.end)

    def find_settled(self) -> int:
        """Until when the windows of `past_windows` end."""
        return add_time(self.period.end, -_count(SETTLED))

    def find_near(self, name: str) -> Period:
        """The span, by their own time, of the messages of a table that were received in the span."""
        if self.period == UNTIMED or name not in ("reports", "tasks", "results"):
            return EVER
        late, early = self.count_recency() if name == "reports" else (self.count_before(name),) * 2
        return Period(add_time(self.period.start, -late), add_time(self.period.end, early + 1))

    def count_recency(self) -> tuple[int, int]:
        """How late and how early a report may be received, in microseconds."""
        late, early = (self.settings[name] * SECOND_US for name in ("stale_seconds", "future_seconds"))
        return late, early

    def count_before(self, name: str) -> int:
        """How long before the span an input begins, in microseconds; 0 if it is not declared."""
        found = (each.find_before(self.settings) for each in self.table.inputs if each.name == name)
        return _count(next(found, timedelta(0)))


def add_time(moment: int, microseconds: int) -> int:
    """A later or earlier moment; the ends of time stay."""
    if moment in (FIRST_US, LAST_US):
        return moment
    return max(FIRST_US, min(LAST_US, moment + microseconds))


def _count(time: timedelta) -> int:
    """A time in microseconds."""
    return time // timedelta(microseconds=1)
