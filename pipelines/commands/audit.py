"""`kpiflow audit verify|head`: whether the audit of a service is as it was written."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.console import out, print_json, print_result
from pipelines.failures import CheckFailed, RunFailed, WrongUse
from pipelines.service.audit.chain import MONTH, ChainHead, list_chains
from pipelines.service.audit.tail import ChainDamaged, read_tail
from pipelines.service.audit.verify import ChainReport, parse_heads, verify_audit
from transforms.core.counts import format_count
from transforms.core.durable_files import sync_path

audit = typer.Typer(help="Verify the audit of a service; print its heads.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="The folder of the audit.", metavar="DIR")]
_SHOWN = 10


@audit.command()
def verify(
    folder: Folder,
    heads: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            help="A head that was anchored elsewhere, `WRITER SEQ HASH`, or a file whose lines end in heads.",
            metavar="HEAD|FILE",
        ),
    ] = None,
    expired_before: Annotated[
        str, typer.Option(help="Files of months before this one were removed on purpose.", metavar="YYYY-MM")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Find lines that were changed, removed, added or, with --head, cut off.

    What a crash leaves is named and is not a problem: an unfinished line that the next start explains, and
    answers that did not end. Without --head the end of a chain can be removed, or the whole chain written
    again, without being found. Exit code 1 if there is a problem.
    """
    if expired_before and not MONTH.fullmatch(f"{expired_before}.jsonl"):
        raise WrongUse(f"{expired_before[:50]} is not a month", "write YYYY-MM")
    anchors = [anchor for text in heads or () for anchor in _read_heads(text)]
    if not anchors:
        _require_audit(folder)
    try:
        reports = verify_audit(folder, anchors, expired_before)
    except OSError as error:
        raise RunFailed(f"cannot read {error.filename}: {error.strerror}", "check its permissions") from error
    if as_json:
        print_json([_as_json(report) for report in reports])
    else:
        for report in reports:
            _print(report)
        if not anchors:
            print_result("without --head, lines that were cut off at the end are not found")
    problems = sum(report.problem_count for report in reports)
    if problems:
        fix = "compare it with its copy and with the heads that were anchored; do not correct it"
        raise CheckFailed(f"the audit has {format_count(problems, 'problem')}", fix)


@audit.command()
def head(folder: Folder) -> None:
    """Print the head of each chain: `WRITER SEQ HASH`. Keep it where this machine cannot change it."""
    _require_audit(folder)
    for chain in list_chains(folder):
        try:
            tail = read_tail(chain)
            sync_path(chain / f"{tail.month}.jsonl")  # an anchored line must not vanish in a power cut
        except ChainDamaged as error:
            raise CheckFailed(str(error), f"`kpiflow audit verify {folder}`") from error
        except OSError as error:
            raise RunFailed(f"cannot read {chain}: {error.strerror}", "check its permissions") from error
        typer.echo(f"{chain.name} {tail.head.seq} {tail.head.hash}")


def _require_audit(folder: Path) -> None:
    try:
        found = list_chains(folder)
    except OSError as error:
        raise RunFailed(f"cannot read {folder}: {error.strerror}", "name the folder of --audit") from error
    if not found:
        raise WrongUse(f"{folder} has no audit", "name the folder that `kpiflow serve` has as --audit")


def _read_heads(text: str) -> list[tuple[str, ChainHead]]:
    try:
        return parse_heads(Path(text).read_text() if len(text.split()) < 3 else text)
    except (OSError, ValueError) as error:
        fix = "give --head a line that `kpiflow audit head` printed, or a file of such lines"
        raise WrongUse(f"{text[:100]} is not a head: {error}", fix) from error


def _print(report: ChainReport) -> None:
    span = f", {report.first} to {report.last}" if report.lines else ""
    print_result(f"{report.name}: {format_count(report.lines, 'line')}{span}")
    for problem in report.problems:
        out.print(f"  problem: {problem}", markup=False)
    if hidden := report.problem_count - len(report.problems):
        out.print(f"  and {hidden:,} more")
    for torn in report.torn:
        out.print(f"  a crash left {torn}", markup=False)
    for text, numbers in (("that a crash ended", report.cut_short), ("that have not ended", report.open)):
        if numbers:
            listed = ", ".join(map(str, numbers[:_SHOWN])) + ", ..." * (len(numbers) > _SHOWN)
            out.print(f"  answers {text}: {len(numbers):,} (line {listed})")


def _as_json(report: ChainReport) -> dict[str, Any]:
    return {
        "writer": report.name,
        "lines": report.lines,
        "first": report.first,
        "last": report.last,
        "head": {"seq": report.head.seq, "hash": report.head.hash},
        "problems": report.problems,
        "problem_count": report.problem_count,
        "torn": report.torn,
        "cut_short": report.cut_short,
        "open": report.open,
    }
