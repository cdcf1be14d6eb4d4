"""`kpiflow quality`: the scores of the data against their thresholds, and the rules that reports break."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pipelines.console import out, print_json
from pipelines.failures import CheckFailed, WrongUse
from pipelines.summary.broken_reports import read_broken_reports
from pipelines.summary.quality import QUALITY, Quality, SourceQuality, read_quality
from pipelines.summary.quality_views import (
    describe_reports,
    format_missed,
    list_quality,
    list_reports,
    name_missed,
    name_source,
    name_thresholds,
    tabulate_rules,
    tabulate_sources,
)
from pipelines.text_tables import make_table, print_table
from pipelines.time_flags import parse_span
from pipelines.verify.output_description import make_underived_error, require_local, require_output
from transforms.core.errors import DamagedFile
from transforms.core.time_range import Span
from transforms.derived.rules import RULES, InconsistencyRule

HOURS_SHOWN = 10
"""Hours with a missed score that are printed; `--json` has every hour."""
REPORTS_SHOWN = 20
"""Reports that break a rule that are printed, unless `--limit` says otherwise."""


def quality(
    ctx: typer.Context,
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="Output folder; a stream may be writing to it.")
    ],
    start: Annotated[
        str | None, typer.Option("--from", help="Only messages received at or after this time (RFC 3339).")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Only messages received before this time.")] = None,
    name: Annotated[
        str | None,
        typer.Option("--rule", metavar="NAME", help="List the newest reports that break this rule."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="With --rule: at most so many reports.", show_default=str(REPORTS_SHOWN)),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; without --rule it has every hour.")
    ] = False,
) -> None:
    """Check the quality of the data: completeness, accuracy, timeliness and consistency of each source.

    The scores are those of the derived table data_quality, as of the last `kpiflow derive`. The exit code is
    1 if a score of a source, over the whole span, is below its threshold. Rules count the reports that were
    recorded in the span.

    With --rule nothing is checked. The reports that break the rule are listed, with the evidence, and with
    the record that resolved it if there is one.
    """
    folder, span = require_local(output), parse_span(start, end)
    rule = _find_rule(name, limit)
    require_output(folder)
    try:
        is_derived = (
            _list_reports(folder, rule, span, limit or REPORTS_SHOWN, as_json)
            if rule
            else _check(folder, span, as_json)
        )
    except DamagedFile as error:
        raise CheckFailed(str(error), f"run `kpiflow derive {output}`") from error
    if not is_derived:
        raise make_underived_error(output, QUALITY.table)


def _find_rule(name: str | None, limit: int | None) -> InconsistencyRule | None:
    if name is None and limit is not None:
        raise WrongUse("--limit is about the reports that break a rule", "add --rule NAME")
    rules = {rule.name: rule for rule in RULES}
    if name is not None and name not in rules:
        raise WrongUse(f"no rule is called {name}", f"give one of {', '.join(rules)}")
    return rules[name] if name else None


def _list_reports(folder: Path, rule: InconsistencyRule, span: Span, limit: int, as_json: bool) -> bool:
    """Print the reports that break a rule. False if there are no derived tables."""
    found = read_broken_reports(folder, rule, span, limit)
    if found and as_json:
        print_json(list_reports(found), datetime.isoformat)
    elif found:
        for line in describe_reports(found):
            out.print(line)
    return found is not None


def _check(folder: Path, span: Span, as_json: bool) -> bool:
    """Print the quality. False if there are no derived tables.

    Raises:
        CheckFailed: a score is below its threshold.
    """
    found = read_quality(folder, span)
    if found and as_json:
        print_json(list_quality(found), datetime.isoformat)
    elif found:
        _print(folder, found)
    if found and found.missed:
        raise CheckFailed(f"{folder} is below {name_missed(found.missed)}")
    return found is not None


def _print(folder: Path, found: Quality) -> None:
    if not found.sources:
        out.print("no messages were received in this span")
        return
    print_table(tabulate_sources(found.sources))
    out.print(Text(name_thresholds(found.sources), style="dim"))
    if low := sorted((each for each in found.hours if each.missed), key=lambda each: -each.lacking):
        _print_hours(low, len(found.hours))
    if found.rules:
        out.print(Text("\nRules that reports break:", style="bold"))
        print_table(tabulate_rules(found.rules))
        command = f"`kpiflow quality {folder} --rule {found.rules[0].rule}`"
        out.print(Text(f"{command} lists the reports of a rule with their evidence", style="dim"))


def _print_hours(low: Sequence[SourceQuality], total: int) -> None:
    """Print those that come first of the hours with a missed score, and how many of `total` these are."""
    shown = low[:HOURS_SHOWN]
    worst = f"; the {len(shown)} that lack most" if len(shown) < len(low) else ""
    title = f"\nHours of the sources with a score below its threshold, {len(low):,} of {total:,}{worst}:"
    out.print(Text(title, style="bold"))
    table = make_table(["hour", "source", "below its threshold"], ["received", "lacks"])
    for each in shown:
        hour = f"{each.start:%Y-%m-%d %H:00}" if each.start else "unknown"
        missed = ", ".join(f"{score.name} {format_missed(score)}" for score in each.missed)
        counts = (f"{each.received:,}", f"{each.lacking:,}")
        table.add_row(hour, Text(name_source(each.source)), missed, *counts)
    print_table(table)
    lacks = "lacks: so many more of its messages had to be good to meet the threshold"
    out.print(Text(lacks, style="dim"))
