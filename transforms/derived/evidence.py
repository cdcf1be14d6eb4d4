"""Where the rules of recommendations take their evidence from.

One more: a module with its Evidence and its class of tests, a line in `recommendations.EVIDENCE`, and what
`kpiflow recommend` and the page say of it. What is done with verdicts is the same for all
(`recommendations`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.readers.formats import FIRST_US
from schemas.tables import Table
from transforms.core.errors import DamagedFile
from transforms.core.time_units import HOUR_US
from transforms.core.typed_json import parse_json
from transforms.derived.derived_table import Input
from transforms.derived.rules import format_time

PERIOD_HOURS = 12
PERIOD_US = PERIOD_HOURS * HOUR_US
MakeQueries = Callable[[Mapping[str, Any]], dict[str, str]]


@dataclass(frozen=True)
class Evidence:
    """A source of evidence.

    `test`: the class of the tests of its rules. `make_verdicts`, `make_details`: SQL as named queries, from
    the tests by the names of their rules. The last query of each has what all evidence has:

    - `NAME_verdicts`: rule, subject, moment, is_met. A rule was met, or refuted, by what is known up to the
      end of the minute `moment` and since the period before that. One row a rule, subject and moment.
    - `NAME_details`: of each row of `decisions` of these rules: rule, subject, moment, confidence, evidence
      (JSON), mean and mean_before (of the parameter, now and in the period before), factor.
    """

    name: str
    inputs: tuple[Input, ...]
    test: type
    make_verdicts: MakeQueries
    make_details: MakeQueries


def count_from_first(time: str) -> str:
    """SQL: a time in microseconds since FIRST_US, so that none is negative."""
    return f"(epoch_us({time}) - ({FIRST_US}))"


def format_moment(moment: str) -> str:
    """SQL: a time as text, from what `count_from_first` gave."""
    return format_time(f"{moment} + ({FIRST_US})")


def write_rows(name: str, columns: str, rows: Mapping[str, tuple[str | float | int, ...]]) -> str:
    """SQL: a query of constants, of which each row begins with the name of its rule."""
    lines = ", ".join(f"({', '.join(map(_write, (rule, *row)))})" for rule, row in rows.items())
    return f"SELECT * FROM (VALUES {lines}) AS {name}(rule, {columns})"


def _write(value: str | float | int) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    return f"{value!r}::DOUBLE" if isinstance(value, float) else str(value)


def parse_evidence(text: str | None, table: Table) -> dict[str, Any]:
    """The evidence of a row of a derived table, which is JSON.

    Raises:
        DamagedFile: it is none.
    """
    try:
        return parse_json(text or "", dict[str, Any])
    except ValueError as error:
        problem = f"the evidence of a row of {table.name} is damaged ({error})"
        raise DamagedFile(f"{problem}; remove the folder {table.name}, then run `kpiflow derive`") from error
