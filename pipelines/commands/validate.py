"""`kpiflow validate`: fates and reasons of archived messages, without writing anything."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

import pyarrow as pa
import typer
from rich.table import Table

from pipelines.console import err, out, print_json, style_head
from pipelines.failures import CheckFailed
from pipelines.graph import load_report_schema, make_rules
from pipelines.inputs import find_archives
from pipelines.progress import show_reading
from pipelines.settings import Settings
from transforms.core import stage_counters
from transforms.history.dedup import INPUTS, deduplicate
from transforms.sources.archives.archive_files import Files
from transforms.sources.archives.archive_reader import Unreadable, read_files
from transforms.sources.archives.archive_source import count_bytes
from transforms.validation.quarantine_rows import quarantine_misfits
from transforms.validation.validate import judge_messages

EXAMPLES = 3


@dataclass
class Fates:
    """What would become of the messages: rejected ones by reason, with some examples of each."""

    reports: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def reject(self, rows: pa.RecordBatch) -> None:
        """Count QUARANTINE rows."""
        self.rejected.update(rows["reason"].to_pylist())
        for row in rows.select(["message_id", "reason", "field", "message"]).to_pylist():
            examples = self.examples.setdefault(row["reason"], [])
            if len(examples) < EXAMPLES:
                place = f" {row['field']}" if row["field"] else ""
                examples.append(f"{row['message_id']}{place}: {row['message']}")


def validate(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(help="Archives, folders or globs.", metavar="FILE...")],
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any message is rejected.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check archived messages and say why invalid ones are invalid. Nothing is written."""
    archives = find_archives(files)
    with show_reading(archives.total_bytes):
        fates = _judge_archives(archives, ctx.obj.settings())
    if as_json:
        # The key `refused` is part of the command's interface.
        counts = {
            "reports": fates.reports,
            "duplicates": fates.duplicates,
            "refused": dict(fates.rejected),
        }
        print_json(counts | {"examples": fates.examples, "unreadable": fates.unreadable})
    else:
        _print(fates)
    for problem in fates.unreadable:
        err.print(style_head("yellow", "incomplete input:", f" {problem}"))
    if fates.unreadable:
        problem = f"{len(fates.unreadable)} input files could not be read to their end"
        raise CheckFailed(problem, "repair them or fetch them again")
    if strict and fates.rejected:
        problem = f"{fates.rejected.total():,} messages are not valid"
        raise CheckFailed(problem, "the reasons are above; without --strict the exit code is 0")


def _judge_archives(archives: Files, settings: Settings) -> Fates:
    stage_counters.reset()
    fates, kept = Fates(), []
    schema, rules = load_report_schema(settings), make_rules(settings)
    for chunk in read_files(archives, settings.read_mb << 20, count_bytes, settings.max_payload_bytes):
        if isinstance(chunk, Unreadable):
            fates.unreadable.append(f"{chunk.file} {chunk.reason}")
            continue
        with stage_counters.time_stage("validate", chunk.messages.num_rows):
            reports, rejected = judge_messages(chunk.messages, schema, rules)
        fates.reject(rejected)
        fates.reject(quarantine_misfits(chunk.rejected, rules.limits))
        kept.append(reports.select(INPUTS))
    if kept:
        unique = deduplicate(pa.Table.from_batches(kept))
        fates.reports, fates.duplicates = len(unique.rows), unique.duplicates.num_rows
    return fates


def _print(fates: Fates) -> None:
    table = Table(box=None, header_style="bold")
    for title in ("fate", "messages", "examples"):
        table.add_column(title, justify="right" if title == "messages" else "left", overflow="fold")
    table.add_row("report", f"{fates.reports:,}", "")
    table.add_row("duplicate", f"{fates.duplicates:,}", "")
    for reason, count in fates.rejected.most_common():
        table.add_row(f"quarantine: {reason}", f"{count:,}", "\n".join(fates.examples[reason]))
    out.print(table)
