"""Which files a derived table should have, and what each may read: a pure function of the stored files."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from schemas.partitioning import format_hour_folder, format_window_folder
from schemas.readers.formats import FIRST_US, LAST_US
from schemas.tables import QUARANTINED, REPORTS
from transforms.core.expiry import NOTHING, Expiry
from transforms.core.grouping import Ints
from transforms.core.time_units import HOUR_US, MINUTE_US, SECOND_US
from transforms.derived.bounds import UNTIMED, Bounds, Period
from transforms.derived.closed import find_closed
from transforms.derived.derived_table import Clock, DerivedTable
from transforms.derived.digests import GRAIN, NO_GRAIN, digest_inputs
from transforms.derived.inputs import RECEIVED, SOURCES, list_derived_inputs
from transforms.derived.stored_files import Catalog

FRESH_US, LATE_STEP_US = 2 * MINUTE_US, 10 * MINUTE_US
"""A span of reports is fresh until so long after its end. Then the reports that are late for it count at
every full step: each minute has some, and a file is derived whole."""
_RECORDS = ("tasks", "results", "agents")
_EPOCH = datetime.fromtimestamp(0, UTC)
_IN_DAY = re.compile(r"date=(\d{4}-\d\d-\d\d)/(?:hour=(\d\d)/\d\d(\d\d))?")


class Choice(NamedTuple):
    """Rows of a stored table that may be read: its name, and the places of their grains in its catalog."""

    stored: str
    places: Ints


Choices = dict[str, Choice]
"""By input; `own INPUT` is what the derived rows are about."""


class DeriveUnit(NamedTuple):
    """What is derived together: a span, and its files.

    `cutoff`: the microsecond before which its rows are effective. `digest`: of everything that it may read.
    `rows`: of the rows that it is about. `files`: their names below the output; of the UNTIMED span none,
    since its rows decide it.
    """

    period: Period
    cutoff: int
    digest: str
    rows: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class DerivePlan:
    """The units of a derived table over stored files.

    `before` (microseconds, whole grains): only what is effective before it is derived, and of reports that
    are late only what is effective before the last full step of it (`find_cutoff`). `since`: spans that ended
    by then are left out, and those that are closed by `expiry`, what has expired in the output.
    """

    table: DerivedTable
    catalogs: Mapping[str, Catalog]
    settings: Mapping[str, Any]
    file_minutes: int
    before: int = LAST_US
    since: int = FIRST_US
    expiry: Expiry = NOTHING

    @cached_property
    def closed(self) -> int:
        """The microsecond before which spans stay as they are."""
        return find_closed(self.table, self.expiry, self.settings)

    def is_closed(self, file: str) -> bool:
        """Whether a file of the table, by its name below the output, is of a closed span."""
        found = _IN_DAY.search(file)
        if self.closed == FIRST_US or found is None:
            return False
        day, hour, minute = found[1], found[2] or "00", found[3] or "00"
        start = datetime.fromisoformat(f"{day}T{hour}:{minute}+00:00")
        return (start - _EPOCH) // timedelta(microseconds=1) < self.closed

    def list_units(self) -> list[DeriveUnit]:
        """The units in the order of time; none has no rows to be about."""
        periods = (each for each in self._list_periods() if each.start >= self.closed)
        units = (self._make_unit(period) for period in periods if period.end > self.since)
        return [unit for unit in units if unit is not None]

    def find_cutoff(self, period: Period) -> int:
        """The microsecond before which the rows of a span are effective that are derived.

        It depends on `before` alone, and never decreases with it.
        """
        if self.table.clock is not Clock.RECORDED or self.before == LAST_US:
            return self.before
        return min(self.before, max(self.before // LATE_STEP_US * LATE_STEP_US, period.end + FRESH_US))

    def select(self, period: Period) -> Choices:
        """What may be read for a span; nothing if there is nothing that its rows could be about."""
        select = {
            Clock.RECORDED: self._select_recorded,
            Clock.RECEIVED: self._select_received,
            Clock.EFFECTIVE: self._select_effective,
        }
        return select[self.table.clock](period)

    def _list_periods(self) -> Iterator[Period]:
        if self.table.clock is Clock.RECORDED:
            spans = {file.period for file in self.catalogs[REPORTS.name].list}
            yield from (Period(*bounds) for bounds in sorted(spans))
            return
        width = HOUR_US if self._is_received() else self.file_minutes * 60 * SECOND_US
        slots = {
            slot
            for stored in self._list_own()
            for slot in np.unique(self._number_grains(stored) * GRAIN // width).tolist()
        }
        yield from (Period(slot * width, (slot + 1) * width) for slot in sorted(slots))
        if self._is_received():
            yield UNTIMED

    def _list_own(self) -> list[str]:
        """The stored tables whose rows those of the derived table are about."""
        declared = {each.name for each in self.table.inputs}
        if self._is_received():
            return [REPORTS.name, *sorted(declared & set(RECEIVED))]
        return sorted(declared & set(_RECORDS))

    def _number_grains(self, stored: str) -> Ints:
        """The grains of a stored table that put rows into a span."""
        catalog = self.catalogs[stored]
        known = catalog.numbers > NO_GRAIN
        return catalog.numbers[known & catalog.received] if self._is_received() else catalog.numbers[known]

    def _is_received(self) -> bool:
        return self.table.clock is Clock.RECEIVED

    def _make_unit(self, period: Period) -> DeriveUnit | None:
        sums = {name: self.catalogs[stored].add_up(at) for name, (stored, at) in self.select(period).items()}
        rows = sum(int(words[2]) for name, words in sums.items() if name.startswith("own "))
        if not rows or not all(sums[name][2] for name in self._list_needed()):
            return None
        digest = digest_inputs(self.table.table.name, self.table.version, self._choose_settings(), sums)
        return DeriveUnit(period, self.find_cutoff(period), digest, rows, self._name_files(period))

    def _list_needed(self) -> list[str]:
        """Inputs without which there are no rows."""
        return ["inconsistencies"] if self.table.clock is Clock.EFFECTIVE else []

    def _choose_settings(self) -> dict[str, Any]:
        """The settings that the SQL names or the kernel uses, and those that bound its inputs."""
        named = {*re.findall(r"\w+", self.table.sql), "context_wait_seconds"}
        named.update(self.table.kernel.settings if self.table.kernel else ())
        named |= {each.before for each in self.table.inputs if isinstance(each.before, str)}
        return {name: value for name, value in self.settings.items() if name in named}

    def _name_files(self, period: Period) -> tuple[str, ...]:
        if period == UNTIMED:
            return ()
        start = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=period.start)
        place, name = format_hour_folder(start), self.table.table.name
        if self._is_received():
            windows = [format_window_folder(size) for size in ("1m", "1h")]
            return tuple(f"{name}/{window}/{place}/{start:%H%M}.parquet" for window in windows)
        return (f"{name}/{place}/{start:%H%M}.parquet",)

    def _select_recorded(self, period: Period) -> Choices:
        reports = self.catalogs[REPORTS.name]
        own = reports.find(period, _grain_before(self.find_cutoff(period)))
        if not len(own):
            return {}
        wait = self.settings["context_wait_seconds"] * SECOND_US
        latest = (int(reports.numbers[own].max()) + 1) * GRAIN - 1 + wait
        return {"own reports": Choice(REPORTS.name, own), **self._select_context(period, latest // GRAIN)}

    def _select_received(self, period: Period) -> Choices:
        choices: Choices = {}
        for stored in self._list_own():
            catalog, near = self.catalogs[stored], self._find_near(stored, period)
            numbers, received = catalog.numbers[near], catalog.received[near]
            if period == UNTIMED:
                mask = ~received & (numbers <= _grain_before(self.before))
            else:
                until = _grain_before(min(self.before, period.end))
                mask = received & (numbers >= period.start // GRAIN) & (numbers <= until)
            choices[f"own {stored}"] = Choice(stored, near[mask])
        reports = self.catalogs[REPORTS.name]
        of = np.unique(reports.files[choices[f"own {REPORTS.name}"].places])
        return choices | self._select_derived({reports.list[number].period for number in of.tolist()})

    def _find_near(self, stored: str, period: Period) -> Ints:
        """The grains in files that can have rows that were received in a span."""
        near = self._bound(period).find_near("reports" if stored == REPORTS.name else stored)
        return self.catalogs[stored].find(near)

    def _select_effective(self, period: Period) -> Choices:
        until = _grain_before(min(self.before, period.end))
        around = self._bound(period).find("inconsistencies")
        choices = self._select_context(period, until)
        for name in ("inconsistencies", REPORTS.name):
            choices[name] = Choice(name, self.catalogs[name].find(around, until))
        for name in self._list_own():
            numbers = self.catalogs[name].numbers
            own = np.flatnonzero((numbers >= period.start // GRAIN) & (numbers <= until))
            choices[f"own {name}"] = Choice(name, own)
        return choices

    def _select_context(self, period: Period, until: int) -> Choices:
        """The inputs around reports of a span, as far as they are effective by a grain."""
        bounds, choices = self._bound(period), Choices()
        for each in self.table.inputs:
            if each.name == "first_records":
                # If rows of a table have expired, its first one came before all that is derived.
                for stored in [name for name in SOURCES[each.name] if name not in self.expiry.before]:
                    numbers = self.catalogs[stored].numbers
                    choices[f"first {stored}"] = Choice(
                        stored, np.flatnonzero(numbers == min(numbers, default=0))
                    )
            elif each.name in {*SOURCES, *_RECORDS, QUARANTINED.name}:
                stored = SOURCES.get(each.name, (each.name,))[0]
                last = bounds.find_settled() // GRAIN if each.name == "past_windows" else until
                places = self.catalogs[stored].find(bounds.find(each.name), last)
                choices[each.name] = Choice(stored, places)
        return choices | self._select_derived({period})

    def _select_derived(self, periods: set[Period]) -> Choices:
        """Other derived tables: of the reports in some spans, or of the past."""
        choices: Choices = {}
        for each in list_derived_inputs(self.table):
            catalog = self.catalogs[each.name]
            spans = periods
            if each.find_before(self.settings):
                spans = {self._bound(period).find(each.name) for period in periods}
            found = [catalog.find(span) for span in spans]
            places = np.unique(np.concatenate([np.zeros(0, np.int64), *found]))
            choices[each.name] = Choice(each.name, places)
        return choices

    def _bound(self, period: Period) -> Bounds:
        return Bounds(self.table, self.settings, period)


def _grain_before(moment: int) -> int:
    """The last grain that ends by a moment."""
    return moment // GRAIN - 1
