"""`kpiflow quality`: the scores of the data against their thresholds, and the rules that reports break."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pipelines.console import escape_line, out, print_json
from pipelines.failures import CheckFailed
from pipelines.inputs import parse_span
from pipelines.summary.quality import Quality, SourceQuality, read_quality
from pipelines.summary.quality_views import (
    list_quality,
    name_thresholds,
    tabulate_rules,
    tabulate_sources,
)
from pipelines.summary.summary import format_percent
from pipelines.text_tables import make_table
from pipelines.verify.output_description import make_underived_error, require_local, require_output
from transforms.core.errors import DamagedFile

HOURS_SHOWN = 10
"""Hours with a missed score that are printed; `--json` has every hour."""


def quality(
    ctx: typer.Context,
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="Output folder; a stream may be writing to it.")
    ],
    start: Annotated[
        str | None, typer.Option("--from", help="Only messages received at or after this time (RFC 3339).")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Only messages received before this time.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print scores, hours and rules as JSON.")] = False,
) -> None:
    """Check the quality of the data: completeness, accuracy, timeliness and consistency of each source.

    The scores are those of the derived table data_quality, as of the last `kpiflow derive`. The exit code is
    1 if a score of a source, over the whole span, is below its threshold. Rules count the reports that were
    recorded in the span.
    """
    folder, span = require_local(output), parse_span(start, end)
    require_output(folder)
    try:
        found = read_quality(folder, span)
    except DamagedFile as error:
        raise CheckFailed(str(error), f"run `kpiflow derive {output}`") from error
    if found is None:
        raise make_underived_error(output)
    if as_json:
        print_json(list_quality(found), datetime.isoformat)
    else:
        _print(found)
    if found.missed:
        raise CheckFailed(f"{output} is below {_name_missed(found.missed)}")


def _print(found: Quality) -> None:
    if not found.sources:
        out.print("no messages were received in this span")
        return
    out.print(tabulate_sources(found.sources))
    out.print(Text(name_thresholds(found.sources), style="dim"))
    low = [each for each in found.hours if each.missed]
    if low:
        shown = sorted(low, key=lambda each: min(score.value or 0 for score in each.missed))[:HOURS_SHOWN]
        more = f", the lowest {len(shown)} of them" if len(shown) < len(low) else ""
        out.print(Text(f"\nHours with a score below its threshold{more}:", style="bold"))
        out.print(_tabulate_hours(shown))
    if found.rules:
        out.print(Text("\nRules that reports break:", style="bold"))
        out.print(tabulate_rules(found.rules))


def _tabulate_hours(hours: Sequence[SourceQuality]) -> Table:
    table = make_table(["hour", "source", "below its threshold"], ["received"])
    for each in hours:
        hour = f"{each.start:%Y-%m-%d %H:00}" if each.start else "unknown"
        missed = ", ".join(f"{score.name} {format_percent(score.value)}" for score in each.missed)
        table.add_row(hour, Text(escape_line(each.source)), missed, f"{each.received:,}")
    return table


def _name_missed(windows: Sequence[SourceQuality]) -> str:
    missed = [f"{score.name} of {each.source}" for each in windows for score in each.missed]
    return ", ".join(missed)
