"""Retention: how long each folder is kept, and which settings of it are refused."""

from datetime import UTC, date, datetime, timedelta

import pytest

from pipelines.retention import find_expiry, list_retention
from pipelines.settings import Settings, SettingsError, load
from schemas.tables import AGENTS, TABLES, TRIMMED

NOW = datetime(2026, 11, 27, 13, tzinfo=UTC)


def test_by_default_reports_are_kept_a_year_and_windows_by_their_length() -> None:
    kept = {name: each.days for name, each in list_retention(Settings()).items()}
    windows = {size: kept[f"kpi_aggregations/window_size={size}"] for size in ("5s", "1m", "1h")}
    assert windows == {"5s": 30, "1m": 90, "1h": 365}
    assert {kept[name] for name in ("kpi_reports", "tasks", "quarantine", "duplicates", "features")} == {365}


def test_every_table_expires_but_agents_and_the_record_of_what_was_lost() -> None:
    tables = {name.partition("/")[0] for name in list_retention(Settings())}
    assert set(TABLES) - tables == {AGENTS.name}
    assert TRIMMED.name not in tables


def test_a_day_expires_when_all_of_it_is_older_than_its_retention() -> None:
    found = find_expiry(Settings(keep_windows_5s_days=30), NOW)
    assert found["kpi_aggregations/window_size=5s"] == date(2026, 10, 28)
    assert NOW - datetime(2026, 10, 28, tzinfo=UTC) > timedelta(days=30)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"keep_windows_1h_days": 7}, "keep_windows_1h_days = 7 .* experience_days.* 8 or more"),
        (
            {"keep_records_days": 7, "context_hours": 168},
            "keep_records_days = 7 .* context_hours.* 8 ",
        ),
        ({"keep_reports_days": 1}, "keep_reports_days = 1 .* 2 or more"),
        ({"keep_windows_5s_days": 2, "stale_seconds": 200_000}, "keep_windows_5s_days = 2 .* stale_seconds"),
    ],
)
def test_rows_may_not_expire_before_all_is_written_that_needs_them(given: dict[str, int], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load({name: str(value) for name, value in given.items()})


def test_the_shortest_retention_that_is_named_as_the_fix_is_accepted() -> None:
    load({"keep_windows_1h_days": "8", "keep_reports_days": "2", "keep_windows_5s_days": "2"})
