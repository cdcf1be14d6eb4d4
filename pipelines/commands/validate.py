"""`kpiflow validate`: fates and reasons of archived messages, without writing anything."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from rich.table import Table

from pipelines.console import err, print_json, style_head
from pipelines.failures import CheckFailed
from pipelines.graph import make_rules
from pipelines.inputs import find_archives, verify_schema
from pipelines.reading_progress import show_reading
from pipelines.settings import Settings
from pipelines.text_tables import print_table
from schemas.kinds import KINDS, REPORT_KIND, Kind
from transforms.core import stage_counters
from transforms.core.counts import format_count
from transforms.core.grouping import number_groups
from transforms.core.record_batches import concat
from transforms.history.dedup import INPUTS, deduplicate
from transforms.sources.archives.archive_files import ArchiveFiles
from transforms.sources.archives.archive_reader import Unreadable, read_files
from transforms.sources.archives.archive_source import count_bytes
from transforms.validation.message_kinds import give_kind
from transforms.validation.quarantine_rows import quarantine_misfits
from transforms.validation.validate import judge_kinds

EXAMPLES = 3


@dataclass
class ValidatedFates:
    """What would become of the messages: records by table, rejected ones by reason, with some examples of
    each."""

    reports: int = 0
    records: dict[str, int] = field(default_factory=dict)
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
    schema: Annotated[
        str | None,
        typer.Option(
            "--schema",
            help="What the messages are, whatever their source says. Default: what their source says.",
            metavar="|".join(KINDS),
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any message is rejected.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check archived messages and say why invalid ones are invalid. Nothing is written."""
    archives = find_archives(files)
    schema = schema and verify_schema(schema)
    with show_reading(archives.total_bytes):
        fates = _judge_archives(archives, schema, ctx.obj.settings())
    if as_json:
        # The key `refused` is part of the command's interface.
        counts = {
            "reports": fates.reports,
            **({"records": fates.records} if fates.records else {}),
            "duplicates": fates.duplicates,
            "refused": dict(fates.rejected),
        }
        print_json(counts | {"examples": fates.examples, "unreadable": fates.unreadable})
    else:
        _print(fates)
    for problem in fates.unreadable:
        err.print(style_head("yellow", "incomplete input:", f" {problem}"))
    if fates.unreadable:
        problem = f"{format_count(len(fates.unreadable), 'input file')} could not be read to the end"
        raise CheckFailed(problem, "repair them or fetch them again")
    if strict and fates.rejected:
        problem = f"{format_count(fates.rejected.total(), 'message')} did not pass"
        raise CheckFailed(problem, "the reasons are above; without --strict the exit code is 0")


def _judge_archives(archives: ArchiveFiles, schema: str | None, settings: Settings) -> ValidatedFates:
    stage_counters.reset()
    fates, rules = ValidatedFates(), make_rules(settings)
    kept: dict[Kind, list[pa.RecordBatch]] = {kind: [] for kind in KINDS.values()}
    for chunk in read_files(archives, settings.read_mb << 20, count_bytes, settings.max_payload_bytes):
        if isinstance(chunk, Unreadable):
            fates.unreadable.append(f"{chunk.file} {chunk.reason}")
            continue
        messages, rejected = (give_kind(batch, schema) for batch in chunk)
        with stage_counters.time_stage("validate", messages.num_rows):
            for kind, judged in judge_kinds(messages, rules):
                fates.reject(judged.quarantine)
                kept[kind].append(judged.rows.select(INPUTS if kind.is_report else _name_columns(kind)))
        fates.reject(quarantine_misfits(rejected, rules.limits))
    reports = kept.pop(REPORT_KIND)
    if reports:
        unique = deduplicate(pa.Table.from_batches(reports))
        fates.reports, fates.duplicates = len(unique.rows), unique.duplicates.num_rows
    for kind, batches in kept.items():
        if batches:
            rows = concat(batches)
            count, messages_ = (_count_distinct(rows, key) for key in (kind.table.key, _name_columns(kind)))
            fates.records[kind.table.name] = count
            fates.duplicates += messages_ - count
    return fates


def _name_columns(kind: Kind) -> tuple[str, ...]:
    """What tells the messages of records apart: their key and themselves."""
    return tuple(dict.fromkeys([*kind.table.key, "source", "message_id"]))


def _count_distinct(rows: pa.RecordBatch, names: tuple[str, ...]) -> int:
    return len(np.unique(number_groups(rows, names)))


def _print(fates: ValidatedFates) -> None:
    table = Table(box=None, header_style="bold")
    for title in ("fate", "messages", "examples"):
        table.add_column(title, justify="right" if title == "messages" else "left", overflow="fold")
    table.add_row("report", f"{fates.reports:,}", "")
    for name, count in fates.records.items():
        table.add_row(name, f"{count:,}", "")
    table.add_row("duplicate", f"{fates.duplicates:,}", "")
    for reason, count in fates.rejected.most_common():
        table.add_row(f"quarantine: {reason}", f"{count:,}", "\n".join(fates.examples[reason]))
    print_table(table)
