"""Each column of each table has a class, and those that producers write freely are restricted."""

import pytest

from schemas.access import CLASSES, HASHES, AccessClass, find_class
from schemas.marks import MARKS
from schemas.tables import FLEET, TABLES, TRIMMED, Table
from transforms.derived.registry import DERIVED

ALL: dict[str, Table] = {
    **TABLES,
    **{table.name: table for table in (TRIMMED, FLEET, MARKS)},
    **{name: each.table for name, each in DERIVED.items()},
}
RESTRICTED = {
    "kpi_reports": {"custom_metrics", "error_details", "extra"},
    "results": {"output", "error", "extra"},
    "quarantine": {"payload", "payload_sha256", "field", "message"},
    "tasks": {"payload", "metadata", "extra"},
    "agents": {"stats", "extra"},
    "system_health": {"extra"},
    "inconsistencies": {"evidence"},
    "resolutions": {"evidence"},
    "marks": {"note"},
}


@pytest.mark.parametrize("table", ALL.values(), ids=ALL)
def test_each_column_has_a_class_and_only_columns_have_one(table: Table) -> None:
    assert set(CLASSES[table.name]) == set(table.schema.names)


@pytest.mark.parametrize("name", ALL)
def test_what_producers_write_freely_is_restricted(name: str) -> None:
    found = {column for column, level in CLASSES[name].items() if level == AccessClass.RESTRICTED}
    assert found == RESTRICTED.get(name, set())


def test_only_windows_of_the_fleet_are_public() -> None:
    public = {name for name, columns in CLASSES.items() if AccessClass.PUBLIC in columns.values()}
    assert public == {"kpi_fleet"}


def test_parameters_of_models_are_confidential() -> None:
    assert find_class("task_sums", "sums") == AccessClass.CONFIDENTIAL
    assert find_class("features", "agent_fitness_weight") == AccessClass.CONFIDENTIAL
    assert set(CLASSES["recommendations"].values()) == {AccessClass.CONFIDENTIAL}


def test_a_column_without_a_class_is_restricted() -> None:
    assert find_class("kpi_reports", "new_column") == AccessClass.RESTRICTED
    assert find_class("new_table", "agent_id") == AccessClass.RESTRICTED


def test_columns_that_hash_what_is_restricted_are_internal() -> None:
    levels = {columns[name] for columns in CLASSES.values() for name in HASHES & set(columns)}
    assert levels == {AccessClass.INTERNAL}
