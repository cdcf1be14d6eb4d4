"""From which day on two outputs are compared, where rows of one of them have expired.

The first day that is kept is left out too: of its beginning, what an output takes depends on when a late
message came. Windows are compared as long as both outputs have their reports, derived rows as long as both
have what they are made of.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pipelines.jobs.derive_state import read_state
from pipelines.settings import Settings
from pipelines.verify.expired import read_expiry
from schemas.partitioning import UNTIMED_FOLDER, format_window_folder
from schemas.tables import AGGREGATIONS, GRANULARITIES, REPORTS, TABLES, Table
from transforms.core.expiry import Expiry

_DAY_OF = re.compile(r"^(?:(window_size=[^/]+)/)?date=(\d{4}-\d\d-\d\d)/")
_NEXT = timedelta(days=1)


class ComparedDays:
    """The first day of each folder that is compared; folders of which nothing has expired have none."""

    def __init__(self, outputs: Sequence[Path]) -> None:
        self._outputs, self._found = outputs, [read_expiry(output) for output in outputs]

    def find(self, table: Table) -> dict[str, date]:
        """The first day that is compared, by the folders of a table."""
        if not any(self._found):
            return {}
        found: dict[str, date] = {}
        for output, expiry in zip(self._outputs, self._found):
            for folder in _list_folders(table):
                for day in _list_ends(table, folder, expiry, output):
                    found[folder] = max(found.get(folder, day), day)
        return {folder: day + _NEXT for folder, day in found.items()}

    def choose(self, table: Table, names: Iterable[str]) -> list[str]:
        """The names of spans or files, below the folder of a table, that are compared."""
        first, leaves_untimed = self.find(table), self.leaves_untimed(table)
        return [
            name
            for name in names
            if not (leaves_untimed and f"{UNTIMED_FOLDER}/" in name) and _is_compared(table, first, name)
        ]

    def describe(self, table: Table) -> dict[str, str]:
        """The first day that is compared, by the folders of a table; empty of rows that are not compared."""
        found = {folder: day.isoformat() for folder, day in self.find(table).items()}
        if self.leaves_untimed(table):
            found[f"{table.name}/{UNTIMED_FOLDER}"] = ""
        return found

    def leaves_untimed(self, table: Table) -> bool:
        """Whether rows without a time are not compared: some, or what they are made of, have expired."""
        expired = frozenset[str]().union(*(each.untimed for each in self._found))
        if not expired or table.name in TABLES:
            return table.name in expired
        from transforms.derived.registry import DERIVED

        return not expired.isdisjoint(each.name for each in DERIVED[table.name].inputs)


def _list_folders(table: Table) -> list[str]:
    if "granularity" not in table.schema.names:
        return [table.name]
    return [f"{table.name}/{format_window_folder(size)}" for size in GRANULARITIES]


def _list_ends(table: Table, folder: str, expiry: Expiry, output: Path) -> list[date]:
    """The days before which rows of a folder, or what they are made of, have expired in an output."""
    if table.name not in TABLES:
        return _list_closed(table, expiry, output)
    folders = (folder, REPORTS.name) if table is AGGREGATIONS else (folder,)
    return [expiry.before[name] for name in folders if name in expiry.before]


def _list_closed(table: Table, expiry: Expiry, output: Path) -> list[date]:
    from transforms.derived.closed import find_closed
    from transforms.derived.registry import DERIVED

    state = read_state(output)
    settings = Settings.model_construct().derived_settings() | (state.get("settings", {}) if state else {})
    closed = find_closed(DERIVED[table.name], expiry, settings)
    return [datetime.fromtimestamp(closed / 1e6, UTC).date()] if closed > 0 else []


def _is_compared(table: Table, first: dict[str, date], name: str) -> bool:
    found = _DAY_OF.match(name)
    if found is None:
        return True
    folder = f"{table.name}/{found[1]}" if found[1] else table.name
    return folder not in first or found[2] >= first[folder].isoformat()
