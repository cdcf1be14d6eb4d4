import re
from collections.abc import Iterator

import pyarrow as pa
import pytest

from pipelines.settings import Settings
from schemas.kinds import KINDS
from schemas.tables import FLEET, TABLES, TRIMMED
from tests.docs.column_texts import PAGE, list_cells, read_section
from transforms.derived.registry import DERIVED
from transforms.derived.rules import RULES

DESCRIBED = {**TABLES, **{name: each.table for name, each in DERIVED.items()}}
"""The tables whose columns the page lists."""


def columns(fields: pa.Schema | pa.StructType, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and type, as the page spells them, of each column and of each field of a struct after it."""
    for field in fields:
        name, struct = prefix + field.name, pa.types.is_struct(field.type)
        yield name, "struct" if struct else spelled(field.type)
        if struct:
            yield from columns(field.type, f"{name}.")


def spelled(type_: pa.DataType) -> str:
    return str(type_).replace("double", "float64").replace("tz=UTC", "UTC").replace("item: ", "")


@pytest.mark.parametrize("table", DESCRIBED)
def test_the_page_names_every_column_in_order_with_its_type(table):
    assert [tuple(cells[:2]) for cells in list_cells(table)] == list(columns(DESCRIBED[table].schema))


@pytest.mark.parametrize("table", DESCRIBED)
def test_every_column_has_a_meaning_and_says_when_it_is_null(table):
    rows = list_cells(table)
    assert [cells for cells in rows if len(cells) != 6 or not cells[2] or not cells[5]] == []


@pytest.mark.parametrize("table", [*DESCRIBED.values(), TRIMMED, FLEET], ids=lambda table: table.name)
def test_the_page_names_the_key_of_each_table(table):
    key = ", ".join(f"`{name}`" for name in table.key)
    assert f"key {key}" in read_section(table.name).replace("\n", " ").replace("Key", "key")


def test_links_lead_to_headings_of_the_page():
    headings = {
        line.lstrip("# ").lower().replace(" ", "-") for line in PAGE.splitlines() if line.startswith("#")
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= headings


def test_settings_and_their_defaults_are_those_of_the_program():
    page = PAGE.replace(read_section("features"), "")
    named = dict(re.findall(r"`(\w+)` \(([\d.]+)\)", page))
    assert {name: float(value) for name, value in named.items()} == {
        name: getattr(Settings(), name) for name in named
    }
    underscored = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", page))
    known = set(Settings.model_fields) | {rule.name for rule in RULES}
    known |= {name for table in DESCRIBED.values() for name in table.schema.names}
    assert underscored - known - set(KINDS) - {"duplicate_key", "not_object"} == set()


def test_the_page_names_every_rule_with_its_severity_and_evidence():
    rows = read_section("inconsistencies").split("### Rules")[1].split("\n\n")[2].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [(name.strip("`"), severity) for name, severity, *_ in cells] == [
        (rule.name, rule.severity) for rule in RULES
    ]
    for rule, (*_, evidence) in zip(RULES, cells):
        assert evidence == "see there" or all(name in evidence for name in rule.evidence)


def test_the_page_names_the_kind_of_record_that_resolves_each_rule():
    lines = (
        read_section("resolutions")
        .split("\n| rule | kind | condition |\n|---|---|---|\n")[1]
        .split("\n\n")[0]
    )
    rows = [line.strip("|").split("|") for line in lines.splitlines()]
    named = {name: kind.strip() for names, kind, _ in rows for name in re.findall(r"`(\w+)`", names)}
    assert named == {rule.name: rule.resolution.kind for rule in RULES if rule.resolution}


def test_the_page_names_every_kind_of_message_in_order():
    rows = read_section("Kinds").split("|---|---|---|---|\n")[1].split("\n\n")[0].splitlines()
    named = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    checked = [kind.time if kind.is_recent else "nothing" for kind in KINDS.values()]
    assert [(schema, table, stream.split(",")[0], by) for schema, table, stream, by in named] == [
        (kind.schema, kind.table.name, kind.stream, by) for kind, by in zip(KINDS.values(), checked)
    ]
