"""The quality of an output as tables of a terminal, as texts, and as dicts for JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from pipelines.console import escape_line
from pipelines.summary.quality import BrokenRule, Quality, Score, SourceQuality
from pipelines.summary.summary import format_percent
from pipelines.text_tables import make_table


def list_quality(found: Quality) -> dict[str, Any]:
    """The quality as dicts and lists. Times stay datetimes."""
    return {
        "met": not found.missed,
        "sources": [_list_window(each) for each in found.sources],
        "hours": [_list_window(each) for each in found.hours],
        "rules": [asdict(each) | {"open": each.open} for each in found.rules],
    }


def _list_window(window: SourceQuality) -> dict[str, Any]:
    scores = {
        score.name: score._asdict() | {"value": score.value, "met": score.is_met} for score in window.scores
    }
    for score in scores.values():
        del score["name"]
    return {"source": window.source, "start": window.start, "received": window.received, "scores": scores}


def name_thresholds(sources: Sequence[SourceQuality]) -> str:
    """The threshold of each score, in one line."""
    thresholds = dict.fromkeys(
        f"{score.name} {100 * score.threshold:g} %" for each in sources for score in each.scores
    )
    return f"thresholds: {', '.join(thresholds)}"


def format_score(score: Score) -> str:
    """A score as text; an exclamation mark says that it is below its threshold."""
    text = format_percent(score.value)
    return text if score.is_met else f"! {text}"


def tabulate_sources(sources: Sequence[SourceQuality]) -> Table:
    """A table of the scores of sources; a score below its threshold is red, behind an exclamation mark."""
    table = make_table(["source"], ["received", *(score.name for score in sources[0].scores)])
    for each in sources:
        table.add_row(Text(escape_line(each.source)), f"{each.received:,}", *map(_draw_score, each.scores))
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
