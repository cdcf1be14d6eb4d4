"""`kpiflow compare`: the variants of an experiment beside its control."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from pipelines.commands.query import require_folder
from pipelines.console import escape_line, out, print_json
from pipelines.failures import WrongUse, make_missing_error
from pipelines.inputs import parse_span
from pipelines.queries.limits import Limits
from pipelines.queries.query import name_nearest
from pipelines.queries.table_queries import EXPERIMENT_METRICS
from pipelines.text_tables import make_table, print_table
from pipelines.verify.output_description import read_row_settings

if TYPE_CHECKING:
    from pipelines.analysis.comparison import Comparison, Effect

MOST_TASKS = 20_000_000
_CONTROL = "control"
_LEAST_SHARE = 1e-6
"""With shares that are smaller, or larger than its inverse, the check of the shares overflows."""


def compare(
    ctx: typer.Context,
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="Output folder; a stream may be writing to it.")
    ],
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="`experiment` in the metadata of its tasks.")
    ],
    control: Annotated[
        str, typer.Option(metavar="VARIANT", help="The variant that the others are compared with.")
    ] = _CONTROL,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", metavar="NAME", help="Only this metric; may be repeated.", show_default="all"
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
        from pipelines.analysis.comparison import Unit
        from pipelines.analysis.comparison import compare as compare_tasks
        from pipelines.analysis.experiments import read_tasks
    except ImportError as error:
        raise make_missing_error("compare", error, "analysis") from error
    if unit is not None and unit not in set(Unit):
        raise WrongUse(f"--unit {unit[:50]} is not known", "give task or agent")
    chosen = tuple(dict.fromkeys(metrics or EXPERIMENT_METRICS))
    if unknown := [name for name in chosen if name not in EXPERIMENT_METRICS]:
        advice = name_nearest(unknown[0], list(EXPERIMENT_METRICS))
        raise WrongUse(f"no metric is called {unknown[0][:50]}", advice)
    folder, span = require_folder(output), parse_span(start, end)
    minutes = read_row_settings(folder, "compared")["file_minutes"]
    tasks = read_tasks(folder, experiment, chosen, span, minutes, Limits(MOST_TASKS, seconds, memory_mb))
    names = list(tasks.names)
    if control not in names:
        raise WrongUse(
            f"no task has the variant {control[:50]}", f"--control: {name_nearest(control, names)}"
        )
    if len(names) < 2:
        raise WrongUse(f"all tasks have the variant {control}", "compare once another variant has tasks")
    planned = parse_shares(shares, names) if shares else None
    found = compare_tasks(tasks, control, planned, alpha, Unit(unit) if unit else None)
    if as_json:
        print_json(list_comparison(found, alpha))
    else:
        _print(found, alpha)


def parse_shares(words: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """The planned share of each variant, from words `VARIANT=SHARE`.

    Raises:
        WrongUse: a share is no number between the least and the largest, a variant has two, or one of `names`
            has none.
    """
    shares: dict[str, float] = {}
    for word in words:
        name, equals, value = word.rpartition("=")
        if name in shares:
            raise WrongUse(f"{name[:50]} has two shares", "give --share once for each variant")
        try:
            shares[name] = float(value)
        except ValueError:
            shares[name] = 0.0
        if not (equals and _LEAST_SHARE <= shares[name] <= 1 / _LEAST_SHARE):
            raise WrongUse(
                f"--share {word[:50]} is not a share", "write VARIANT=SHARE, such as treatment=0.1"
            )
    if missing := [name for name in names if name not in shares]:
        raise WrongUse(f"the variant {missing[0][:50]} has no share", "give --share for every variant")
    return shares


def list_comparison(found: "Comparison", alpha: float) -> dict[str, Any]:
    """The comparison as JSON; numbers that are unknown are null."""
    effects = [asdict(each) | {"since": _name_time(each)} for each in found.effects]
    plain = [{name: _drop_nan(value) for name, value in each.items()} for each in effects]
    return {
        "control": found.control, "unit": found.unit, "alpha": alpha, "units": dict(found.counts),
        "ratio_p": found.ratio_p, "reason": found.reason or None, "effects": plain,
    }  # fmt: skip


def _print(found: "Comparison", alpha: float) -> None:
    counts = ", ".join(f"{count:,} of {escape_line(name)}" for name, count in found.counts.items())
    out.print(f"{found.unit or 'unit'}s: {counts}")
    table = make_table(
        ["variant", "metric"], [found.control, "mean", "difference", f"{1 - alpha:.3g} interval", "p"]
    )
    table.add_column("verdict")
    for each in found.effects:
        interval = "" if each.low is None or each.high is None else f"{each.low:.4g} to {each.high:.4g}"
        numbers = (_format(each.control), _format(each.mean), _format(each.difference), interval)
        verdict = str(each.verdict) + (f" since {_name_time(each)}" if each.since is not None else "")
        table.add_row(escape_line(each.variant), each.metric, *numbers, f"{each.p:.2g}", verdict)
    print_table(table)
    for reason in dict.fromkeys(each.reason for each in found.effects if each.reason):
        out.print(Text(f"no conclusion: {reason}", style="yellow"))


def _name_time(effect: "Effect") -> str | None:
    from pipelines.analysis.comparison import BLOCK_MINUTES

    if effect.since is None:
        return None
    return datetime.fromtimestamp((effect.since + 1) * 60 * BLOCK_MINUTES, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _format(value: float) -> str:
    return f"{value:.4g}" if isfinite(value) else ""


def _drop_nan(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value
