"""`kpiflow validate`: fates and reasons of archived messages, without writing anything."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

import pyarrow as pa
import typer
from rich.table import Table

from pipelines.assembly import count_bytes
from pipelines.commands.backfill import archives
from pipelines.commands.progress import show_progress
from pipelines.console import err, out, print_json, style_head
from pipelines.failures import CheckFailed
from pipelines.graph import load_report_schema, make_rules
from pipelines.settings import Settings
from transforms.core import stage_counters
from transforms.history.dedup import INPUTS, deduplicate
from transforms.sources.archives.archive_reader import Files, Unreadable, read
from transforms.validation.quarantine_rows import quarantine_misfits
from transforms.validation.validate import judge_messages

EXAMPLES = 3


@dataclass
class Fates:
    """What would become of the messages: refused ones by reason, with some examples of each."""

    reports: int = 0
    duplicates: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def refuse(self, rows: pa.RecordBatch) -> None:
        """Count QUARANTINE rows."""
        self.refused.update(rows["reason"].to_pylist())
        for row in rows.select(["message_id", "reason", "field", "message"]).to_pylist():
            shown = self.examples.setdefault(row["reason"], [])
            if len(shown) < EXAMPLES:
                place = f" {row['field']}" if row["field"] else ""
                shown.append(f"{row['message_id']}{place}: {row['message']}")


def validate(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(help="Archives, folders or globs.", metavar="FILE...")],
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when any message is refused.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say which messages are valid and why the others are not. Nothing is written."""
    found = archives(files)
    with show_progress(found.total_bytes):
        fates = _fates(found, ctx.obj.settings())
    if as_json:
        counts = {"reports": fates.reports, "duplicates": fates.duplicates, "refused": dict(fates.refused)}
        print_json(counts | {"examples": fates.examples, "unreadable": fates.unreadable})
    else:
        _print(fates)
    for problem in fates.unreadable:
        err.print(style_head("yellow", "incomplete input:", f" {problem}"))
    refused = sum(fates.refused.values())
    if fates.unreadable:
        raise CheckFailed(
            f"{len(fates.unreadable)} input files could not be read to their end", "mend or fetch them again"
        )
    if strict and refused:
        raise CheckFailed(
            f"{refused:,} messages are not valid",
            "the reasons are above; without --strict this is no failure",
        )


def _fates(files: Files, settings: Settings) -> Fates:
    stage_counters.reset()
    fates, kept, schema, asked = Fates(), [], load_report_schema(settings), make_rules(settings)
    for block in read(files, settings.block_mb << 20, count_bytes, settings.max_payload_bytes):
        if isinstance(block, Unreadable):
            fates.unreadable.append(f"{block.file} {block.reason}")
            continue
        with stage_counters.time_stage("validate", block.raw.num_rows):
            reports, refused = judge_messages(block.raw, schema, asked)
        fates.refuse(refused)
        fates.refuse(quarantine_misfits(block.bad, asked.limits))
        kept.append(reports.select(INPUTS))
    if kept:
        unique = deduplicate(pa.Table.from_batches(kept))
        fates.reports, fates.duplicates = len(unique.rows), unique.duplicates.num_rows
    return fates


def _print(fates: Fates) -> None:
    table = Table(box=None, header_style="bold")
    for title in ("fate", "messages", "for example"):
        table.add_column(title, justify="right" if title == "messages" else "left", overflow="fold")
    table.add_row("report", f"{fates.reports:,}", "")
    table.add_row("duplicate", f"{fates.duplicates:,}", "")
    for reason, count in fates.refused.most_common():
        table.add_row(f"quarantine: {reason}", f"{count:,}", "\n".join(fates.examples[reason]))
    out.print(table)
