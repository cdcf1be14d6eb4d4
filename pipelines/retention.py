"""Retention: how long the rows of each folder are kept.

The names of folders are those of the maintenance ledger. A folder that is not named here does not expire:
agents, because a report needs the newest version of its agent, however old; and `trimmed`, which proves why
messages are missing.
"""

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from schemas.partitioning import format_window_folder
from schemas.tables import (
    AGGREGATIONS,
    DUPLICATES,
    FLEET,
    GRANULARITIES,
    QUARANTINED,
    REPORTS,
    RESULTS,
    SYSTEM_HEALTH,
    TASKS,
    Table,
)

if TYPE_CHECKING:
    from pipelines.settings import Settings


def find_expiry(settings: "Settings", now: datetime) -> dict[str, date]:
    """The first day that is kept of each folder that can expire, at a moment (aware)."""
    return {name: (now - kept).date() for name, kept in list_retention(settings).items()}


def list_retention(settings: "Settings") -> dict[str, timedelta]:
    """How long the rows of each folder that can expire are kept."""
    from transforms.derived.registry import DERIVED

    groups = (
        (settings.keep_reports_days, (REPORTS, DUPLICATES, QUARANTINED)),
        (settings.keep_records_days, (TASKS, RESULTS, SYSTEM_HEALTH)),
        (settings.keep_derived_days, tuple(each.table for each in DERIVED.values())),
    )
    days = {name: kept for kept, tables in groups for table in tables for name in _list_folders(table)}
    for granularity, kept in _list_windows(settings).items():
        for table in (AGGREGATIONS, FLEET):
            days[f"{table.name}/{format_window_folder(granularity)}"] = kept
    return {name: timedelta(days=kept) for name, kept in days.items()}


def _list_windows(settings: "Settings") -> dict[str, int]:
    return {name: getattr(settings, f"keep_windows_{name}_days") for name in GRANULARITIES}


def _list_folders(table: Table) -> list[str]:
    """The folders of a table whose names the ledger has: one, or one for each size of its windows."""
    if "granularity" not in table.schema.names:
        return [table.name]
    return [f"{table.name}/{format_window_folder(size)}" for size in GRANULARITIES]
