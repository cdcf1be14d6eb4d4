"""`kpiflow quarantine list|show|replay|dismiss`: quarantined messages, why they are there, and what to do
with them.
"""

import json
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.table import Table

from pipelines.commands.backfill import as_failure
from pipelines.console import err, escape_line, out, print_json, print_result, style_head
from pipelines.failures import CheckFailed, WrongUse
from pipelines.graph import make_rules
from pipelines.inputs import find_archives, verify_schema
from pipelines.jobs.dismiss import dismiss
from pipelines.jobs.quarantine import read_open_rows
from pipelines.jobs.replay import replay
from pipelines.outputs import open_for_reading
from pipelines.settings import Settings
from pipelines.summary.causes import CAUSE, count_causes, describe_causes, has_records
from pipelines.target_files import check_target, write_target
from pipelines.text_tables import print_table
from pipelines.verify.output_description import require_output
from schemas.kinds import KINDS
from schemas.readers.verdicts import MessageLimits
from schemas.registry import load
from transforms.core.counts import format_count
from transforms.core.message_encodings import PROTOBUF, add_encodings
from transforms.core.record_batches import concat
from transforms.sources.archives.archive_reader import Unreadable, read_files
from transforms.validation.quarantine_rows import quarantine_misfits

quarantine = typer.Typer(help="List, show, replay and dismiss quarantined messages.", no_args_is_help=True)

Output = Annotated[str, typer.Argument(help="A folder, s3://, gs:// or bigquery://.", metavar="OUT")]
Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Only this reason. May be repeated.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", help=f"Only this kind: {', '.join(KINDS)}. May be repeated.", metavar="KIND"),
]

CAUSES_SHOWN = 10
"""Causes of rejection that are shown after a replay."""
_DEEPEST = 512
"""No payload is shown as JSON that is nested deeper: a setting allows no more."""


