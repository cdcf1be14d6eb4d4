"""`kpiflow reconcile`: proof that every message has exactly one fate."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from pipelines.commands.backfill import archives
from pipelines.console import err, out
from pipelines.failures import CheckFailed
from pipelines.tables.reconcile import Messages, Unreadable, Verdict
from pipelines.tables.reconcile import reconcile as check
from pipelines.tables.summary import printable
from transforms.sources.archives import Files, read
from transforms.sources.archives import Unreadable as UnreadableFile


def reconcile(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder that no run is writing to.")],
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="The archives that were read: files, folders or globs.", metavar="GLOB...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts and the problems as JSON.")] = False,
) -> None:
    """Check that every message is in exactly one table, and that no file was changed, removed or put elsewhere.

    The tables alone show most of it. With --input, the source itself is compared: only then can a message that is in no table, and
    a lost file of quarantined or duplicate messages, be seen.
    """
    files = archives(inputs) if inputs else None
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        verdict = check(
            output, _messages(files, bar) if files else None, lambda sequence, what: bar.track(sequence, description=what)
        )
    if as_json:
        typer.echo(json.dumps(verdict.as_json(), indent=2))
    else:
        _print(verdict)
    if verdict.problems:
        count = len(verdict.problems)
        raise CheckFailed(f"{output} does not reconcile: {count} problem{'s' * (count > 1)}")


def _messages(files: Files, bar: Progress) -> Messages:
    def messages(unreadable: Unreadable) -> Iterator[pa.RecordBatch]:
        task = bar.add_task("source", total=files.total_bytes)
        for block in read(files, on_bytes=lambda count: bar.advance(task, count)):
            if isinstance(block, UnreadableFile):
                unreadable(block.file, block.reason)
            else:
                yield block.raw
                yield block.bad

    return messages


def _print(verdict: Verdict) -> None:
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, count in verdict.as_json().items():
        if isinstance(count, int):
            table.add_row(name, f"{count:,}")
    out.print(table)
    for problem in verdict.problems:
        out.print(Text(f"- {printable(problem)}"))
    if not verdict.problems:
        out.print("every message has exactly one fate")
