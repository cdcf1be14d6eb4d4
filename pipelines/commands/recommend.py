"""`kpiflow recommend`: what could be changed, why, and what was seen after."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.text import Text

from pipelines.commands.query import require_folder
from pipelines.console import err, escape_line, out, print_json
from pipelines.failures import WrongUse
from pipelines.queries.formats import list_rows
from pipelines.queries.limits import QueryLimits
from pipelines.queries.query import name_nearest
from pipelines.queries.recommendation_queries import ADOPT_VARIANT, RECOMMENDATIONS
from pipelines.queries.run import run_query
from pipelines.text_tables import format_change, format_number
from pipelines.time_flags import parse_time
from pipelines.verify.output_description import read_row_settings, require_derived
from transforms.core.counts import format_count
from transforms.core.time_range import Span
from transforms.derived.evidence import parse_evidence
from transforms.derived.recommendation_rules import RECOMMENDATION_RULES

if TYPE_CHECKING:
    from pipelines.analysis.winner_rows import Winners

MOST_EXPERIMENTS = 100
_MOST_TASKS, _SECONDS, _MEMORY_MB = 5_000_000, 300, 4096
_TABLE = RECOMMENDATIONS.inputs[0].table
_OLDER = "--at TIME gives those of a past time, --all every one"


def recommend(
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="Output folder; a stream may be writing to it.")
    ],
    subject: Annotated[
        str | None, typer.Option(help="Only this agent type, agent, priority, source or experiment.")
    ] = None,
    rule: Annotated[str | None, typer.Option(help="Only this rule.")] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", help="What counted at this time (RFC 3339).", show_default="now"),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what has ended, has expired or was renewed.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most recommendations.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Print what could be changed, with the evidence, and whether the cause went away.

    kpiflow changes nothing itself. Each recommendation says when it expires.
    """
    names = [*(each.name for each in RECOMMENDATION_RULES), ADOPT_VARIANT]
    if rule is not None and rule not in names:
        raise WrongUse(f"no rule is called {rule[:50]}", name_nearest(rule, names))
    folder = require_folder(output)
    moment = parse_time("--at", at)
    found = _find(folder, _Wanted(subject, rule, moment, everything), limit)
    if as_json:
        reasons = found.winners.reasons if found.winners else {}
        print_json({"recommendations": found.rows, "is_cut": found.is_cut, "without_winner": reasons})
        return
    for row in found.rows:
        _print(row)
    _print_reasons(found.winners, subject)
    if not found.rows:
        out.print("no recommendations" if everything else f"no open recommendations; {_OLDER}")
    if found.is_cut:
        cut = f"cut after {format_count(limit, 'recommendation')}; give --limit more"
        err.print(Text(cut, style="dim"))


class _Wanted(NamedTuple):
    """Which recommendations to print."""

    subject: str | None
    rule: str | None
    at: datetime | None
    everything: bool


class _Recommended(NamedTuple):
    """Rows of recommendations, whether there are more, and the experiments that were compared for them."""

    rows: list[dict[str, Any]]
    is_cut: bool
    winners: "Winners | None"


def _find(folder: Path, wanted: _Wanted, limit: int) -> _Recommended:
    """Those of the stored table, at most `limit`, and the winners of experiments."""
    subject, rule, at, everything = wanted
    given = {"state": "all" if everything else "open", "at": at, "rule": rule, "subject": subject}
    minutes = read_row_settings(folder, "queried")["file_minutes"]
    answer = run_query(folder, RECOMMENDATIONS, given, Span(None, at), minutes, QueryLimits(limit))
    if not answer.files:
        require_derived(folder, _TABLE)
    rows = [row | {"evidence": parse_evidence(row["evidence"], _TABLE)} for row in list_rows(answer.rows)]
    winners = None
    if rule in (None, ADOPT_VARIANT):
        winners = _find_winners(folder, at, everything, minutes)
    if winners:
        rows += [row for row in winners.rows if subject in (None, row["subject"])]
    return _Recommended(rows, answer.cursor is not None, winners)


def _find_winners(folder: Path, at: datetime | None, everything: bool, minutes: int) -> "Winners | None":
    """The experiments with their winners; None where they cannot be compared."""
    try:
        from pipelines.analysis.winner_rows import list_winners
    except ImportError as error:
        err.print(Text(f"experiments are not compared: {error}; install kpiflow[analysis]", style="dim"))
        return None
    limits = QueryLimits(_MOST_TASKS, _SECONDS, _MEMORY_MB)
    return list_winners(folder, at, everything, minutes, limits, MOST_EXPERIMENTS)


def _print_reasons(winners: "Winners | None", subject: str | None) -> None:
    for name, reason in winners.reasons.items() if winners else ():
        if subject in (None, name):
            out.print(Text(f"no winner of the experiment {escape_line(name)}: {escape_line(reason)}", "dim"))
    if winners and winners.is_cut:
        err.print(Text(f"only the newest {MOST_EXPERIMENTS} experiments were compared", style="dim"))


def _print(row: dict[str, Any]) -> None:
    until = f"until {row['expires_at']}" if row["expires_at"] else f"outcome: {row['outcome']}"
    head = f"{row['rule']} of {row['subject_kind']} {row['subject']}: {row['state']}"
    out.print(Text(escape_line(head), style="bold"))
    if row["recommendation"]:
        out.print(Text(f"  {escape_line(row['recommendation'])}"))
    seen, confidence = escape_line(_describe(row["evidence"])), format_number(row["confidence"], ".6g")
    out.print(Text(f"  rule: {row['reason']}; seen: {seen}; confidence {confidence}"))
    out.print(Text(f"  since {row['since']}, decided {row['decided_at']}, {until}"))
    if row["followed_by"]:
        out.print(Text(f"  later: {row['followed_by']} at {row['followed_at']}"))


def _describe(seen: dict[str, Any]) -> str:
    """The evidence in words, with its interval; as JSON, if it is of a kind that is not known here."""
    try:
        return _describe_known(seen)
    except (LookupError, TypeError, ValueError):
        return json.dumps(seen)


def _describe_known(seen: dict[str, Any]) -> str:
    """The evidence in words: a share of tasks, a change of level, or a difference."""
    if "share" in seen:
        share = f"{seen['beyond']:,} of {seen['tasks']:,}, {seen['share']:.2%}"
        return f"{share} ({seen['low']:.2%} to {seen['high']:.2%})"
    if "variant" in seen:
        after = seen["after"]
        later = after["reason"] or _format_difference(after)
        return f"{seen['metric']} {_format_difference(seen)}; after that: {later}"
    size, low, high = (format_change(seen[name], seen["is_relative"]) for name in ("change", "low", "high"))
    of = "" if seen["level"] == "agent" else f" of the type {seen['agent_type']}"
    return f"{seen['metric']}{of} {size} ({low} to {high}) since {seen['changed_at']}"


def _format_difference(seen: dict[str, Any]) -> str:
    interval = f"({seen['low']:.4g} to {seen['high']:.4g})"
    return f"{seen['difference']:+.4g} {interval} of {format_count(seen['units'], 'unit')}"
