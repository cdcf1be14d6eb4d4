"""What a derived table is: SQL over stored tables, and which stored rows a file of it may read.

DuckDB runs the SQL over a *span* [a, b) of time: one file, or many consecutive ones at once. These names are
the tables of the SQL, if the derived table declares them as inputs (`reports` and `settings` are always
there):

| name | rows | columns |
|---|---|---|
| `reports` | the reports whose rows are to be derived | those of kpi_reports, and effective_at |
| `past_reports` | reports recorded from a - `before` up to b, `reports` among them | the same |
| `past_windows` | windows of 1h that start since a - `before` and end by b - SETTLED | kpi_aggregations |
| `claims` | reports of the tasks of `reports`, recorded from a - `before` up to b + `before` | see below |
| `tasks`, `results` | versions of the tasks of `reports`, created (completed) since a - `before` | below |
| `agents` | versions of the agents of `past_reports` (`reports`), also without an effective_at | its own |
| `quarantine` | what was rejected and received from a - `before` up to b | its own |
| `first_records` | one row: the first effective_at of all tasks and agents, or null | tasks, agents |
| another derived table | rows of the reports in `reports`; with a `before`, those since then | its own |
| `settings` | one row: every setting by its name | |

`claims` has report_id, task_id, agent_id, recorded_at and effective_at. `results` has its own columns, and
`tasks` also experiment and variant of its metadata. `reports`, `tasks`, `results` and `agents` are read once
and have only the columns that the SQL names: a `*` stands for those.

effective_at = coalesce(received_at, recorded_at). None of the rows is effective after z, the latest
effective_at of `reports` + context_wait_seconds.

With `Clock.RECEIVED` the inputs are `reports` and what else is declared of `tasks`, `results`, `agents`,
`system_health`, `quarantine` and `duplicates`: the rows that were received in the span. Of reports these are
the ones within the rule of recency; of tasks and results those created (completed) at most `before` earlier
or later.

**Rules for the SQL.** Its rows must not depend on how reports are cut into spans, on the number of threads or
on the order of input rows; tests check that.

- Bound every join by the row, never by the span: what counts for report r is p.recorded_at <= r.recorded_at
  (and no longer ago than `before`) and p.effective_at <= r.effective_at + context_wait_seconds; of windows
  w.time_window_end <= date_trunc('hour', r.recorded_at) - SETTLED.
- Sums of floats depend on their order. Aggregate integers: `sum(round(x * 1e6)::HUGEINT)` and the like are
  exact; divide once, at the end. `avg`, `stddev`, `corr` and `regr_slope` of floats are not allowed.
- Give every `ORDER BY` of a window, `arg_max` and `row_number` a last term that is unique (report_id,
  version).
- Tasks and results are those of `reports` only. In a stream a span is a minute, so what needs a long past of
  all reports (a fit over 24 hours) is a derived table of its own, with exact sums by minute and type of the
  reports that were received within context_wait_seconds: late ones would change the sums of settled minutes.
  The other table declares it as an input with a `before`.
- Of `quarantine` a row may depend on what was received before the effective_at of a report of its own file.
- One row a key. Rows whose `table.time` is outside the span are dropped by the engine.

**Kernels.** Where SQL does not suffice, a `Kernel` makes the rows of the table from those of the SQL. It is a
pure function, and the rules for the SQL are its rules: it gets rows in any order, of a span with whatever
past the SQL selects, and its rows must not depend on where that begins and ends. Sums of floats over many
rows do; sums of int64 do not. Windows of 1 min are not an input: a late report would change all that was
derived from its window since. A kernel's SQL makes them from the `past_reports` that feed (`FEEDS`), which
are settled once the wait is over.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from schemas.tables import Table

SETTLED = timedelta(hours=1)
"""A window of 1 h is read once it ended so long ago that no report can be late for it."""
_UNITS = ("days", "hours", "minutes", "seconds")


class Clock(Enum):
    """Which time of what puts a row into the span of its file.

    RECORDED: reports by recorded_at. RECEIVED: messages of every table by received_at, by the hour; what was
    received at an unknown time is a span of its own, without bounds. EFFECTIVE: tasks, results and agents by
    effective_at; then `reports` are those of the derived table `inconsistencies` that are recorded from
    a - `before` up to b, and the `before` of tasks and results counts from there.
    """

    RECORDED = "recorded"
    RECEIVED = "received"
    EFFECTIVE = "effective"


@dataclass(frozen=True)
class Input:
    """A table that the SQL reads, by its name there.

    `before`: how long before the span it begins: a time, or the name of a setting that ends in its unit
    (`context_hours`). Tasks, results, `past_reports`, `past_windows`, `claims` and, for `Clock.EFFECTIVE`,
    `inconsistencies` need one. `is_joined`: the SQL joins tasks or results to `reports` by task_id, once, so
    that they need not be narrowed to these tasks before.
    """

    name: str
    before: timedelta | str = timedelta(0)
    is_joined: bool = False

    def find_before(self, settings: Mapping[str, Any]) -> timedelta:
        """`before` as a time, by the settings."""
        if isinstance(self.before, timedelta):
            return self.before
        unit = next(unit for unit in _UNITS if self.before.endswith(f"_{unit}"))
        return timedelta(**{unit: settings[self.before]})


@dataclass(frozen=True)
class Kernel:
    """Makes the rows of a derived table from those of its SQL.

    `compute`: a pure function of these rows and the settings; it returns the columns of the table, others are
    dropped. `settings`: the names of those that it uses. `modules`: what it imports of packages that only
    the extra `extra` of kpiflow installs; it imports them when it runs.
    """

    compute: Callable[[pa.Table, Mapping[str, Any]], pa.Table]
    settings: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    extra: str = ""

    def find_missing(self) -> str | None:
        """A module that is not installed; None if it can run."""
        return next((name for name in self.modules if find_spec(name) is None), None)


@dataclass(frozen=True)
class DerivedTable:
    """A table that is made of stored tables by SQL, and a kernel where it has one.

    `version`: raise it when the SQL or the kernel gives other rows than before: its files are then derived
    again. `inputs`: see the module. `clock`: which file a row belongs to; `table.time` is the column with
    that time.
    """

    table: Table
    version: int
    inputs: tuple[Input, ...]
    sql: str
    clock: Clock = Clock.RECORDED
    kernel: Kernel | None = None

    def __post_init__(self) -> None:
        names = [each.name for each in self.inputs]
        if len(set(names)) < len(names) or "reports" in names:
            raise ValueError(f"{self.table.name} declares an input twice, or reports, which is always there")

    def find_missing(self) -> str | None:
        """A module without which the table cannot be derived; None if nothing is missing."""
        return self.kernel.find_missing() if self.kernel else None
