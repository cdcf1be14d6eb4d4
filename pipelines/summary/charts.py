"""The charts of the page: Vega-Lite, drawn to SVG here.

Colours are plain hex values of the light page. On a dark page the style sheet replaces each by its partner,
so an SVG is also valid on its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from pipelines.console import escape_line
from pipelines.summary.summary import HourCounts, Summary
from schemas.tables import METRICS
from transforms.core.counts import format_count

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
DOTTED_HOURS = 72
"""Up to so many hours a line has a dot an hour; more would hide it."""


@dataclass(frozen=True)
class Figure:
    """A chart with its caption."""

    title: str
    note: str
    svg: Markup


def draw_figures(summary: Summary) -> Iterator[Figure]:
    """Every chart that has data."""
    hours = summary.hours[-CHARTED_HOURS:]
    hidden = len(summary.hours) > len(hours)
    cut = f" The newest {CHARTED_HOURS} of {format_count(len(summary.hours), 'hour')}." if hidden else ""
    counts = [{"hour": _ms(hour), **{name: getattr(hour, name) for name in FATES}} for hour in hours]
    flagged = [{"hour": _ms(hour), **hour.outliers} for hour in hours]
    charts = [
        ("Rates by hour", "Reports by recorded_at, the others by received_at." + cut, _stack(counts, FATES)),
        (
            "Latency by hour, ms",
            "p50, p95 and p99, each the median over the agents." + cut,
            _plot_latencies(hours),
        ),
        (
            "Outliers by hour",
            "Values outside their agent's own fences, by metric." + cut,
            _stack(flagged, FLAGGED),
        ),
        ("Success rate by hour", "Share of the reports without error details." + cut, _plot_successes(hours)),
        ("Quarantine by reason", "Messages that are not valid reports.", _plot_reasons(summary)),
    ]
    for title, note, chart in charts:
        if chart is not None:
            yield Figure(title, note, _draw(chart, title))


def _ms(hour: HourCounts) -> int:
    return int(hour.start.timestamp() * 1000)


def _draw(chart: alt.Chart | alt.LayerChart, label: str) -> Markup:
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
    return Markup(drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))


def _time_axis(field: str = "hour") -> alt.X:
    midnight = (
        "utchours(datum.value) == 0 ? utcFormat(datum.value, '%b %-d') : utcFormat(datum.value, '%H:%M')"
    )
    axis = alt.Axis(labelExpr=midnight, grid=False, tickCount=6, labelOverlap=True)
    return alt.X(field, type="temporal", timeUnit="utcyearmonthdatehours", axis=axis)


def _count_axis() -> alt.Axis:
    return alt.Axis(labelExpr="format(datum.value, '~s')", tickCount=5, domain=False, ticks=False)


def _scale_colours(colours: dict[str, str]) -> alt.Color:
    return alt.Color("name:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())))


def _unpivot(rows: Iterable[dict[str, Any]], names: Iterable[str]) -> alt.Data:
    """One row for each name of each row; `rank` is the place of the name."""
    ranks = list(enumerate(names))
    keep = ("hour", "run")
    values = [
        {**{key: row[key] for key in keep if key in row}, "name": name, "rank": rank, "value": row[name]}
        for row in rows
        for rank, name in ranks
    ]
    return alt.Data(values=values)


def _stack(rows: Sequence[dict[str, Any]], colours: dict[str, str]) -> alt.Chart:
    return (
        alt.Chart(_unpivot(rows, colours))
        .mark_bar()
        .encode(
            x=_time_axis(),
            y=alt.Y("value:Q", axis=_count_axis()),
            color=_scale_colours(colours),
            order=alt.Order("rank:Q"),
        )
    )


def _number_runs(hours: Sequence[HourCounts]) -> list[int]:
    """The number of the unbroken run each hour belongs to: a line must not cross hours without data."""
    runs = [0] * len(hours)
    for place, (before, after) in enumerate(pairwise(hours), start=1):
        runs[place] = runs[place - 1] + ((after.start - before.start).total_seconds() > 3600)
    return runs


def _plot_latencies(hours: Sequence[HourCounts]) -> alt.Chart | None:
    known = [hour for hour in hours if hour.latency]
    rows = [
        {
            "hour": _ms(hour),
            "run": run,
            "p50": hour.latency.p50_ms,
            "p95": hour.latency.p95_ms,
            "p99": hour.latency.p99_ms,
        }
        for hour, run in zip(known, _number_runs(known))
        if hour.latency
    ]
    if not rows:
        return None
    far = max(row["p99"] for row in rows) > 20 * min(row["p50"] for row in rows) > 0
    return (
        alt.Chart(_unpivot(rows, PERCENTILES))
        .mark_line(strokeWidth=2, point=_choose_dots(rows))
        .encode(
            x=_time_axis(),
            y=alt.Y("value:Q", axis=_count_axis(), scale=alt.Scale(type="log" if far else "linear")),
            color=_scale_colours(PERCENTILES),
            detail="run:N",
        )
    )


def _choose_dots(hours: Sequence[object], **options: Any) -> alt.OverlayMarkDef | bool:
    return alt.OverlayMarkDef(size=24, filled=True, **options) if len(hours) <= DOTTED_HOURS else False


def _plot_successes(hours: Sequence[HourCounts]) -> alt.Chart | None:
    known = [hour for hour in hours if hour.reports]
    rates = [hour.success_rate or 0.0 for hour in known]
    if not rates:
        return None
    rows = [
        {"hour": _ms(hour), "run": run, "value": rate}
        for hour, run, rate in zip(known, _number_runs(known), rates)
    ]
    lowest = max(0.0, min(rates) - 0.01)
    axis = alt.Axis(format=".1~%", tickCount=5, domain=False, ticks=False)
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=2, color=GREEN, point=_choose_dots(known, color=GREEN))
        .encode(
            x=_time_axis(), y=alt.Y("value:Q", axis=axis, scale=alt.Scale(domain=[lowest, 1])), detail="run:N"
        )
    )


def _plot_reasons(summary: Summary) -> alt.LayerChart | None:
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
