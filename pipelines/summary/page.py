"""The page of `kpiflow show --html`: one HTML text with its style and its charts inside, no script, nothing fetched.

Charts are Vega-Lite, drawn to SVG here. Their colours are plain hex values of the light page; in a dark one the style sheet
replaces each by its partner, so that the SVGs stay valid on their own.
"""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import altair as alt
import vl_convert

from pipelines.console import escape_line
from pipelines.summary.queries import Hour, Summary, number, percent
from schemas.tables import METRICS

INK, GRID = "#5b6570", "#e3e6ea"
BLUE, GREY, RED, AMBER, GREEN, PURPLE = "#3a6ea5", "#b4bcc6", "#c4553b", "#d19a2e", "#4f8f68", "#84599b"
PALE, DEEP = "#8fb9dc", "#17324d"
IN_THE_DARK = {
    INK: "#9aa5b1",
    GRID: "#2b323b",
    BLUE: "#6ea8e0",
    GREY: "#5f6a76",
    RED: "#e58467",
    AMBER: "#e3b85c",
    GREEN: "#7cbf95",
    PURPLE: "#b48bcb",
    PALE: "#46759f",
    DEEP: "#d3e6f8",
}
"""Every colour of a chart, and what it becomes on a dark page."""

FATES = {"reports": BLUE, "duplicates": GREY, "quarantined": RED}
PERCENTILES = {"p50": PALE, "p95": BLUE, "p99": DEEP}
FLAGGED = dict(zip(METRICS, (BLUE, AMBER, GREEN, PURPLE)))

CHART_WIDTH, CHART_HEIGHT = 420, 220
MARGIN = alt.Padding(left=8, top=2, right=2, bottom=2)
"""Pixels around a chart; more on the left, where a font wider than the one measured here would be cut."""
CHARTED_HOURS = 31 * 24
REASONS_CHARTED = 10
OPEN_HOURS = 24
DOTTED_HOURS = 72
"""Up to so many hours a line has a dot an hour; more would hide it."""

STYLE = """
:root { --ground: #fbfbfa; --card: #fff; --ink: #1f262d; --faint: #5b6570; --line: #e3e6ea; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14181d; --card: #1b2027; --ink: #e4e8ec; --faint: #9aa5b1; --line: #2b323b; }
  NIGHT
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 3rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
p { color: var(--faint); margin: .2rem 0 1.2rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .7rem; margin: 0 0 1rem; }
dl div, figure { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
dl div, figure { margin: 0; padding: .7rem .9rem; }
dt, figcaption, summary { color: var(--faint); font-size: .85rem; }
dd { margin: 0; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
dd small { display: block; font-size: .85rem; color: var(--faint); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: .7rem; }
figcaption b { display: block; color: var(--ink); font-size: .95rem; }
svg { display: block; width: 100%; height: auto; margin-top: .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 500; white-space: nowrap; }
.n { text-align: right; }
.n, .t { white-space: nowrap; }
td.id { font-family: ui-monospace, monospace; font-size: .82rem; min-width: 8rem; overflow-wrap: anywhere; }
td[class=""] { min-width: 6rem; overflow-wrap: anywhere; }
.text { min-width: 14rem; overflow-wrap: anywhere; }
summary { cursor: pointer; margin: .6rem 0; }
@media (max-width: 50rem) {
  thead { display: none; }
  table, tbody { display: block; }
  tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); gap: .2rem .8rem; padding: .5rem 0;
    border-bottom: 1px solid var(--line); }
  td, td[class=""] { border: 0; padding: 0; text-align: left; min-width: 0; }
  td::before { content: attr(data-name); display: block; color: var(--faint); font: .75rem/1.3 system-ui, sans-serif; }
  td.id, td.text, td.t { grid-column: 1 / -1; min-width: 0; }
  td:empty { display: none; }
}
"""
NIGHT = "\n  ".join(
    f'svg [fill="{day}"] {{ fill: {night}; }} svg [stroke="{day}"] {{ stroke: {night}; }}'
    for day, night in IN_THE_DARK.items()
)


