"""Which files of a derived table are closed, because rows that they were made of have expired.

A closed file stays as it is until it expires itself: derived again, it would have other rows.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any

from schemas.partitioning import format_window_folder
from schemas.readers.formats import FIRST_US
from schemas.tables import AGGREGATIONS
from transforms.core.expiry import Expiry
from transforms.derived.derived_table import Clock, DerivedTable, Input
from transforms.derived.inputs import SOURCES

_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


def find_closed(table: DerivedTable, expiry: Expiry, settings: Mapping[str, Any]) -> int:
    """The microsecond before which the spans of a derived table are closed; FIRST_US if none is.

    `settings`: by name, those that bound the inputs.
    """
    own = Input(table.table.name)
    moments = [
        _find_midnight(expiry, folder) + _find_reach(table, each, settings)
        for each in (Input("reports"), own, *table.inputs)
        for folder in _list_folders(each)
        if folder in expiry.before
    ]
    return max(((moment - _EPOCH) // _MICROSECOND for moment in moments), default=FIRST_US)


def _list_folders(each: Input) -> list[str]:
    """The folders of an input, as the ledger names them; none of `first_records`, which is about all time."""
    if each.name == "first_records":
        return []
    names = SOURCES.get(each.name, (each.name,))
    sizes = [format_window_folder(size) for size in ("1m", "1h")]
    folders = [name for name in names if name != AGGREGATIONS.name]
    folders += [f"{name}/{size}" for name in names for size in sizes]
    return [folder for folder in folders if not folder.startswith(f"{AGGREGATIONS.name}/{sizes[0]}")]


def _find_midnight(expiry: Expiry, folder: str) -> datetime:
    return datetime.combine(expiry.before[folder], time(), UTC)


def _find_reach(table: DerivedTable, each: Input, settings: Mapping[str, Any]) -> timedelta:
    """How long before a span rows of an input are read, at most."""
    reach = each.find_before(settings)
    if table.clock is Clock.EFFECTIVE and each.name != "inconsistencies":
        reach += max(other.find_before(settings) for other in table.inputs if other.name == "inconsistencies")
    if table.clock is Clock.RECEIVED:
        reach += timedelta(seconds=settings["stale_seconds"])
    return reach
