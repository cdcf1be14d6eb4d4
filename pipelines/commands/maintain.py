"""`kpiflow maintain`: seals, moves and expires days of an output."""

import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from pipelines.console import announce, err, out, print_json, print_result
from pipelines.jobs.job_description import read_job
from pipelines.jobs.maintain import COLD, WARM, Maintenance
from pipelines.maintenance.plan import EXPIRE, EXPIRE_UNTIMED, MaintenancePlan, MaintenanceStep
from pipelines.progress import open_bar
from pipelines.settings import Settings
from pipelines.text_tables import make_table, print_table
from pipelines.verify.output_description import require_output, translate_sink_errors
from transforms.core.counts import format_count
from transforms.core.events import MAINTAINED
from transforms.encryption.rotation import rotate_due_keys
from transforms.storage.local_folder import LocalFolder


def maintain(
    ctx: typer.Context,
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Output folder; a stream may be writing to it.")
    ],
    warm: Annotated[
        str | None,
        typer.Option("--warm", metavar="URL", help="Where sealed days move first: a folder, s3:// or gs://."),
    ] = None,
    cold: Annotated[str | None, typer.Option("--cold", metavar="URL", help="Where they move then.")] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            "--state", help="The --state folder of the stream that writes the output, if it has one."
        ),
    ] = None,
    expire: Annotated[
        bool, typer.Option("--expire", help="Let more than half of the output's days expire at once.")
    ] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only print what is due.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was due, or is, as JSON.")] = False,
) -> None:
    """Do what is due in an output: seal complete days, move old ones, expire the oldest, rotate keys.

    A sealed day has one file for each table instead of one for each half hour. --warm and --cold are kept:
    later runs need not name them. A run that dies can be run again. Nothing expires if more than half of the
    output's days would go from any table, unless --expire is given: the rest is done, and the exit code is 1.
    """
    urls = {tier: url for tier, url in ((WARM, warm), (COLD, cold)) if url is not None}
    settings = ctx.obj.settings()
    work = Maintenance(require_output(output), settings, urls, home, expire_most=expire)
    _rotate_keys(output, home or output, settings, dry)
    if dry:
        _print_plan(work.plan(), as_json)
        return
    began = time.perf_counter()
    with open_bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task("", total=None)

        def follow(step: MaintenanceStep, done: int, total: int) -> None:
            bar.update(
                task, completed=done, total=total, description=f"{step.action} {step.folder} {step.day}"
            )
            if not err.is_terminal:
                announce(
                    MAINTAINED, action=step.action, folder=step.folder, day=str(step.day), tier=step.tier
                )

        plan = work.run(follow)
    _print_end(plan, output, time.perf_counter() - began, as_json)
    if plan.withheld:
        raise typer.Exit(1)


def _print_end(plan: MaintenancePlan, output: Path, seconds: float, as_json: bool) -> None:
    if as_json:
        print_json(_describe(plan))
        return
    counts = ", ".join(f"{action} {count:,}" for action, count in _count(plan).items()) or "nothing was due"
    print_result(f"{counts}; {seconds:.1f} s -> {output}{_explain(plan)}")
    _print_withheld(plan)


def _rotate_keys(output: Path, home: Path, settings: Settings, dry: bool) -> None:
    """Rotate the keys of an encrypted output, and of the archive that its stream writes, if that is due; or
    only say so."""
    archive = read_job(home).get("archive")
    for place in (output, *([Path(archive)] if archive else [])):
        now = datetime.now(UTC)
        with translate_sink_errors():
            due = rotate_due_keys(LocalFolder(place), settings.master_key, now, settings.rotate_days, not dry)
        if due is not None:
            what = "is due" if dry else "was due, and is done"
            about = f"rotation of {format_count(due.keys, 'key')} of {place}"
            err.print(f"{about} {what}: since {due.due:%Y-%m-%d}", markup=False, soft_wrap=True)


def _print_plan(plan: MaintenancePlan, as_json: bool) -> None:
    if as_json:
        print_json(_describe(plan))
        return
    table = make_table(["step", "table", "day", "tier"], [])
    for step in plan.steps:
        day = f"before {step.day}" if step.action in (EXPIRE, EXPIRE_UNTIMED) else str(step.day)
        table.add_row(step.action, step.folder, day, step.tier)
    print_table(table)
    out.print(f"due: {format_count(len(plan.steps), 'step')}{_explain(plan)}")
    _print_withheld(plan)


def _print_withheld(plan: MaintenancePlan) -> None:
    if plan.withheld:
        what = ", ".join(
            f"{format_count(days, 'day')} of {folder} before {day}" for folder, day, days in plan.withheld
        )
        why = "that is more than half of the output's days"
        out.print(f"nothing expires, since {why}; --expire allows it: {what}")


def _describe(plan: MaintenancePlan) -> dict[str, object]:
    complete = plan.complete_before and plan.complete_before.isoformat()
    return {
        "complete_before": complete,
        "steps": [step.as_json() for step in plan.steps],
        "withheld": [each.as_json() for each in plan.withheld],
    }


def _count(plan: MaintenancePlan) -> dict[str, int]:
    return dict(Counter(step.action for step in plan.steps))


def _explain(plan: MaintenancePlan) -> str:
    if plan.complete_before is not None:
        return ""
    return "; no day is known to be complete: the stream has not committed a position yet"