def page(summary: Summary) -> str:
    """The whole page; every text of the data is escaped, and shown on one line."""
    title = _text(summary.output)
    if summary.received or summary.hours:
        body = [_cards(summary), _charts(summary), _tables(summary)]
    else:
        body = [
            f"<p>No messages yet: <code>kpiflow backfill --input FILE... --output {title}</code> fills this folder.</p>"
        ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>kpiflow: {title}</title>\n<style>{STYLE.replace('NIGHT', NIGHT)}</style>\n</head>\n<body>",
            f"<h1>{title}</h1>\n<p>{_span(summary)}</p>",
            *body,
            "</body>\n</html>\n",
        ]
    )


def _text(value: object) -> str:
    return escape(escape_line(str(value)))


def _span(summary: Summary) -> str:
    if not summary.first or not summary.last:
        return "No reports"
    return f"Reports recorded from {summary.first:%Y-%m-%d %H:%M} to {summary.last:%Y-%m-%d %H:%M}. All times are UTC."


def _cards(summary: Summary) -> str:
    counts = {name: getattr(summary, name) for name in FATES}
    cards = [
        *((name, f"{count:,}", percent(summary.share(count))) for name, count in counts.items()),
        ("success rate", percent(summary.success_rate), f"{summary.failed:,} failed"),
        ("agents", f"{summary.agents:,}", ""),
        ("outliers", f"{sum(summary.outliers.values()):,}", "flagged values"),
    ]
    items = (
        f"<div><dt>{name}</dt><dd>{value} <small>{more}</small></dd></div>" for name, value, more in cards
    )
    return f"<dl>{''.join(items)}</dl>"


def _charts(summary: Summary) -> str:
    hours = summary.hours[-CHARTED_HOURS:]
    cut = (
        f" The newest {CHARTED_HOURS} of {len(summary.hours):,} hours."
        if len(summary.hours) > len(hours)
        else ""
    )
    came = [{"hour": _ms(hour), **{name: getattr(hour, name) for name in FATES}} for hour in hours]
    flagged = [{"hour": _ms(hour), **hour.outliers} for hour in hours]
    figures = [
        (
            "Rates by hour",
            "Reports by when they were recorded, the others by when they came." + cut,
            _stacked(came, FATES),
        ),
        (
            "Latency by hour, ms",
            "p50, p95 and p99, each the median over the agents." + cut,
            _latencies(hours),
        ),
        (
            "Outliers by hour",
            "Values outside their agent's own fences, by metric." + cut,
            _stacked(flagged, FLAGGED),
        ),
        ("Success rate by hour", "Share of the reports without error details." + cut, _successes(hours)),
        ("Quarantine by reason", "Messages that are no valid report.", _reasons(summary)),
    ]
    drawn = (
        f"<figure><figcaption><b>{title}</b>{note}</figcaption>{_svg(chart, title)}</figure>"
        for title, note, chart in figures
        if chart is not None
    )
    return '<div class="charts">' + "\n".join(drawn) + "</div>"


def _ms(hour: Hour) -> int:
    return int(hour.start.timestamp() * 1000)


def _svg(chart: alt.Chart | alt.LayerChart, label: str) -> str:
    themed = (
        chart.properties(
            width=CHART_WIDTH,
            height=CHART_HEIGHT,
            autosize=alt.AutoSizeParams(type="fit", contains="padding"),
        )
        .configure(aria=False, background="transparent", font="Helvetica, Arial, sans-serif", padding=MARGIN)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK, gridColor=GRID, domainColor=GRID, tickColor=GRID, labelFontSize=12, title=None
        )
        .configure_legend(orient="top", title=None, labelColor=INK, labelFontSize=12, offset=4)
    )
    drawn: str = vl_convert.vegalite_to_svg(themed.to_dict())
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def _time(field: str = "hour") -> alt.X:
    midnight = (
        "utchours(datum.value) == 0 ? utcFormat(datum.value, '%b %-d') : utcFormat(datum.value, '%H:%M')"
    )
    axis = alt.Axis(labelExpr=midnight, grid=False, tickCount=6, labelOverlap=True)
    return alt.X(field, type="temporal", timeUnit="utcyearmonthdatehours", axis=axis)


