"""What a named query is: SQL over tables of an output, its parameters, its columns and its order.

The SQL reads views, one for each `QueryInput`: the current rows of a table, already within the span of time
that was asked for. Values reach it as bound parameters (`$agent_id`), never as text. `pipelines.queries.run`
adds the conditions of the parameters that were given, the order, the place of the cursor and the limit.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from enum import Enum
from math import isfinite

import pyarrow as pa

from pipelines.failures import WrongUse
from schemas.tables import Table

LONGEST_TEXT = 1000
"""Most characters of a parameter's value."""
Value = str | int | float | datetime
_COMPARISON = re.compile(r'"?(\w+)"? (=|<=|>=|>|<) \$(\w+)')


class ParameterKind(Enum):
    """The type of a parameter, by the name that help texts use."""

    TEXT = "text"
    INTEGER = "whole number"
    NUMBER = "number"
    TIME = "time (RFC 3339)"


@dataclass(frozen=True)
class Parameter:
    """A value that a query takes.

    `condition`: SQL that the rows of the result must meet if the parameter has a value. `choices`: the texts
    that it may be; any if empty. A parameter that is neither required nor has a default may be left out.
    """

    name: str
    summary: str
    condition: str = ""
    kind: ParameterKind = ParameterKind.TEXT
    choices: tuple[str, ...] = ()
    default: Value | None = None
    required: bool = False

    @property
    def comparison(self) -> tuple[str, str] | None:
        """The column of the result that the condition compares with the value, and the sign."""
        found = _COMPARISON.fullmatch(self.condition)
        return (found[1], found[2]) if found and found[3] == self.name else None

    def parse(self, text: str) -> Value:
        """The value that a text means.

        Raises:
            WrongUse: it is not of the parameter's kind, not one of its choices, or too long.
        """
        if len(text) > LONGEST_TEXT:
            raise WrongUse(f"{self.name} has {len(text):,} characters", f"give at most {LONGEST_TEXT:,}")
        if self.choices and text not in self.choices:
            raise WrongUse(f"{self.name} cannot be {text}", f"give one of {', '.join(self.choices)}")
        try:
            return _parse(text, self.kind)
        except ValueError as error:
            raise WrongUse(f"{self.name} {text} is not a {self.kind.value}") from error


@dataclass(frozen=True)
class QueryInput:
    """A view of the SQL: the rows of a table in a span of time.

    `window`: the parameter that names the size of the windows, for a table of windows. `span`: the two
    parameters of kind TIME that bound it in place of the span of the query; without values that one counts.
    """

    name: str
    table: Table
    window: str = ""
    span: tuple[str, str] | None = None


@dataclass(frozen=True)
class Lookup:
    """A column that the rows of a page get from another table; null where it has nothing on them.

    `input`: the view, of all times. `key`: the column by which rows find theirs. `sql`: from the view, one
    row for each key, with the key and the column.
    """

    column: str
    input: QueryInput
    key: str
    sql: str

    def join(self, rows: str) -> str:
        """SQL of rows with the column."""
        return f"SELECT * FROM ({rows}) LEFT JOIN ({self.sql}) USING ({self.key})"


@dataclass(frozen=True)
class QueryWindows:
    """How the rows of a query are made of windows: one for each agent, or for each hour and agent.

    `input`: the view of windows. `names`: its columns that are read, all of them to merge windows.
    `of_reports`: SQL that makes such windows of the first input of the query. `columns`: each of the
    result, and the column of windows that it is. `by_hour`: there is a window for each hour.
    """

    input: QueryInput
    names: tuple[str, ...]
    of_reports: str
    columns: tuple[tuple[str, str], ...]
    by_hour: bool = False

    @property
    def sql(self) -> str:
        """SQL of the rows, from the view of windows."""
        return f"{self._selection}\nFROM {self.input.name}"

    @property
    def whole(self) -> str:
        """SQL of the rows, from reports."""
        return f"{self._selection}\nFROM (\n{self.of_reports}\n)"

    @property
    def _selection(self) -> str:
        return "SELECT " + ", ".join(f"{source} AS {name}" for name, source in self.columns)


@dataclass(frozen=True)
class Order:
    """A column by which a result is sorted. Nulls come last, whatever the direction."""

    column: str
    descending: bool = False


@dataclass(frozen=True, eq=False)
class Query:
    """A named query. It is equal to itself only: each request looks up what is known of it.

    `columns`: those of the result, in order. `order`: no two rows of a result are equal in all its columns,
    so that they make the key of a cursor. `lookup`: gives the last column, which `sql` does not have.
    `windows`: how it is made of windows that have the rows of the first input, in place of `sql`.
    """

    name: str
    summary: str
    inputs: tuple[QueryInput, ...]
    sql: str
    columns: pa.Schema
    order: tuple[Order, ...]
    parameters: tuple[Parameter, ...] = ()
    lookup: Lookup | None = None
    windows: QueryWindows | None = None

    @property
    def is_plain(self) -> bool:
        """Whether its rows are those of its only input."""
        return len(self.inputs) == 1 and self.sql == f"SELECT * FROM {self.inputs[0].name}"

    def find_lookup(self, columns: Collection[str]) -> Lookup | None:
        """The lookup that makes one of these columns."""
        return self.lookup if self.lookup and self.lookup.column in columns else None

    def parse(self, given: Mapping[str, str]) -> dict[str, Value | None]:
        """The value of each parameter, None where there is none.

        Raises:
            WrongUse: a parameter is unknown or missing, or a value is wrong.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                raise WrongUse(f"{self.name} has no parameter {name[:50]}", name_nearest(name, list(known)))
        if missing := [each.name for each in self.parameters if each.required and each.name not in given]:
            example = " ".join(f"{name}=VALUE" for name in missing)
            raise WrongUse(f"{self.name} needs {', '.join(missing)}", f"add {example}")
        return {
            name: parameter.parse(given[name]) if name in given else parameter.default
            for name, parameter in known.items()
        }


def list_sources(query: Query) -> list[str]:
    """Each SQL that makes the rows of a query."""
    return [query.sql, *([query.windows.sql] if query.windows else [])]


def list_inputs(query: Query) -> list[QueryInput]:
    """All views of a query."""
    others = (query.windows and query.windows.input, query.lookup and query.lookup.input)
    return [*query.inputs, *(each for each in others if each)]


def name_nearest(name: str, known: list[str]) -> str:
    """Advice that names what is spelt like `name`, or all there is."""
    near = get_close_matches(name[:50], known, n=3, cutoff=0.5)
    return f"give {' or '.join(near)}" if near else f"give one of {', '.join(known)}" if known else ""


def _parse(text: str, kind: ParameterKind) -> Value:
    if kind is ParameterKind.INTEGER:
        number = int(text)
        if abs(number) >= 2**63:
            raise ValueError("not an int64")
        return number
    if kind is ParameterKind.NUMBER:
        value = float(text)
        if not isfinite(value):
            raise ValueError("not finite")
        return value
    if kind is ParameterKind.TIME:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    text.encode()  # an error if it is not Unicode
    return text
