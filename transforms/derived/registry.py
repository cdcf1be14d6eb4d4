"""All derived tables, each after those that it reads. One more: its module, a line here, docs/columns.md.

Beside a stream a pass makes them one after the other: what people wait for comes before what takes long.
"""

from schemas.tables import Table, find_table
from transforms.derived import (
    data_quality,
    features,
    inconsistencies,
    outcome_sums,
    recommendations,
    resolutions,
    task_sums,
    trends,
)
from transforms.derived.derived_table import DerivedTable

TABLES: tuple[DerivedTable, ...] = (
    inconsistencies.TABLE,
    resolutions.TABLE,
    data_quality.TABLE,
    outcome_sums.TABLE,
    trends.TABLE,
    recommendations.TABLE,
    task_sums.TABLE,
    features.TABLE,
)
DERIVED = {each.table.name: each for each in TABLES}


def find_stored_table(name: str) -> Table:
    """The table of this name, which messages or other tables are stored in."""
    if name in DERIVED:
        return DERIVED[name].table
    return find_table(name)
