"""What of a query a subject may use and see."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.queries.query import Query
from pipelines.service.access.lineage import Columns, Lineage, trace
from pipelines.service.access.policy import Rights
from pipelines.service.access.subject import Forbidden
from schemas.access import HASHES


@dataclass(frozen=True)
class QueryRights:
    """What a subject gets of the result of a query.

    `columns`: the ones that it gets, in order; `masked`: of these, the ones that it gets as an HMAC;
    `withheld`: the others. `row_conditions`: SQL that rows of a table must meet to be read, by table.
    """

    columns: tuple[str, ...]
    masked: frozenset[str]
    withheld: tuple[str, ...]
    row_conditions: Mapping[str, str]

    def mask(self, rows: pa.Table, rights: Rights) -> pa.Table:
        """The rows that it gets: without what is withheld, and with HMACs."""
        rows = rows.select([name for name in rows.column_names if name in self.columns])
        for name in self.masked & set(rows.column_names):
            at = rows.schema.get_field_index(name)
            rows = rows.set_column(at, name, rights.masks.mask_column(rows.column(name)))
        return rows


def choose_columns(query: Query, given: Iterable[str], rights: Rights) -> QueryRights:
    """What a subject gets of a query. `given`: the parameters that it gave a value.

    A column is withheld if one of the stored columns that it is made of is; the query is refused if one
    that decides which rows there are is.

    Raises:
        Forbidden: it may see no column, or not what the query, or a parameter, compares.
    """
    for source in query.inputs:
        rights.refuse_table(source.table.name)
    lineage = trace(query)
    _refuse(lineage.rows, rights)
    for name in given:
        _refuse(lineage.conditions.get(name, frozenset()) - lineage.rows, rights)
    masked = frozenset(name for name in query.columns.names if _is_masked(name, lineage, rights))
    seen = tuple(
        name for name in query.columns.names if name in masked or _is_seen(lineage.columns[name], rights)
    )
    if not seen:
        raise Forbidden(f"{rights.subject.name} has no right to any column of {query.name}")
    if unsorted := [each.column for each in query.order if each.column not in seen]:
        raise Forbidden(f"{query.name} is sorted by {', '.join(unsorted)}, to which there is no right")
    tables = {source.table.name: rights.limit_rows(source.table.name) for source in query.inputs}
    withheld = tuple(name for name in query.columns.names if name not in seen)
    return QueryRights(seen, masked, withheld, {table: text for table, text in tables.items() if text})


def list_given(query: Query, asked: Mapping[str, Any]) -> list[str]:
    """The parameters that have a value."""
    return [each.name for each in query.parameters if asked[each.name] is not None]


def _refuse(columns: Columns, rights: Rights) -> None:
    for table, name in sorted(columns):
        rights.refuse_use(table, [name])


def _is_seen(columns: Columns, rights: Rights) -> bool:
    return not any(rights.split(table, [name])[1] for table, name in columns)


def _is_masked(name: str, lineage: Lineage, rights: Rights) -> bool:
    """Whether a column of the result is a hash as it is stored, and the subject gets its HMAC."""
    own = lineage.columns[name] - lineage.rows
    return (
        name in HASHES
        and {column for _, column in own} == {name}
        and all(rights.may_see(*each) for each in own)
        and any(rights.is_masked(*each) for each in own)
    )