def _counted() -> alt.Axis:
    return alt.Axis(labelExpr="format(datum.value, '~s')", tickCount=5, domain=False, ticks=False)


def _colour(colours: dict[str, str]) -> alt.Color:
    return alt.Color("name:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())))


def _long(rows: Iterable[dict[str, Any]], names: Iterable[str]) -> alt.Data:
    """One row for each name of each row, `rank` being the name's place."""
    ranks = list(enumerate(names))
    keep = ("hour", "run")
    values = [
        {**{key: row[key] for key in keep if key in row}, "name": name, "rank": rank, "value": row[name]}
        for row in rows
        for rank, name in ranks
    ]
    return alt.Data(values=values)


def _stacked(rows: Sequence[dict[str, Any]], colours: dict[str, str]) -> alt.Chart:
    return (
        alt.Chart(_long(rows, colours))
        .mark_bar()
        .encode(
            x=_time(), y=alt.Y("value:Q", axis=_counted()), color=_colour(colours), order=alt.Order("rank:Q")
        )
    )


def _runs(hours: Sequence[Hour]) -> list[int]:
    """The number of the unbroken run each hour belongs to: a line must not cross hours without data."""
    runs = [0] * len(hours)
    for place, (before, after) in enumerate(pairwise(hours), start=1):
        runs[place] = runs[place - 1] + ((after.start - before.start).total_seconds() > 3600)
    return runs


def _latencies(hours: Sequence[Hour]) -> alt.Chart | None:
    known = [hour for hour in hours if hour.latency]
    rows = [
        {
            "hour": _ms(hour),
            "run": run,
            "p50": hour.latency.p50_ms,
            "p95": hour.latency.p95_ms,
            "p99": hour.latency.p99_ms,
        }
        for hour, run in zip(known, _runs(known))
        if hour.latency
    ]
    if not rows:
        return None
    far = max(row["p99"] for row in rows) > 20 * min(row["p50"] for row in rows) > 0
    return (
        alt.Chart(_long(rows, PERCENTILES))
        .mark_line(strokeWidth=2, point=_dots(rows))
        .encode(
            x=_time(),
            y=alt.Y("value:Q", axis=_counted(), scale=alt.Scale(type="log" if far else "linear")),
            color=_colour(PERCENTILES),
            detail="run:N",
        )
    )


def _dots(hours: Sequence[object], **options: Any) -> alt.OverlayMarkDef | bool:
    return alt.OverlayMarkDef(size=24, filled=True, **options) if len(hours) <= DOTTED_HOURS else False


def _successes(hours: Sequence[Hour]) -> alt.Chart | None:
    known = [hour for hour in hours if hour.reports]
    rates = [hour.success_rate or 0.0 for hour in known]
    if not rates:
        return None
    rows = [
        {"hour": _ms(hour), "run": run, "value": rate} for hour, run, rate in zip(known, _runs(known), rates)
    ]
    lowest = max(0.0, min(rates) - 0.01)
    axis = alt.Axis(format=".1~%", tickCount=5, domain=False, ticks=False)
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=2, color=GREEN, point=_dots(known, color=GREEN))
        .encode(x=_time(), y=alt.Y("value:Q", axis=axis, scale=alt.Scale(domain=[lowest, 1])), detail="run:N")
    )


def _reasons(summary: Summary) -> alt.LayerChart | None:
    reasons = summary.reasons[:REASONS_CHARTED]
    if not reasons:
        return None
    # Vega aborts the process on a control code, so no text of the data may reach it as it is.
    rows = [
        {"reason": escape_line(str(r.reason)), "count": r.count, "label": f"{r.count:,}"} for r in reasons
    ]
    names = alt.Y("reason:N", sort=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=140))
    room = alt.Scale(domainMax=1.2 * reasons[0].count)
    bars = alt.Chart(alt.Data(values=rows)).encode(x=alt.X("count:Q", axis=None, scale=room), y=names)
    return bars.mark_bar(color=RED) + bars.mark_text(align="left", dx=5, fontSize=12, color=INK).encode(
        text="label:N"
    )


