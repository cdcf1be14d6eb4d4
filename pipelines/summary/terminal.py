"""The summary on a terminal: tables and pictures made of text."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.bar import Bar
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pipelines.console import escape_line
from pipelines.summary.quality_views import name_thresholds, tabulate_rules, tabulate_sources
from pipelines.summary.summary import HourCounts, LatencySummary, Summary, format_number, format_percent
from schemas.tables import METRICS
from transforms.core.counts import format_count

WIDEST = 120
"""Largest width of a table, in characters."""
HOURS_SHOWN = 24
LEAST = 0.001
"""Start of the latency axis in ms if a percentile is 0, which has no logarithm."""
EIGHTHS = "▁▂▃▄▅▆▇█"
CALM, ALARM, QUIET = "cyan", "yellow", "bright_black"


def draw_summary(summary: Summary, width: int) -> list[Table | Text]:
    """The parts to print, in order. Sections without data are left out."""
    width = min(width, WIDEST)
    sections = [
        ("Messages by kind", _draw_kinds(summary)),
        ("Quarantine by reason", _draw_reasons(summary, width)),
        *_draw_quality(summary),
        ("Reports by hour, UTC", _draw_rates(summary, width)),
        (
            "Latency by hour, ms: median over the agents of their p50, p95 and p99",
            _draw_latencies(summary, width),
        ),
        ("Outliers by metric, with the farthest of the newest hour", _draw_outliers(summary, width)),
        ("Agents with the most outliers", _draw_agents(summary)),
    ]
    parts: list[Table | Text] = [_draw_title(summary), _draw_fates(summary, width)]
    for heading, table in sections:
        if table.row_count:
            parts += [Text(f"\n{heading}", style="bold"), table]
    return parts


def _draw_title(summary: Summary) -> Text:
    title = Text.assemble((escape_line(summary.output), "bold"))
    if summary.first and summary.last:
        span = f"{summary.first:%Y-%m-%d %H:%M} to {summary.last:%Y-%m-%d %H:%M} UTC"
        title.append(f"\n{span}, {format_count(summary.agents, 'agent')}", style=QUIET)
    return title


def _make_table(width: int, *columns: str, picture: str | None = None) -> Table:
    """An empty table. A column name with `<` is left-aligned; `picture` is a last column with the remaining
    width.
    """
    table = Table(box=None, header_style=QUIET, pad_edge=False, width=width if picture is not None else None)
    for name in columns:
        left = name.startswith("<")
        table.add_column(name.lstrip("<"), justify="left" if left else "right", no_wrap=True)
    if picture is not None:
        table.add_column(picture, ratio=1, overflow="fold")
    return table


def _draw_fates(summary: Summary, width: int) -> Table:
    table = _make_table(width, "<", "count", "share", picture="")
    names = [("reports", CALM), ("records", CALM), ("duplicates", QUIET), ("quarantined", ALARM)]
    for name, color in names if summary.kinds else [names[0], *names[2:]]:
        count = getattr(summary, name)
        bar = Bar(max(summary.received, 1), 0, count, color=color)
        table.add_row(name, f"{count:,}", format_percent(summary.share(count)), bar)
    table.add_row(
        "received", f"{summary.received:,}", "", Text(f"success rate {format_percent(summary.success_rate)}")
    )
    return table


def _draw_kinds(summary: Summary) -> Table:
    table = _make_table(0, "<kind", "stored", "dupl.", "quarant.")
    table.padding = (0, 1, 0, 0)
    for each in summary.kinds:
        table.add_row(each.kind, f"{each.stored:,}", f"{each.duplicates:,}", f"{each.quarantined:,}")
    return table


def _draw_quality(summary: Summary) -> Iterator[tuple[str, Table]]:
    found = summary.quality
    if found and found.sources:
        yield f"Quality by source; {name_thresholds(found.sources)}", tabulate_sources(found.sources)
        yield "Open inconsistencies by rule", tabulate_rules(found.open_rules)


def _draw_reasons(summary: Summary, width: int) -> Table:
    table = _make_table(width, "<reason", "count", "share", picture="example of its commonest cause")
    for reason in summary.reasons:
        share = format_percent(reason.count / summary.quarantined)
        table.add_row(
            shorten(str(reason.reason), 20), f"{reason.count:,}", share, shorten(reason.example or "", 160)
        )
    return table


def _draw_rates(summary: Summary, width: int) -> Table:
    hours, hidden = summary.hours[-HOURS_SHOWN:], len(summary.hours) > HOURS_SHOWN
    table = _make_table(width, "<hour", "reports", "dupl.", "quarant.", "success", picture="")
    if hidden:
        table.add_row(Text("all hours", style=QUIET), "", "", "", "", Sparkline(summary.hours))
    highest = max((hour.reports for hour in hours), default=0)
    for hour in hours:
        counts = [f"{count:,}" for count in (hour.reports, hour.duplicates, hour.quarantined)]
        table.add_row(
            format_hour(hour.start),
            *counts,
            format_percent(hour.success_rate),
            Bar(max(highest, 1), 0, hour.reports, color=CALM),
        )
    return table


def _draw_latencies(summary: Summary, width: int) -> Table:
    known = [(hour, hour.latency) for hour in summary.hours if hour.latency]
    table = _make_table(
        width, "<hour", "p50", "p95", "p99", "agents", picture="● p50  ┿ p95  ┥ p99, log scale"
    )
    if not known:
        return table
    low, high = min(latency.p50_ms for _, latency in known), max(latency.p99_ms for _, latency in known)
    for hour, latency in known[-HOURS_SHOWN:]:
        values = [format_number(value) for value in (latency.p50_ms, latency.p95_ms, latency.p99_ms)]
        table.add_row(format_hour(hour.start), *values, f"{latency.agents:,}", Whisker(latency, low, high))
    return table


def _draw_outliers(summary: Summary, width: int) -> Table:
    table = _make_table(width, "<metric", "count", "share", picture="example")
    examples = {example.metric: example for example in summary.examples}
    for metric, count in summary.outliers.items():
        text = Text()
        if metric in examples:
            example = examples[metric]
            text.append(example.explain().removeprefix(f"{metric} "))
            text.append(f"\n{shorten(example.agent_id, 36)}, {format_hour(example.recorded_at)}", style=QUIET)
        table.add_row(
            metric, f"{count:,}", format_percent(count / summary.reports if summary.reports else 0.0), text
        )
    return table


def _draw_agents(summary: Summary) -> Table:
    table = _make_table(0, "<agent", "reports", "flags", *METRICS)
    table.padding = (0, 1, 0, 0)
    for agent in summary.worst_agents:
        counts = [agent.reports, sum(agent.outliers.values()), *agent.outliers.values()]
        table.add_row(shorten(agent.agent_id, 36), *(f"{count:,}" for count in counts))
    return table


@dataclass(frozen=True)
class Whisker:
    """A line from p50 to p99 on a logarithmic axis from `low` to `high` ms, as wide as its cell."""

    latency: LatencySummary
    low: float
    high: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        low = max(self.low, LEAST)
        step = math.log(max(self.high / low, 1.0)) / max(options.max_width - 1, 1) or 1.0
        values = (self.latency.p50_ms, self.latency.p95_ms, self.latency.p99_ms)
        p50, p95, p99 = (round(math.log(max(value / low, 1.0)) / step) for value in values)
        line = [" "] * p50 + ["━"] * (p99 - p50 + 1)
        for place, mark in ((p99, "┥"), (p95, "┿"), (p50, "●")):
            line[place] = mark
        yield Text("".join(line), style=CALM, no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(4, options.max_width)


@dataclass(frozen=True)
class Sparkline:
    """Reports per hour over the whole span: as wide as its cell, but at most one character an hour."""

    hours: Sequence[HourCounts]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(draw_sparkline(self.hours, options.max_width), style=CALM, no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(4, options.max_width)


def draw_sparkline(hours: Sequence[HourCounts], width: int) -> str:
    """Mean reports per hour as block characters: at most `width` cells, blank without reports."""
    places = [round((hour.start - hours[0].start).total_seconds() / 3600) for hour in hours]
    span = places[-1] + 1
    cells = min(width, span)
    rates = [0.0] * cells
    for place, hour in zip(places, hours):
        cell = place * cells // span
        covered = -(-(cell + 1) * span // cells) + (-cell * span // cells)
        rates[cell] += hour.reports / covered
    highest = max(rates) or 1.0
    return "".join(EIGHTHS[min(int(8 * rate / highest), 7)] if rate else " " for rate in rates)


def format_hour(hour: datetime) -> str:
    """`11-22 08:00`."""
    return f"{hour:%m-%d %H:%M}"


def shorten(text: str, longest: int) -> Text:
    """Text of the data for a terminal: one line, without control codes, at most `longest` characters."""
    clean = escape_line(text)
    return Text(clean if len(clean) <= longest else f"{clean[: longest - 1]}…")
