"""The quality of an output as tables of a terminal, as texts, and as dicts for JSON."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from pipelines.console import escape_line, style_head
from pipelines.summary.broken_reports import BrokenReport, BrokenReports
from pipelines.summary.quality import BrokenRule, Quality, Score, SourceQuality
from pipelines.summary.summary import format_percent
from pipelines.text_tables import make_table
from transforms.core.counts import format_count

_SHOWN, _NAMED, _NAME = 50, 3, 200
"""Sources of a table, sources that an error names, and letters of a source's name; `--json` has all."""


def list_quality(found: Quality) -> dict[str, Any]:
    """The quality as dicts and lists. Times stay datetimes."""
    return {
        "met": not found.missed,
        "sources": [_list_window(each) for each in found.sources],
        "hours": [_list_window(each) for each in found.hours],
        "rules": [_list_rule(each) for each in found.rules],
    }


def list_reports(found: BrokenReports) -> dict[str, Any]:
    """The reports that break a rule as dicts and lists. Times stay datetimes."""
    reports = [asdict(each) for each in found.newest]
    return _list_rule(found.counts) | {"meaning": found.meaning, "reports": reports}


def _list_rule(rule: BrokenRule) -> dict[str, Any]:
    return asdict(rule) | {"open": rule.open}


def _list_window(window: SourceQuality) -> dict[str, Any]:
    scores = {
        score.name: score._asdict() | {"value": score.value, "met": score.is_met} for score in window.scores
    }
    for score in scores.values():
        del score["name"]
    return {"source": window.source, "start": window.start, "received": window.received, "scores": scores}


def name_source(source: str) -> str:
    """A source on one line. Its name came with a message, so it may be anything."""
    text = escape_line(source)
    return text if len(text) <= _NAME else f"{text[:_NAME]}..."


def name_missed(windows: Sequence[SourceQuality]) -> str:
    """Which scores of which sources are below their thresholds, for one line."""
    named = [
        f"{score.name} of {name_source(each.source)}" for each in windows[:_NAMED] for score in each.missed
    ]
    if more := len(windows[_NAMED:]):
        named.append(f"and of {format_count(more, 'other source')}")
    return ", ".join(named)


def name_thresholds(sources: Sequence[SourceQuality]) -> str:
    """The threshold of each score, in one line."""
    thresholds = dict.fromkeys(
        f"{score.name} {100 * score.threshold:g} %" for each in sources for score in each.scores
    )
    return f"thresholds: {', '.join(thresholds)}"


def format_score(score: Score) -> str:
    """A score as text; an exclamation mark says that it is below its threshold."""
    return format_percent(score.value) if score.is_met else f"! {format_missed(score)}"


def format_missed(score: Score) -> str:
    """A score below its threshold as text, rounded down: so it does not read like the threshold."""
    return format_percent(math.floor(1000 * (score.value or 0.0)) / 1000)


def tabulate_sources(sources: Sequence[SourceQuality]) -> Table:
    """A table of the scores of sources; a score below its threshold is red, behind an exclamation mark.

    Of many sources those below a threshold come first, and the rest is only counted.
    """
    table = make_table(["source"], ["received", *(score.name for score in sources[0].scores)])
    many = len(sources) > _SHOWN
    for each in sorted(sources, key=lambda each: not each.missed)[:_SHOWN] if many else sources:
        table.add_row(Text(name_source(each.source)), f"{each.received:,}", *map(_draw_score, each.scores))
    if many:
        table.add_row(f"and {format_count(len(sources) - _SHOWN, 'other source')}; --json has all")
    return table


def _draw_score(score: Score) -> Text:
    return Text(format_score(score), style="" if score.is_met else "bold red")


def tabulate_rules(rules: Sequence[BrokenRule]) -> Table:
    """A table of broken rules."""
    table = make_table(["rule", "severity"], ["broken", "resolved", "open"])
    for each in rules:
        counts = (f"{count:,}" for count in (each.broken, each.resolved, each.open))
        table.add_row(each.rule, each.severity, *counts)
    return table


def describe_reports(found: BrokenReports) -> Iterator[Text]:
    """Lines about the reports that break a rule."""
    counts, shown = found.counts, len(found.newest)
    yield style_head("bold", counts.rule, f" ({counts.severity}): {found.meaning}")
    newest = f"; the newest {shown:,}:" if shown < counts.broken else ""
    if not counts.broken:
        yield Text("no report of this span breaks it")
        return
    yield Text(f"{counts.broken:,} broken, {counts.resolved:,} resolved, {counts.open:,} open{newest}")
    for each in found.newest:
        yield from _describe_report(each)


def _describe_report(report: BrokenReport) -> Iterator[Text]:
    yield Text("")
    names = f"  task {report.task_id}  agent {report.agent_id}  report {report.report_id}"
    yield style_head("bold", _format_time(report.recorded_at), escape_line(names))
    yield Text(f"  evidence: {_format_values(report.evidence)}")
    if report.resolved_at and report.resolved_by:
        yield Text(f"  resolved {_format_time(report.resolved_at)} by {_format_values(report.resolved_by)}")
    else:
        yield Text("  open: no later record has resolved it")


def _format_time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _format_values(values: dict[str, Any]) -> str:
    """Names and values on one line."""
    texts = (
        f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()
    )
    return escape_line(", ".join(texts))
