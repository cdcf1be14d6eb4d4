"""`kpiflow show`: tables and pictures of what an output folder holds, on the terminal, as a page or as JSON."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.bar import Bar
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pipelines.console import escape_line, out, print_json
from pipelines.failures import RunFailed, WrongUse
from pipelines.outputs import open_for_reading
from pipelines.summary.queries import summarise
from pipelines.summary.summary import Hour, Latency, Summary, format_number, format_percent
from pipelines.verify.output_description import existing_output
from schemas.tables import METRICS
from transforms.sinks.parquet.parquet_store import DESCRIPTION

WIDEST = 120
"""Columns beyond which a table no longer grows."""
HOURS_SHOWN = 24
LEAST = 0.001
"""Start of the latency axis in ms where a percentile is 0, which a logarithm cannot show."""
EIGHTHS = "▁▂▃▄▅▆▇█"
CALM, ALARM, QUIET = "cyan", "yellow", "bright_black"


def show(
    ctx: typer.Context,
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="Output of a backfill or a stream: a folder, s3://, gs:// or bigquery://."
        ),
    ],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write one self-contained page.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Tables and pictures of what came in: rates, latency, outliers, quarantine by reason."""
    make_page = _page_maker(html) if html else None
    with open_for_reading(output, ctx.obj.settings()) as folder:
        if (folder / DESCRIPTION).is_file():
            existing_output(folder)
        summary = replace(summarise(folder), output=output)
    if html and make_page:
        _write(html, make_page(summary))
    if as_json:
        print_json(plain(summary), datetime.isoformat)
        return
    if not summary.hours and not summary.received:
        out.print(
            Text(
                f"{output} holds no messages yet; `kpiflow backfill --input FILE... --output {output}` fills it."
            )
        )
    else:
        for part in pictures(summary, out.width):
            out.print(part)
    if html:
        out.print(Text(f"Page: {html}"))


def _page_maker(path: Path) -> Callable[[Summary], str]:
    """What makes the page; asked for first, so that nothing is read in vain."""
    if not path.parent.is_dir() or path.is_dir():
        raise WrongUse(f"cannot write a page to {path}", "give --html a file in a folder that exists")
    try:
        from pipelines.summary.page import render_page
    except ModuleNotFoundError as error:
        if error.name not in {"altair", "vl_convert", "jinja2"}:
            raise
        raise WrongUse(
            f"--html needs {error.name}, which is not installed", "pip install 'kpiflow[html]'"
        ) from error
    return render_page


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunFailed(
            f"cannot write {path}: {error.strerror}", "free some space, or give --html another file"
        ) from error


def plain(summary: Summary) -> dict[str, Any]:
    """The summary, and what derives from it, as dicts and lists; times stay datetimes."""
    whole = asdict(summary)
    for hour, row in zip(summary.hours, whole["hours"]):
        row["success_rate"] = hour.success_rate
    for outlier, row in zip(summary.examples, whole["examples"]):
        row["explained"] = outlier.explain()
    shares = {"quarantined_share": summary.share(summary.quarantined), "success_rate": summary.success_rate}
    return {"output": summary.output, "received": summary.received, **shares, **whole}


def pictures(summary: Summary, width: int) -> list[Table | Text]:
    """What the terminal shows, in order, with an empty line before each heading; sections without data are left out."""
    width = min(width, WIDEST)
    sections = [
        ("Quarantine by reason", _reasons(summary, width)),
        ("Reports by hour, UTC", _rates(summary, width)),
        ("Latency by hour, ms: median over the agents of their p50, p95 and p99", _latencies(summary, width)),
        ("Outliers by metric, with the farthest of the newest hour", _outliers(summary, width)),
        ("Agents with the most outliers", _agents(summary)),
    ]
    parts: list[Table | Text] = [_title(summary), _fates(summary, width)]
    for heading, table in sections:
        if table.row_count:
            parts += [Text(f"\n{heading}", style="bold"), table]
    return parts


def _title(summary: Summary) -> Text:
    title = Text.assemble((escape_line(summary.output), "bold"))
    if summary.first and summary.last:
        span = f"{summary.first:%Y-%m-%d %H:%M} to {summary.last:%Y-%m-%d %H:%M} UTC"
        title.append(f"\n{span}, {summary.agents:,} agent{'s' * (summary.agents != 1)}", style=QUIET)
    return title


