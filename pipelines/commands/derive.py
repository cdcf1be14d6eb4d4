"""`kpiflow derive`: tables that are made of tables."""

import time
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.table import Table

from pipelines.console import announce, err, print_result
from pipelines.jobs.derive import compare, make_deriver, make_limits
from pipelines.jobs.derive import derive as derive_output
from pipelines.progress import LINE_SECONDS, open_bar
from pipelines.text_tables import make_table, print_table
from pipelines.time_flags import parse_time
from pipelines.verify.output_description import read_row_settings, require_local
from runners.memory import prepare_memory
from transforms.core.counts import format_count
from transforms.core.events import DERIVE_PROGRESS
from transforms.derived.engine import PlanComparison
from transforms.derived.registry import DERIVED


def derive(
    ctx: typer.Context,
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="Output folder; a stream may be writing to it.")
    ],
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            help="Only reports whose wait for records was over at this time (RFC 3339), late ones up to the "
            "full ten minutes before it. Default: all. Give it if a job writes to the output whose "
            "watermark is not known here.",
        ),
    ] = None,
    tables: Annotated[
        list[str] | None, typer.Option("--table", help="Only this derived table. May be repeated.")
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only print how many files are stale or should not be there.")
    ] = False,
) -> None:
    """Make the derived tables of an output: features, recommendations, trends, inconsistencies and others.

    Only files are made that are missing, or whose stored rows, settings or SQL have changed. A run that dies
    can be run again.
    """
    settings, folder = ctx.obj.settings(), require_local(output)
    prepare_memory()
    values = settings.derived_settings() | read_row_settings(folder)
    deriver = make_deriver(folder, values, tables or (), make_limits(settings))
    moment = None if until is None else parse_time("--until", until)
    if dry:
        print_table(_tabulate(compare(folder, deriver, moment)))
        return
    began = time.perf_counter()
    with open_bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as bar:
        tasks, shown = {name: bar.add_task(name, total=None, visible=False) for name in DERIVED}, [began]

        def follow(table: str, done: int, total: int) -> None:
            bar.update(tasks[table], completed=done, total=total, visible=done < total)
            if not err.is_terminal and time.perf_counter() - shown[0] >= LINE_SECONDS:
                shown[0] = time.perf_counter()
                announce(DERIVE_PROGRESS, table=table, done=done, total=total)

        counts = derive_output(folder, deriver, moment, follow)
    seconds = time.perf_counter() - began
    rows = ", ".join(f"{format_count(count, 'row')} of {name}" for name, count in counts.rows.items())
    gone = f"; removed, since without rows: {format_count(counts.removed, 'file')}" if counts.removed else ""
    print_result(f"{rows or 'nothing was stale'} in {seconds:.1f} s{gone} -> {output}")
    if counts.changed:
        print_result(
            f"changed during the run: {format_count(counts.changed, 'file')}; the next run derives the rest"
        )


def _tabulate(found: list[PlanComparison]) -> Table:
    table = make_table(["table"], ["files", "stale", "surplus"])
    for each in found:
        counts = (len(each.units), len(each.stale), len(each.surplus))
        table.add_row(each.plan.table.table.name, *(f"{count:,}" for count in counts))
    return table
