"""`kpiflow compare`: the variants of an experiment beside its control."""

from math import isfinite
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from pipelines.commands.query import require_folder
from pipelines.console import escape_line, out, print_json
from pipelines.failures import make_missing_error
from pipelines.queries.limits import QueryLimits
from pipelines.text_tables import make_table, print_table
from pipelines.time_flags import parse_span
from pipelines.verify.output_description import read_row_settings, require_derived
from transforms.derived.features import FEATURES

if TYPE_CHECKING:
    from pipelines.analysis.comparison import Comparison

_OBSERVED = "observational: nobody assigned these agents by chance, so a difference may have another cause"
MOST_TASKS = 20_000_000
_CONTROL = "control"


def compare(
    ctx: typer.Context,
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="Output folder; a stream may be writing to it.")
    ],
    experiment: Annotated[
        str | None,
        typer.Argument(
            metavar="EXPERIMENT", help="`experiment` in the metadata of its tasks.", show_default=False
        ),
    ] = None,
    agents: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIANT=AGENT,...|@FILE",
            help="In place of an experiment: compare sets of agents; a file has one agent a line.",
        ),
    ] = None,
    control: Annotated[
        str, typer.Option(metavar="VARIANT", help="The variant that the others are compared with.")
    ] = _CONTROL,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME[:pN]",
            help="Only this metric: its mean, or with :p95 a percentile; may be repeated.",
            show_default="the mean of each",
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Start of the experiment (RFC 3339); keep it fixed.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Only reports before this time.")] = None,
    shares: Annotated[
        list[str] | None,
        typer.Option(
            "--share",
            metavar="VARIANT=SHARE",
            help="Planned share of a variant.",
            show_default="equal shares",
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            metavar="task|agent", help="What was assigned to variants.", show_default="as the tasks show"
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Chance of any wrong verdict, over all looks.")
    ] = 0.05,
    seconds: Annotated[float, typer.Option(min=0.001, max=3600, help="Stop reading after so long.")] = 300,
    memory_mb: Annotated[int, typer.Option(min=16, help="Stop reading if it needs more memory.")] = 4096,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare the variants of an experiment with its control.

    You may look as often as you like: the chance of any wrong verdict stays below --alpha over all looks,
    metrics and variants. Where the data do not allow a conclusion, there is none, and the reason is given.
    """
    try:
        from pipelines.analysis.question import Question, list_comparison
    except ImportError as error:
        raise make_missing_error("compare", error, "analysis") from error
    question = Question.parse(experiment, agents or (), control, metrics or (), shares or (), unit, alpha)
    folder = require_folder(output)
    if question.experiment is not None:
        read_row_settings(folder, "compared")  # an error if there is no output
        require_derived(folder, FEATURES)
    found = question.answer(folder, parse_span(start, end), QueryLimits(MOST_TASKS, seconds, memory_mb))
    if as_json:
        print_json(list_comparison(found, alpha))
    else:
        _print(found, alpha)


def _print(found: "Comparison", alpha: float) -> None:
    from pipelines.analysis.question import name_time

    counts = ", ".join(f"{count:,} of {escape_line(name)}" for name, count in found.counts.items())
    out.print(f"{found.unit or 'unit'}s: {counts}")
    table = make_table(
        ["variant", "metric"],
        [escape_line(found.control), "value", "difference", f"{1 - alpha:.3g} interval", "p"],
    )
    table.add_column("verdict")
    for each in found.effects:
        interval = "" if each.low is None or each.high is None else f"{each.low:.4g} to {each.high:.4g}"
        numbers = (_format(each.control), _format(each.value), _format(each.difference), interval)
        verdict = str(each.verdict) + (f" since {name_time(each)}" if each.since is not None else "")
        table.add_row(escape_line(each.variant), each.metric, *numbers, f"{each.p:.2g}", verdict)
    print_table(table)
    for reason in dict.fromkeys(each.reason for each in found.effects if each.reason):
        out.print(Text(f"no conclusion: {reason}", style="yellow"))
    if not found.is_assigned:
        out.print(Text(_OBSERVED, style="yellow"))


def _format(value: float) -> str:
    return f"{value:.4g}" if isfinite(value) else ""