def _table(width: int, *columns: str, picture: str | None = None) -> Table:
    """An empty table; a column named `<` is left-aligned text, `picture` is a last column that takes what is left."""
    table = Table(box=None, header_style=QUIET, pad_edge=False, width=width if picture is not None else None)
    for name in columns:
        left = name.startswith("<")
        table.add_column(name.lstrip("<"), justify="left" if left else "right", no_wrap=True)
    if picture is not None:
        table.add_column(picture, ratio=1, overflow="fold")
    return table


def _fates(summary: Summary, width: int) -> Table:
    table = _table(width, "<", "count", "share", picture="")
    for name, color in (("reports", CALM), ("duplicates", QUIET), ("quarantined", ALARM)):
        count = getattr(summary, name)
        bar = Bar(max(summary.received, 1), 0, count, color=color)
        table.add_row(name, f"{count:,}", format_percent(summary.share(count)), bar)
    table.add_row(
        "received", f"{summary.received:,}", "", Text(f"success rate {format_percent(summary.success_rate)}")
    )
    return table


def _reasons(summary: Summary, width: int) -> Table:
    table = _table(width, "<reason", "count", "share", picture="example of its commonest cause")
    for reason in summary.reasons:
        share = format_percent(reason.count / summary.quarantined)
        table.add_row(
            shown(str(reason.reason), 20), f"{reason.count:,}", share, shown(reason.example or "", 160)
        )
    return table


def _rates(summary: Summary, width: int) -> Table:
    hours, hidden = summary.hours[-HOURS_SHOWN:], len(summary.hours) > HOURS_SHOWN
    table = _table(width, "<hour", "reports", "dupl.", "quarant.", "success", picture="")
    if hidden:
        table.add_row(Text("all hours", style=QUIET), "", "", "", "", Sparkline(summary.hours))
    highest = max((hour.reports for hour in hours), default=0)
    for hour in hours:
        counts = [f"{count:,}" for count in (hour.reports, hour.duplicates, hour.quarantined)]
        table.add_row(
            label(hour.start),
            *counts,
            format_percent(hour.success_rate),
            Bar(max(highest, 1), 0, hour.reports, color=CALM),
        )
    return table


def _latencies(summary: Summary, width: int) -> Table:
    known = [(hour, hour.latency) for hour in summary.hours if hour.latency]
    table = _table(width, "<hour", "p50", "p95", "p99", "agents", picture="● p50  ┿ p95  ┥ p99, log scale")
    if not known:
        return table
    low, high = min(latency.p50_ms for _, latency in known), max(latency.p99_ms for _, latency in known)
    for hour, latency in known[-HOURS_SHOWN:]:
        values = [format_number(value) for value in (latency.p50_ms, latency.p95_ms, latency.p99_ms)]
        table.add_row(label(hour.start), *values, f"{latency.agents:,}", Whisker(latency, low, high))
    return table


def _outliers(summary: Summary, width: int) -> Table:
    table = _table(width, "<metric", "count", "share", picture="example")
    examples = {example.metric: example for example in summary.examples}
    for metric, count in summary.outliers.items():
        text = Text()
        if metric in examples:
            example = examples[metric]
            text.append(example.explain().removeprefix(f"{metric} "))
            text.append(f"\n{shown(example.agent_id, 36)}, {label(example.recorded_at)}", style=QUIET)
        table.add_row(
            metric, f"{count:,}", format_percent(count / summary.reports if summary.reports else 0.0), text
        )
    return table


def _agents(summary: Summary) -> Table:
    table = _table(0, "<agent", "reports", "flags", *METRICS)
    table.padding = (0, 1, 0, 0)
    for agent in summary.worst_agents:
        counts = [agent.reports, sum(agent.outliers.values()), *agent.outliers.values()]
        table.add_row(shown(agent.agent_id, 36), *(f"{count:,}" for count in counts))
    return table


@dataclass(frozen=True)
class Whisker:
    """A line from p50 to p99 on a logarithmic axis from `low` to `high` ms that takes the whole width of its cell."""

    latency: Latency
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
    """Reports per hour from the first hour to the last, at most one character an hour, over the whole width of its cell."""

    hours: Sequence[Hour]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(sparkline(self.hours, options.max_width), style=CALM, no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(4, options.max_width)


def sparkline(hours: Sequence[Hour], width: int) -> str:
    """Mean reports per hour as block characters: at most `width` cells of equal time, blank where none came."""
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


def label(hour: datetime) -> str:
    """`11-22 08:00`."""
    return f"{hour:%m-%d %H:%M}"


def shown(text: str, longest: int) -> Text:
    """Text of the data as it may stand on a terminal: one line, no markup, no control codes, cut after `longest`."""
    clean = escape_line(text)
    return Text(clean if len(clean) <= longest else f"{clean[: longest - 1]}…")
