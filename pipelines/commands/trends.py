"""`kpiflow trends`: what became slower, less accurate or hungrier, since when, and by how much."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from pipelines.commands.query import require_folder
from pipelines.console import escape_line, out, print_json
from pipelines.failures import WrongUse
from pipelines.queries.limits import QueryLimits
from pipelines.queries.run import run_query
from pipelines.queries.table_queries import TRENDS
from pipelines.text_tables import format_change, format_number, make_table, print_table
from pipelines.time_flags import parse_span
from pipelines.verify.output_description import read_row_settings, require_derived
from transforms.core.time_range import Span
from transforms.derived.trend_sql import METRICS

_HOUR = timedelta(hours=1)
_MOST_SLOPES = 1_000_000
Row = dict[str, Any]


def trends(
    ctx: typer.Context,
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="Output folder; a stream may be writing to it.")
    ],
    agent: Annotated[str | None, typer.Option(metavar="AGENT_ID", help="Only this agent.")] = None,
    agent_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only the agents of this type, as one.")
    ] = None,
    fleet: Annotated[bool, typer.Option("--fleet", help="Only all agents as one.")] = False,
    start: Annotated[
        str | None, typer.Option("--from", help="Only what was seen at or after this time (RFC 3339).")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Only what was seen before this time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many of each kind.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.001, max=3600, help="Stop reading after so long.")] = 60,
    memory_mb: Annotated[int, typer.Option(min=16, help="Stop reading if it needs more memory.")] = 1024,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show changes of level, the newest first, and the series that rose or fell most in the newest hour.

    Of each agent, each type of agents, and the fleet, in latency, accuracy, CPU, memory and performance.
    """
    asked = _choose(agent, agent_type, fleet)
    folder, span = require_folder(output), parse_span(start, end)
    minutes = read_row_settings(folder, "queried")["file_minutes"]
    require_derived(folder, TRENDS.inputs[0].table)
    limits = QueryLimits(limit, seconds, memory_mb)
    changes = _ask(folder, asked | {"kind": "change"}, span, minutes, limits)
    slopes = _find_steepest(folder, asked | {"kind": "slope"}, span, minutes, limits)
    if as_json:
        print_json({"changes": changes, "slopes": slopes}, default=_format_time)
        return
    _print_changes(changes)
    _print_slopes(slopes)


def _choose(agent: str | None, agent_type: str | None, fleet: bool) -> dict[str, str]:
    """The parameters of the query for the series that was asked for."""
    if sum((agent is not None, agent_type is not None, fleet)) > 1:
        raise WrongUse("--agent, --type and --fleet name different series", "give one of them")
    if agent is not None:
        return {"agent_id": agent}
    if agent_type is not None:
        return {"agent_type": agent_type}
    return {"level": "fleet"} if fleet else {}


def _ask(folder: Path, given: Mapping[str, str], span: Span, minutes: int, limits: QueryLimits) -> list[Row]:
    rows: list[Row] = run_query(folder, TRENDS, TRENDS.parse(given), span, minutes, limits).rows.to_pylist()
    return rows


def _find_steepest(
    folder: Path, given: Mapping[str, str], span: Span, minutes: int, limits: QueryLimits
) -> list[Row]:
    """The slopes of the newest hour that are not steady, those that are most certain first."""
    newest = _ask(folder, given, span, minutes, replace(limits, rows=1))
    if not newest:
        return []
    hour = newest[0]["time_window_start"].replace(minute=0)
    rows = _ask(folder, given, Span(hour, hour + _HOUR), minutes, replace(limits, rows=_MOST_SLOPES))
    moving = [row for row in rows if row["verdict"] != "steady"]
    return sorted(moving, key=_rate_certainty, reverse=True)[: limits.rows]


def _rate_certainty(row: Row) -> float:
    """How far a slope is from 0, in half widths of its interval."""
    slope, high = row["slope"], row["slope_high"]
    return 0.0 if slope is None or high is None else abs(slope) / max(high - slope, 1e-12)


def _print_changes(rows: list[Row]) -> None:
    if not rows:
        out.print(Text("no change of level in this span", style="dim"))
        return
    table = make_table(["series", "metric", "changed at"], ["before", "after", "change"])
    table.add_column("seen at")
    for row in rows:
        numbers = (
            format_number(row["before"], ".4g"),
            format_number(row["after"], ".4g"),
            format_change(row["change"], METRICS[row["metric"]].is_log),
        )
        times = _format_time(row["changed_at"]), _format_time(row["time_window_start"])
        table.add_row(_name(row), row["metric"], times[0], *numbers, times[1])
    print_table(table)


def _print_slopes(rows: list[Row]) -> None:
    if not rows:
        out.print(Text("no series rose or fell in the newest hour of this span", style="dim"))
        return
    out.print()
    table = make_table(["series", "metric", "verdict"], ["an hour", "95 % interval"])
    for row in rows:
        low, middle, high = (
            format_change(row[name], METRICS[row["metric"]].is_log)
            for name in ("slope_low", "slope", "slope_high")
        )
        table.add_row(_name(row), row["metric"], row["verdict"], middle, f"{low} to {high}")
    print_table(table)


def _name(row: Row) -> str:
    if row["level"] == "agent":
        return escape_line(row["agent_id"])
    return "fleet" if row["level"] == "fleet" else f"type {escape_line(row['target_agent_type'])}"


def _format_time(moment: datetime | None) -> str:
    return "" if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")
