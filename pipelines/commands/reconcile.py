"""`kpiflow reconcile`: proof that every message has exactly one fate."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from pipelines.commands.engines import Encodings
from pipelines.console import err, escape_line, out, print_json
from pipelines.failures import CheckFailed, RunFailed, WrongUse
from pipelines.outputs import open_for_reading
from pipelines.settings import Settings
from pipelines.sources import SourceRequest, parse_encodings, parse_live_source, parse_source, parse_streams
from pipelines.text_tables import make_table, print_table
from pipelines.verify.file_checks import READ_AGAIN
from pipelines.verify.output_description import read_row_settings
from pipelines.verify.reconcile import GO_ON, Messages, Unreadable
from pipelines.verify.reconcile import reconcile as check
from pipelines.verify.source_messages import read_gaps, read_messages
from pipelines.verify.verdict import Reconciliation
from schemas.kinds import REPORT_KIND
from transforms.core.counts import format_count
from transforms.core.errors import Refused, Unavailable
from transforms.core.message_encodings import ENCODING, give_encodings
from transforms.sources.source import Source, SourceSnapshot
from transforms.validation.message_kinds import KIND, give_kinds

BRING_REST = (
    "for what is missing even then, run `kpiflow archive` into a new folder and a backfill of that folder"
)
"""What helps where the stream cannot know that it passed over entries."""


def reconcile(
    ctx: typer.Context,
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="Output that no job is writing to: a folder, s3://, gs:// or bigquery://."
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="The archives that were read: files, folders or globs.",
            metavar="GLOB[=SCHEMA]...",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--redis", "--source", help="The source whose streams were read.", metavar="URL"),
    ] = None,
    streams: Annotated[
        list[str] | None,
        typer.Option(
            "--stream", help="Keys of these streams; several may follow.", metavar="KEY[=SCHEMA]..."
        ),
    ] = None,
    group: Annotated[
        str, typer.Option("--group", help="The consumer group of the job that read them.")
    ] = "kpiflow",
    state: Annotated[
        Path | None,
        typer.Option("--state", help="Folder of the stream's state, if it was given one.", metavar="DIR"),
    ] = None,
    encoding: Encodings = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the counts and the problems as JSON.")
    ] = False,
) -> None:
    """Check that every message is in exactly one table, and that no file was changed, removed or moved.

    The tables alone show most of it. With --input or --redis, they are compared with the source too: only
    that shows a message that is in no table, and a lost file of quarantined or duplicate messages. A stream
    is compared by what it contains now and what has left it. If an output was filled from streams and from
    archives, give both. Messages that a stopped job has not committed and not written are no problem: they
    are counted, and its next run writes them.
    """
    if bool(url) != bool(streams):
        raise WrongUse(
            "--redis and --stream go together", "give the server and the keys of the streams that were read"
        )
    settings: Settings = ctx.obj.settings()
    given = parse_streams(streams or [])
    keys = given.keys
    encodings = parse_encodings(encoding or (), keys)
    with (
        Progress(console=err, transient=True, disable=not err.is_terminal) as bar,
        open_for_reading(output, settings) as folder,
        ExitStack() as opened,
    ):

        def track(sequence: Sequence[Any], what: str) -> Iterable[Any]:
            return bar.track(sequence, description=what)

        sources: list[Source] = []
        if url and keys:
            sources.append(parse_live_source(url, keys, group, settings))
        if inputs:
            sources.append(_parse_archives(inputs, folder, settings))
        snapshots = [_open_snapshot(source, folder, opened) for source in sources]
        messages = _read_all(snapshots, folder, bar) if snapshots else None
        payloads = partial(_read_payloads, snapshots, given.kinds, encodings) if snapshots else None
        read_again = f"{GO_ON}; {BRING_REST}" if streams else READ_AGAIN
        try:
            verdict = check(folder, messages, track, keys or None, read_again, state, payloads)
        except Unavailable as error:
            raise RunFailed(str(error), "run the same command again") from error
    if as_json:
        print_json(verdict.as_json())
    else:
        _print(verdict)
    if verdict.problems:
        count = format_count(len(verdict.problems), "problem")
        raise CheckFailed(f"{output} does not reconcile: {count}")


def _parse_archives(inputs: Sequence[str], folder: Path, settings: Settings) -> Source:
    """Archives, to be read with the size of payloads with which the output was written."""
    stored = {"max_payload_bytes": read_row_settings(folder)["max_payload_bytes"]}
    return parse_source(SourceRequest(tuple(inputs)), settings.model_copy(update=stored))


def _open_snapshot(source: Source, output: Path, opened: ExitStack) -> SourceSnapshot:
    try:
        return opened.enter_context(source.snapshot(read_gaps(output)))
    except (Unavailable, Refused) as error:
        raise WrongUse(str(error)) from error


def _read_all(snapshots: Sequence[SourceSnapshot], output: Path, bar: Progress) -> Messages:
    """What reads the messages of all snapshots, one after the other, and shows how far it is."""
    tasks = [bar.add_task("source", total=snapshot.size) for snapshot in snapshots]

    def read(unreadable: Unreadable) -> Iterator[pa.RecordBatch]:
        for snapshot, task in zip(snapshots, tasks):
            yield from read_messages(snapshot, output, partial(bar.advance, task), unreadable)

    return read


def _read_payloads(
    snapshots: Sequence[SourceSnapshot], kinds: Mapping[str, str], encodings: Mapping[str, str]
) -> Iterator[pa.RecordBatch]:
    """The messages of all snapshots again, whole, with what was given for their streams."""
    for snapshot in snapshots:
        for batch in snapshot.payloads():
            known = batch if KIND.name in batch.schema.names else give_kinds(batch, kinds)
            yield known if ENCODING.name in known.schema.names else give_encodings(known, encodings)


def _print(verdict: Reconciliation) -> None:
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, count in verdict.as_json().items():
        if isinstance(count, int) and (count or name not in ("records", "expired")):
            table.add_row(name, f"{count:,}")
    print_table(table)
    if verdict.records or verdict.kinds.keys() - {REPORT_KIND.schema}:
        print_table(_tabulate_kinds(verdict.as_json()["kinds"]))
    for problem in verdict.problems:
        out.print(Text(f"- {escape_line(problem)}"))
    if verdict.trimmed or verdict.gaps:
        more = f", and {format_count(verdict.gaps, 'time')} an unknown number" if verdict.gaps else ""
        left = f"{format_count(verdict.trimmed, 'entry')}{more} left their stream before they were read"
        out.print(f"{left}: see the table `trimmed`")
    if verdict.uncommitted:
        late = format_count(verdict.uncommitted, "message")
        out.print(f"not in a table yet: {late} after the offset that the job has committed: {GO_ON}")
    if verdict.waiting:
        windows = format_count(verdict.waiting, "window")
        out.print(f"{windows} will contain the newest reports after the next run: {GO_ON}")
    if not verdict.problems:
        out.print(f"every {'other ' if verdict.uncommitted else ''}message has exactly one fate")


def _tabulate_kinds(kinds: dict[str, dict[str, int]]) -> Table:
    titles = ("stored", "duplicates", "quarantined")
    table = make_table(["kind"], titles)
    for kind, counts in kinds.items():
        table.add_row(kind, *(f"{counts[title]:,}" for title in titles))
    return table
