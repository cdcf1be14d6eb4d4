"""What of a query a subject may use and see."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pipelines.queries.query import Query
from pipelines.queries.run import Answer
from pipelines.service.guards import Rights

_NAME = re.compile(r"[a-z]\w*")


def check_use(query: Query, asked: Mapping[str, Any], rights: Rights) -> None:
    """Check that the subject may use what the query computes with, filters and sorts by.

    Raises:
        Forbidden: it may not.
    """
    texts = [query.sql, *(each.column for each in query.order)]
    texts += [each.condition for each in query.parameters if asked[each.name] is not None]
    used = {name for text in texts for name in _NAME.findall(text)}
    for source in query.inputs:
        rights.refuse_use(source.table.name, [name for name in source.table.schema.names if name in used])


def withhold(answer: Answer, rights: Rights) -> Answer:
    """The answer without the columns that the subject may not see; it lists their names."""
    withheld = tuple(_list_withheld(answer.query, rights))
    kept = [name for name in answer.rows.column_names if name not in withheld]
    return replace(answer, rows=answer.rows.select(kept), withheld=withheld)


def _list_withheld(query: Query, rights: Rights) -> Iterator[str]:
    for name in query.columns.names:
        tables = [each.table.name for each in query.inputs if name in each.table.schema.names]
        if any(rights.split(table, [name])[1] for table in tables):
            yield name
