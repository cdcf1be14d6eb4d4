"""The inputs of a derived table as views of a DuckDB connection, bounded by the span to derive.

A connection first gets the stored tables, as `stored_TABLE` (`transforms.derived.run`), then these views over
them. `transforms.derived.derived_table` says what each contains.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from schemas.readers.formats import FIRST_US, LAST_US
from transforms.core.expiry import NOTHING, Expiry
from transforms.core.time_units import SECOND_US
from transforms.derived.bounds import UNTIMED, Bounds, Period, add_time
from transforms.derived.derived_table import Clock, DerivedTable, Input
from transforms.derived.registry import find_stored_table

SOURCES = {
    "reports": ("kpi_reports",),
    "past_reports": ("kpi_reports",),
    "past_windows": ("kpi_aggregations",),
    "claims": ("kpi_reports",),
    "first_records": ("tasks", "agents"),
}
"""The stored tables of an input that has another name."""


def list_stored(table: DerivedTable) -> tuple[str, ...]:
    """The names of the stored tables that a derived table reads."""
    names = ["reports", *(each.name for each in table.inputs)]
    if table.clock is Clock.EFFECTIVE:
        names.append("inconsistencies")
    return tuple(dict.fromkeys(each for name in names for each in SOURCES.get(name, (name,))))


def list_derived_inputs(table: DerivedTable) -> list[Input]:
    """The inputs that are derived tables, but those that put rows into the span."""
    stored = {*SOURCES, *RECEIVED}
    if table.clock is Clock.EFFECTIVE:
        stored.add("inconsistencies")
    return [each for each in table.inputs if each.name not in stored]


def bind_inputs(
    connection: duckdb.DuckDBPyConnection,
    table: DerivedTable,
    period: Period,
    settings: Mapping[str, Any],
    before: int = LAST_US,
    expiry: Expiry = NOTHING,
) -> None:
    """Create the views of a derived table's inputs over `stored_*`, for a span.

    `before`: only what is effective before this microsecond is derived. `expiry`: what has expired in the
    output.
    """
    _Binding(connection, Bounds(table, settings, period), before, expiry).bind()


class _Binding(NamedTuple):
    """What the text of each view depends on."""

    connection: duckdb.DuckDBPyConnection
    bounds: Bounds
    before: int
    expiry: Expiry

    @property
    def table(self) -> DerivedTable:
        return self.bounds.table

    @property
    def period(self) -> Period:
        return self.bounds.period

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.bounds.settings

    def bind(self) -> None:
        """Create the views, in the order in which they use each other."""
        self._bind_settings()
        make = {
            Clock.RECORDED: self._bind_recorded,
            Clock.RECEIVED: self._bind_received,
            Clock.EFFECTIVE: self._bind_effective,
        }
        make[self.table.clock]()

    def _bind_settings(self) -> None:
        row = {name: [value] for name, value in self.settings.items() if _is_plain(value)}
        self.connection.register("settings_row", pa.table(row))
        self._create("settings", "SELECT * FROM settings_row")

    def _bind_recorded(self) -> None:
        within = self._within("recorded_at", self.period)
        effective = f"effective_at < {_moment(self.before)}"
        self._keep("reports", f"({_REPORTS}) WHERE {within} AND {effective}")
        self._bind_context(self._find_latest())

    def _bind_received(self) -> None:
        if self.period == UNTIMED:
            received, recorded = "received_at IS NULL", f"recorded_at < {_moment(self.before)}"
        else:
            end = min(self.period.end, self.before)
            received = self._within("received_at", Period(self.period.start, end))
            late, early = self.bounds.count_recency()
            near = self._within("recorded_at", self.bounds.find_near("reports"))
            recorded = f"{near} AND {_RECENT.format(late=late, early=early)}"
        self._create("reports", f"SELECT * FROM ({_REPORTS}) WHERE {received} AND {recorded}")
        for name in RECEIVED:
            if self._has(name):
                bound = self._bound_time(name)
                self._create(name, f"SELECT * FROM stored_{name} WHERE {received}{bound}")
        self._bind_derived()

    def _bound_time(self, name: str) -> str:
        """The bound of the own time of records that were received in the span."""
        column = {"tasks": "created_at", "results": "completed_at"}.get(name)
        if column is None or self.period == UNTIMED:
            return ""
        before = self.bounds.count_before(name)
        return f" AND abs(epoch_us({column}) - epoch_us(received_at)) <= {before}"

    def _bind_effective(self) -> None:
        end = min(self.period.end, self.before)
        recorded = self._within("recorded_at", self.bounds.find("inconsistencies"))
        self._create("inconsistencies", f"SELECT * FROM stored_inconsistencies WHERE {recorded}")
        named = "report_id IN (SELECT report_id FROM inconsistencies)"
        self._keep("reports", f"({_REPORTS}) WHERE {recorded} AND {named}")
        self._bind_context(end - 1)

    def _bind_context(self, latest: int) -> None:
        """The inputs around `reports`, as far as they are effective by `latest`."""
        known = f"effective_at <= {_moment(latest)}"
        find = self.bounds.find
        past = self._within("recorded_at", find("past_reports"))
        windows = f"time_window_start >= {_moment(find('past_windows').start)}"
        settled = f"time_window_end <= {_moment(self.bounds.find_settled())}"
        tasks, results = (_moment(find(name).start) for name in ("tasks", "results"))
        claims = f"{self._within('recorded_at', find('claims'))} AND {known} AND {_OF_TASKS}"
        rejected = self._within("received_at", find("quarantine"))
        of_agents = _OF_PAST_AGENTS if self._has("past_reports") else _OF_AGENTS
        views = {
            "past_reports": f"({_REPORTS}) WHERE {past} AND {known}",
            "past_windows": f"stored_kpi_aggregations WHERE granularity = '1h' AND {windows} AND {settled}",
            "quarantine": f"stored_quarantine WHERE {rejected} AND received_at <= {_moment(latest)}",
        }
        joined = {each.name for each in self.table.inputs if each.is_joined}
        of_task, of_result = ("true" if name in joined else _OF_TASKS for name in ("tasks", "results"))
        rows = {
            "claims": f"({_REPORTS}) WHERE {claims}",
            "tasks": f"stored_tasks WHERE created_at >= {tasks} AND {known} AND {of_task}",
            "results": f"stored_results WHERE completed_at >= {results} AND {known} AND {of_result}",
            "agents": f"stored_agents WHERE coalesce({known}, true) AND {of_agents}",
        }
        for name, text in views.items():
            if self._has(name):
                self._create(name, f"SELECT * FROM {text}")
        for name, text in rows.items():
            if self._has(name):
                self._keep(name, text)
        if self._has("first_records"):
            firsts = (f"{self._find_first(name)} AS {name}" for name in ("tasks", "agents"))
            self._create("first_records", f"SELECT {', '.join(firsts)}")
        self._bind_derived()

    def _find_first(self, name: str) -> str:
        """The SQL of the first effective_at of a table; if rows have expired, at most the first day kept."""
        first = f"(SELECT min(effective_at) FROM stored_{name})"
        kept = self.expiry.before.get(name)
        return first if kept is None else f"least({first}, TIMESTAMPTZ '{kept} 00:00:00+00')"

    def _bind_derived(self) -> None:
        """Other derived tables: what is about `reports`, or their past."""
        for each in list_derived_inputs(self.table):
            rows = "report_id IN (SELECT report_id FROM reports)"
            if each.find_before(self.settings):
                time = find_stored_table(each.name).time
                rows = self._within(str(time), self.bounds.find(each.name))
            self._create(each.name, f"SELECT * FROM stored_{each.name} WHERE {rows}")

    def _find_latest(self) -> int:
        """z: the latest effective_at of `reports`, and the wait; FIRST_US if there are none."""
        ((found,),) = self.connection.execute("SELECT epoch_us(max(effective_at)) FROM reports").fetchall()
        latest = FIRST_US if found is None else found
        return add_time(latest, self.settings["context_wait_seconds"] * SECOND_US)

    def _has(self, name: str) -> bool:
        return any(each.name == name for each in self.table.inputs)

    def _within(self, column: str, period: Period) -> str:
        return f"{column} >= {_moment(period.start)} AND {column} < {_moment(period.end)}"

    def _create(self, name: str, text: str, kind: str = "VIEW") -> None:
        self.connection.execute(f"CREATE OR REPLACE TEMP {kind} {name} AS {text}")

    def _keep(self, name: str, rows: str) -> None:
        """Create an input with the columns that are named: as a table, read once, if it is named twice.

        The reports of inconsistencies are few, and the other inputs name them.
        """
        schema = find_stored_table(SOURCES.get(name, (name,))[0]).schema
        sql = re.sub(r"--.*|'[^']*'", "", self.table.sql)
        named = {*re.findall(r"\w+", sql), *_ALWAYS} if name != "claims" else {*_CLAIM}
        columns = [f'"{each}"' for each in dict.fromkeys([*schema.names, "effective_at"]) if each in named]
        if name == "tasks":
            columns += [f"{text} AS {entry}" for entry, text in _ENTRIES.items() if entry in named]
        is_few = name == "reports" and self.table.clock is Clock.EFFECTIVE
        is_used_again = is_few or len(re.findall(rf"(?:FROM|JOIN) {name}\b", sql)) > 1
        self._create(name, f"SELECT {', '.join(columns)} FROM {rows}", "TABLE" if is_used_again else "VIEW")


_REPORTS = "SELECT *, coalesce(received_at, recorded_at) AS effective_at FROM stored_kpi_reports"
_RECENT = (
    "epoch_us(received_at) - epoch_us(recorded_at) <= {late} "
    "AND epoch_us(recorded_at) - epoch_us(received_at) <= {early}"
)
_ALWAYS = ("report_id", "task_id", "agent_id", "effective_at")
"""Columns by which inputs are bounded."""
_CLAIM = (*_ALWAYS, "recorded_at")
_ENTRIES = {name: f"metadata['{name}']" for name in ("experiment", "variant")}
"""Columns of tasks that are entries of their metadata: a map is slow to keep and to join."""
_OF_TASKS = "task_id IN (SELECT task_id FROM reports)"
_OF_AGENTS = "agent_id IN (SELECT agent_id FROM reports)"
_OF_PAST_AGENTS = "agent_id IN (SELECT agent_id FROM past_reports)"
RECEIVED = ("tasks", "results", "agents", "system_health", "quarantine", "duplicates")
"""Stored tables with a received_at, beside kpi_reports."""


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _moment(microseconds: int) -> str:
    return f"make_timestamptz({microseconds})"
