"""Cursors: the place in a result after which the next page begins.

A cursor holds the values of the order's columns in the last row of a page (a keyset), so rows that arrive
between two pages move nothing. It belongs to one query with one set of parameters. It is a text for URLs
whose content may change: programs must not read it.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from pipelines.failures import WrongUse
from pipelines.queries.query import Order, Query

_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)
_TYPES: dict[pa.DataType, type] = {pa.string(): str, pa.float64(): float, pa.int64(): int}


def format_cursor(query: Query, asked: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """The cursor after the row `last`, for what was asked: the parameters and the span, by name."""
    values = [_to_json(last[each.column]) for each in query.order]
    text = json.dumps([query.name, _digest(asked), values], separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parse_cursor(query: Query, asked: Mapping[str, Any], cursor: str) -> list[Any]:
    """The values of the order's columns in the row before the page.

    Raises:
        WrongUse: it is not a cursor, or belongs to another query or other parameters.
    """
    try:
        name, digest, values = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        types = [query.columns.field(each.column).type for each in query.order]
        parsed = [_from_json(value, type_) for value, type_ in zip(values, types, strict=True)]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise WrongUse("this is not a cursor of this query", "copy it whole from the page before") from error
    if (name, digest) != (query.name, _digest(asked)):
        problem = "the cursor belongs to another query, to other parameters or to another span"
        raise WrongUse(problem, "ask as for the page before; only --limit and --format may differ")
    return parsed


def write_condition(order: Sequence[Order], values: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """SQL that is true for the rows after those values, and what it binds."""
    names = [f"after_{number}" for number in range(len(values))]
    equal, choices = "", []
    for each, value, name in zip(order, values, names):
        if value is not None:
            sign = "<" if each.descending else ">"
            choices.append(f'({equal}("{each.column}" {sign} ${name} OR "{each.column}" IS NULL))')
        equal += f'"{each.column}" IS NOT DISTINCT FROM ${name} AND '
    return f"({' OR '.join(choices) or 'false'})", dict(zip(names, values))


def _digest(asked: Mapping[str, Any]) -> str:
    text = json.dumps({name: _to_json(value) for name, value in asked.items()}, sort_keys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _to_json(value: Any) -> Any:
    return (value - _EPOCH) // _MICROSECOND if isinstance(value, datetime) else value


def _from_json(value: Any, type_: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_timestamp(type_):
        # A microsecond later it has to be a time too: there the span of a page may end.
        return _EPOCH + (value + 1) * _MICROSECOND - _MICROSECOND
    if not isinstance(value, _TYPES[type_]):
        raise TypeError(f"{value!r} is not a {type_}")
    if isinstance(value, str):
        value.encode()  # an error if it is half a character
    return value