def _tables(summary: Summary) -> str:
    parts = [_quarantine_table(summary), _outlier_table(summary), _agent_table(summary), _hour_table(summary)]
    return "\n".join(part for part in parts if part)


def _table(title: str, columns: dict[str, str], rows: Sequence[Sequence[object]]) -> str:
    """A table under a heading; `columns` maps a column's name to the class of its cells; nothing when there are no rows."""
    if not rows:
        return ""
    head = "".join(f'<th class="{kind}">{_text(name)}</th>' for name, kind in columns.items())
    body = "\n".join(
        "<tr>"
        + "".join(_cell(name, kind, value) for (name, kind), value in zip(columns.items(), row))
        + "</tr>"
        for row in rows
    )
    heading = f"<h2>{_text(title)}</h2>\n" if title else ""
    return f'{heading}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _cell(column: str, kind: str, value: object) -> str:
    """A cell; it knows its column, whose name a narrow page shows above the value."""
    return f'<td class="{kind}" data-name="{_text(column)}">{_text(value)}</td>'


def _quarantine_table(summary: Summary) -> str:
    columns = {
        "reason": "",
        "count": "n",
        "share": "n",
        "field": "id",
        "rule": "id",
        "example of the commonest cause": "text",
    }
    rows = []
    for reason in summary.reasons:
        cause = [text or "" for text in (reason.field, reason.rule, reason.example)]
        rows.append((reason.reason, f"{reason.count:,}", percent(reason.count / summary.quarantined), *cause))
    return _table("Quarantine by reason", columns, rows)


def _outlier_table(summary: Summary) -> str:
    numbers = {"metric": "", "count": "n", "share": "n"}
    columns = {
        **numbers,
        "the farthest of the newest hour": "text",
        "recorded at": "t",
        "agent": "id",
        "task": "id",
    }
    examples = {
        example.metric: (
            example.explained(),
            f"{example.recorded_at:%Y-%m-%d %H:%M:%S}",
            example.agent_id,
            example.task_id,
        )
        for example in summary.examples
    }
    rows = [
        (metric, f"{count:,}", percent(count / max(summary.reports, 1)), *examples.get(metric, ("",) * 4))
        for metric, count in summary.outliers.items()
    ]
    return _table("Outliers by metric", columns, rows)


def _agent_table(summary: Summary) -> str:
    columns = {"agent": "id", "reports": "n", "failed": "n", "flags": "n", **dict.fromkeys(METRICS, "n")}
    rows = []
    for agent in summary.worst_agents:
        flags = list(agent.outliers.values())
        rows.append(
            (agent.agent_id, *(f"{count:,}" for count in (agent.reports, agent.failed, sum(flags), *flags)))
        )
    return _table("Agents with the most outliers", columns, rows)


def _hour_table(summary: Summary) -> str:
    rows = []
    for hour in summary.hours[-CHARTED_HOURS:]:
        latency = hour.latency
        percentiles = (
            [number(ms) for ms in (latency.p50_ms, latency.p95_ms, latency.p99_ms)] if latency else ["-"] * 3
        )
        counts = [f"{getattr(hour, name):,}" for name in FATES]
        flags = [f"{count:,}" for count in hour.outliers.values()]
        rows.append(
            (f"{hour.start:%Y-%m-%d %H:%M}", *counts, percent(hour.success_rate), *percentiles, *flags)
        )
    columns = {"hour": "t", **dict.fromkeys((*FATES, "success", *PERCENTILES, *METRICS), "n")}
    note = (
        f"{len(rows):,} of {len(summary.hours):,} hours; p50, p95 and p99 in ms, then the outliers by metric"
    )
    opened = " open" if len(rows) <= OPEN_HOURS else ""
    return f"<h2>Hour by hour</h2>\n<details{opened}><summary>{note}</summary>\n{_table('', columns, rows)}</details>"
