"""The page of `kpiflow show --html`: one HTML text with its style and its charts inside, no script, nothing
fetched.

`page.html` is the template; this module gives it its data. Text of the data is shown, never obeyed: the
template escapes every value, and what does not print becomes its code first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.console import escape_line
from pipelines.summary.charts import CHARTED_HOURS, FATES, IN_THE_DARK, PERCENTILES, draw_figures
from pipelines.summary.quality import Quality
from pipelines.summary.quality_views import format_score, name_thresholds
from pipelines.summary.summary import HourCounts, Summary, format_number, format_percent
from schemas.tables import METRICS

OPEN_HOURS = 24
"""Up to so many hours the table of hours is open at first."""


@dataclass(frozen=True)
class PageTable:
    """A table of the page: the name and the style of each column, rows of text, and a note above them."""

    title: str
    columns: dict[str, str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def render_page(summary: Summary) -> str:
    """The whole page."""
    return (
        _load_environment()
        .get_template("page.html")
        .render(
            summary=summary,
            cards=list(_fill_cards(summary)),
            figures=list(draw_figures(summary)),
            tables=[
                _list_kinds(summary),
                *_list_quality(summary.quality),
                _list_reasons(summary),
                _list_outliers(summary),
                _list_agents(summary),
            ],
            hours=_list_hours(summary),
            open_hours=OPEN_HOURS,
            dark=IN_THE_DARK,
        )
    )


def _load_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else escape_line(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["zip"] = zip
    environment.filters["minute"] = "{:%Y-%m-%d %H:%M}".format
    environment.filters["count"] = "{:,}".format
    return environment


def _fill_cards(summary: Summary) -> Iterator[tuple[str, str, str]]:
    """Name, value and remark of each card."""
    for name in FATES:
        count = getattr(summary, name)
        yield name, f"{count:,}", format_percent(summary.share(count))
    if summary.kinds:
        yield "records", f"{summary.records:,}", format_percent(summary.share(summary.records))
    yield "success rate", format_percent(summary.success_rate), f"{summary.failed:,} failed"
    yield "agents", f"{summary.agents:,}", ""
    yield "outliers", f"{sum(summary.outliers.values()):,}", "flagged values"


def _list_kinds(summary: Summary) -> PageTable:
    rows = [
        (each.kind, f"{each.stored:,}", f"{each.duplicates:,}", f"{each.quarantined:,}")
        for each in summary.kinds
    ]
    return PageTable(
        "Messages by kind", {"kind": "", "stored": "n", "duplicates": "n", "quarantined": "n"}, rows
    )


def _list_quality(found: Quality | None) -> Iterator[PageTable]:
    if not found or not found.sources:
        return
    names = [score.name for score in found.sources[0].scores]
    scores = [(each.source, f"{each.received:,}", *map(format_score, each.scores)) for each in found.sources]
    columns = {"source": "", **dict.fromkeys(("received", *names), "n")}
    note = f"! is below its threshold; {name_thresholds(found.sources)}"
    yield PageTable("Quality by source", columns, scores, note)
    rules = [
        (each.rule, each.severity, f"{each.broken:,}", f"{each.resolved:,}", f"{each.open:,}")
        for each in found.open_rules
    ]
    columns = {"rule": "", "severity": "", **dict.fromkeys(("broken", "resolved", "open"), "n")}
    yield PageTable("Open inconsistencies by rule", columns, rules)


def _list_reasons(summary: Summary) -> PageTable:
    columns = {"reason": "", "count": "n", "share": "n", "field": "id", "rule": "id"}
    rows = []
    for reason in summary.reasons:
        cause = [text or "" for text in (reason.field, reason.rule, reason.example)]
        share = format_percent(reason.count / summary.quarantined)
        rows.append((str(reason.reason), f"{reason.count:,}", share, *cause))
    return PageTable("Quarantine by reason", columns | {"example of the commonest cause": "text"}, rows)


def _list_outliers(summary: Summary) -> PageTable:
    columns = {"metric": "", "count": "n", "share": "n", "the farthest of the newest hour": "text"}
    columns |= {"recorded at": "t", "agent": "id", "task": "id"}
    examples = {
        each.metric: (each.explain(), f"{each.recorded_at:%Y-%m-%d %H:%M:%S}", each.agent_id, each.task_id)
        for each in summary.examples
    }
    rows = [
        (
            metric,
            f"{count:,}",
            format_percent(count / max(summary.reports, 1)),
            *examples.get(metric, ("",) * 4),
        )
        for metric, count in summary.outliers.items()
    ]
    return PageTable("Outliers by metric", columns, rows)


def _list_agents(summary: Summary) -> PageTable:
    columns = {"agent": "id", "reports": "n", "failed": "n", "flags": "n", **dict.fromkeys(METRICS, "n")}
    rows = []
    for agent in summary.worst_agents:
        flags = list(agent.outliers.values())
        counts = (agent.reports, agent.failed, sum(flags), *flags)
        rows.append((agent.agent_id, *(f"{count:,}" for count in counts)))
    return PageTable("Agents with the most outliers", columns, rows)


def _list_hours(summary: Summary) -> PageTable:
    columns = {"hour": "t", **dict.fromkeys((*FATES, "success", *PERCENTILES, *METRICS), "n")}
    rows = [list(_list_hour(hour)) for hour in summary.hours[-CHARTED_HOURS:]]
    return PageTable("Hour by hour", columns, rows)


def _list_hour(hour: HourCounts) -> Iterator[str]:
    latency = hour.latency
    yield f"{hour.start:%Y-%m-%d %H:%M}"
    yield from (f"{getattr(hour, name):,}" for name in FATES)
    yield format_percent(hour.success_rate)
    yield from map(format_number, (latency.p50_ms, latency.p95_ms, latency.p99_ms)) if latency else "---"
    yield from (f"{count:,}" for count in hour.outliers.values())