@quarantine.command("list")
def list_(
    ctx: typer.Context,
    output: Output,
    kind: Kinds = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Count open messages by kind, reason, field and rule."""
    kinds = [verify_schema(name) for name in kind or ()]
    with open_for_reading(output, ctx.obj.settings()) as folder:
        counts, examples = count_causes(read_open_rows(require_output(folder), kinds=kinds))
    if as_json:
        listed = [
            {**dict(zip(CAUSE, cause)), "messages": count, "example": examples[cause]["message"]}
            for cause, count in counts.most_common()
        ]
        print_json(listed)
        return
    table = Table(box=None, header_style="bold", caption=f"{format_count(counts.total(), 'message')} open")
    shown = CAUSE if has_records(cause[0] for cause in counts) else CAUSE[1:]
    for title in (*shown, "messages", "example"):
        table.add_column(title, justify="right" if title == "messages" else "left", overflow="fold")
    for cause, count in counts.most_common():
        example = f"{examples[cause]['message_id']}: {examples[cause]['message']}"
        table.add_row(*map(escape_line, cause[-len(shown) :]), f"{count:,}", escape_line(example))
    print_table(table)


@quarantine.command()
def show(
    ctx: typer.Context,
    output: Output,
    messages: Annotated[
        list[str] | None, typer.Argument(help="Ids of messages. All messages if none is given.")
    ] = None,
    reason: Reasons = None,
    kind: Kinds = None,
    limit: Annotated[int, typer.Option(help="At most this many on the terminal.", min=1)] = 20,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write all of them as envelopes to this .ndjson file, to be corrected and replayed."
        ),
    ] = None,
) -> None:
    """Show quarantined messages, and why each was rejected."""
    if export is not None:
        check_target(export, "--export")
    kinds = [verify_schema(name) for name in kind or ()]
    with open_for_reading(output, ctx.obj.settings()) as folder:
        rows = [
            row
            for part in read_open_rows(require_output(folder), reason or (), kinds)
            for row in _filter_ids(part, messages).to_pylist()
        ]
    if export is not None:
        lines = "".join(_format_envelope(row) + "\n" for row in rows)
        write_target(export, "--export", lines.encode())
        out.print(
            f"{format_count(len(rows), 'message')} -> {export}; correct their data, "
            f"then run `kpiflow quarantine replay {output} --input {export}`"
        )
        return
    for row in rows[:limit]:
        place = " ".join(filter(None, [row["field"], row["rule"]]))
        name = escape_line(f"{row['source']}/{row['message_id']}")
        name += f" ({escape_line(row['kind'])})" if has_records([row["kind"]]) else ""
        out.print(style_head("bold", name, f" received {row['received_at'] or 'at an unknown time'}"))
        out.print(style_head("red", f"  {row['reason']}", escape_line(f" {place}: {row['message']}")))
        out.print(f"  {_format_payload(row['payload'], row['payload_bytes'], row['encoding'], row['kind'])}")
    if len(rows) > limit:
        out.print(f"... and {len(rows) - limit:,} more: --limit shows more, --export writes all")


@quarantine.command("replay")
def replay_(
    ctx: typer.Context,
    output: Output,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Corrected messages: envelopes as `quarantine show --export` writes them.",
            metavar="GLOB...",
        ),
    ] = None,
    reason: Reasons = None,
    kind: Kinds = None,
    waive_recency: Annotated[
        bool,
        typer.Option(
            "--waive-recency",
            help="Accept messages whose only problem is that they are stale or future, and record that in "
            "their rows.",
        ),
    ] = False,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="Another output of the job, which gets the results too.", metavar="OUT"),
    ] = None,
) -> None:
    """Validate quarantined messages again, as they are or corrected.

    Each message is validated as its own kind. Messages that are valid now become reports or records. No
    message is counted twice.
    """
    kinds = [verify_schema(name) for name in kind or ()]
    corrected = _read_envelopes(inputs, ctx.obj.settings()) if inputs else None
    try:
        result = replay(
            [output, *(also or [])], ctx.obj.settings(), reason or (), kinds, corrected, waive_recency
        )
    except Exception as error:
        raise as_failure(error) from error
    causes = list(describe_causes(result.refused))
    for line in causes[:CAUSES_SHOWN]:
        err.print(style_head("yellow", "still rejected:", f" {line}"))
    if len(causes) > CAUSES_SHOWN:
        more = len(causes) - CAUSES_SHOWN
        err.print(
            f"... and by {format_count(more, 'other cause')}: `kpiflow quarantine list {output}` has them all"
        )
    for name in result.unknown[:20]:
        err.print(style_head("yellow", "not open in quarantine:", escape_line(f" {name}")))
    waived = f" ({result.waived:,} of them under a waiver of recency)" if result.waived else ""
    counts = f"{result.refused.num_rows:,} still rejected, {len(result.unknown):,} not open in quarantine"
    print_result(f"{result.replayed:,} replayed{waived}, {counts}")
    if result.unknown:
        raise CheckFailed(
            "some messages of the input are not open in quarantine",
            "keep source and message_id as `kpiflow quarantine show --export` wrote them; "
            "a message that was replayed before is closed",
        )


@quarantine.command("dismiss")
def dismiss_(
    ctx: typer.Context,
    output: Output,
    reason: Annotated[
        str, typer.Option("--reason", help="Why it is dismissed; stored in the row.", metavar="TEXT")
    ],
    ids: Annotated[
        list[str] | None,
        typer.Option(
            "--id",
            help="A message as `quarantine show` names it; several may follow.",
            metavar="SOURCE/MESSAGE_ID...",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="Messages as `quarantine show --export` writes them.", metavar="GLOB..."
        ),
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option("--also", help="Another output of the job.", metavar="OUT")
    ] = None,
) -> None:
    """Close quarantined messages that were corrected at their source.

    `reconcile` then no longer expects them there.
    """
    names = ids or []
    if inputs and (exported := _read_envelopes(inputs, ctx.obj.settings())) is not None:
        names += [
            f"{row['source']}/{row['message_id']}"
            for row in exported.select(["source", "message_id"]).to_pylist()
        ]
    if not names:
        raise WrongUse("no message is given", "name each with --id SOURCE/MESSAGE_ID, or give --input FILE")
    try:
        result = dismiss([output, *(also or [])], ctx.obj.settings(), names, reason, datetime.now(UTC))
    except Exception as error:
        raise as_failure(error) from error
    for name in result.unknown[:20]:
        err.print(style_head("yellow", "not open in quarantine:", escape_line(f" {name}")))
    before = f" ({result.already:,} were dismissed before)" if result.already else ""
    print_result(f"{result.dismissed:,} dismissed{before}, {len(result.unknown):,} not open in quarantine")
    if result.unknown:
        raise CheckFailed(
            "some messages are not open in quarantine",
            f"`kpiflow quarantine show {output}` lists those that are",
        )


def _read_envelopes(inputs: list[str], settings: Settings) -> pa.RecordBatch | None:
    """The messages of some archives as one RAW batch, None without a message.

    Raises:
        WrongUse: a file cannot be read to its end, or a line is not an envelope.
    """
    parts: list[pa.RecordBatch] = []
    longest = max(kind.limit_payload(settings.max_payload_bytes) for kind in KINDS.values())
    for chunk in read_files(find_archives(inputs), payload_bytes=longest):
        if isinstance(chunk, Unreadable):
            raise WrongUse(f"{chunk.file} {chunk.reason}", "give files that can be read to their end")
        if chunk.rejected.num_rows:
            wrong = quarantine_misfits(chunk.rejected, make_rules(settings).limits)
            raise WrongUse(
                f"{wrong['message_id'][0].as_py()}: {wrong['message'][0].as_py()}", "correct the envelope"
            )
        parts.append(add_encodings(chunk.messages))
    return concat(parts) if parts else None


def _filter_ids(rows: pa.RecordBatch, messages: list[str] | None) -> pa.RecordBatch:
    return rows.filter(pc.is_in(rows["message_id"], pa.array(messages, pa.string()))) if messages else rows


def _format_envelope(row: dict[str, Any]) -> str:
    received = row["received_at"].isoformat().replace("+00:00", "Z") if row["received_at"] else None
    origin = {"source": row["source"], "message_id": row["message_id"], "received_at": received}
    payload = row["payload"] or b""
    if row["encoding"] is None:
        return json.dumps(origin | {"data": payload.decode("utf-8", "surrogateescape")})
    return json.dumps(origin | {"encoding": row["encoding"], "data": b64encode(payload).decode()})


def _format_payload(
    payload: bytes | None, whole_bytes: int | None, encoding: str | None, kind: str, length: int = 600
) -> str:
    """The beginning of a payload as text: of one of Protocol Buffers, its JSON form if it has one."""
    if payload is None:
        return ""
    if encoding == PROTOBUF and whole_bytes is None:
        from schemas.protobuf.json_form import write_json  # takes a while

        form = write_json(kind, load(kind).root, payload, MessageLimits(len(payload), _DEEPEST))
        payload = form if isinstance(form, bytes) else payload
    text = payload[:length].decode("utf-8", "backslashreplace")
    whole_bytes = len(payload) if whole_bytes is None else whole_bytes
    return text if whole_bytes <= length else f"{text}... ({whole_bytes:,} bytes)"
