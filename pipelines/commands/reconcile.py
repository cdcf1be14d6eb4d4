"""`kpiflow reconcile`: proof that every message has exactly one fate."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import redis as redis_py
import typer
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from pipelines.assembly import connect_redis
from pipelines.console import err, escape_line, out, print_json
from pipelines.failures import CheckFailed, RunFailed, WrongUse
from pipelines.inputs import find_archives
from pipelines.outputs import open_for_reading
from pipelines.verify.output_description import stored_settings
from pipelines.verify.reconcile import GO_ON, Messages, Track, Unreadable, Verdict
from pipelines.verify.reconcile import reconcile as check
from pipelines.verify.stream_messages import messages as held_messages
from transforms.redis.connection import Connection, RedisUnavailable
from transforms.sources.archives.archive_reader import Files, read
from transforms.sources.archives.archive_reader import Unreadable as UnreadableFile
from transforms.sources.redis.snapshot import look

BRING_REST = (
    "for what is missing even then, run `kpiflow archive` into a new folder and a backfill of that folder"
)
"""What helps where the stream cannot know that it passed over entries."""


def reconcile(
    ctx: typer.Context,
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="Output that no run is writing to: a folder, s3://, gs:// or bigquery://."
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="The archives that were read: files, folders or globs.", metavar="GLOB..."
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option("--redis", help="The server whose streams were read.", metavar="URL")
    ] = None,
    streams: Annotated[
        list[str] | None,
        typer.Option("--stream", help="Keys of these streams; several may follow.", metavar="KEY..."),
    ] = None,
    group: Annotated[
        str, typer.Option("--group", help="The consumer group of the job that read them.")
    ] = "kpiflow",
    state: Annotated[
        Path | None,
        typer.Option("--state", help="Folder of the stream's state, if it was given one.", metavar="DIR"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the counts and the problems as JSON.")
    ] = False,
) -> None:
    """Check that every message is in exactly one table, and that no file was changed, removed or put elsewhere.

    The tables alone show most of it. With --input or --redis, the source itself is compared: only then can a message that is in no
    table, and a lost file of quarantined or duplicate messages, be seen. Of a stream that is what it holds now, and what left it.
    An output that was filled from streams and from archives is compared with both. Messages that a stopped job has not committed
    and not written are no problem: they are counted, and it goes on with them.
    """
    if bool(url) != bool(streams):
        raise WrongUse(
            "--redis and --stream go together", "give the server and the keys of the streams that were read"
        )
    with (
        Progress(console=err, transient=True, disable=not err.is_terminal) as bar,
        open_for_reading(output, ctx.obj.settings()) as folder,
    ):

        def track(sequence: Sequence[Any], what: str) -> Iterable[Any]:
            return bar.track(sequence, description=what)

        archived = (
            _messages(find_archives(inputs), bar, stored_settings(folder)["max_payload_bytes"])
            if inputs
            else None
        )
        if url and streams:
            read_from = _Streams(connect_redis(url, ctx.obj.settings()), list(dict.fromkeys(streams)), group)
            verdict = _with_streams(folder, read_from, archived, state, bar, track)
        else:
            verdict = check(folder, archived, track, home=state)
    if as_json:
        print_json(verdict.as_json())
    else:
        _print(verdict)
    if verdict.problems:
        count = len(verdict.problems)
        raise CheckFailed(f"{output} does not reconcile: {count} problem{'s' * (count > 1)}")


class _Streams(NamedTuple):
    """Some streams of a Redis server, and the consumer group of the job that read them."""

    connection: Connection
    keys: list[str]
    group: str


def _with_streams(
    output: Path, streams: _Streams, archived: Messages | None, home: Path | None, bar: Progress, track: Track
) -> Verdict:
    """Compare with what the streams hold and, where archives were read too, with these."""
    connection, keys, group = streams
    try:
        connection.check(keys)
        with connection.client() as client:
            found = {stream: look(client, stream) for stream in keys}
            missing = [stream for stream, held in found.items() if held is None]
            if missing:
                raise WrongUse(
                    f"there is no stream {', '.join(missing)}",
                    "correct --stream, or --redis; an output whose stream was deleted can only be checked by itself",
                )
            task = bar.add_task("streams", total=sum(held.length for held in found.values() if held))

            def messages(unreadable: Unreadable) -> Iterator[pa.RecordBatch]:
                yield from held_messages(client, keys, group, output, lambda count: bar.advance(task, count))
                yield from archived(unreadable) if archived else ()

            return check(output, messages, track, keys, f"{GO_ON}; {BRING_REST}", home)
    except RedisUnavailable as error:
        raise WrongUse(str(error)) from error
    except redis_py.RedisError as error:
        raise RunFailed(
            f"Redis at {connection.public} failed: {error}", "run the same command again"
        ) from error


def _messages(files: Files, bar: Progress, payload_bytes: int) -> Messages:
    def messages(unreadable: Unreadable) -> Iterator[pa.RecordBatch]:
        task = bar.add_task("source", total=files.total_bytes)
        for block in read(
            files, on_bytes=lambda count: bar.advance(task, count), payload_bytes=payload_bytes
        ):
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
        out.print(Text(f"- {escape_line(problem)}"))
    if verdict.trimmed or verdict.gaps:
        more = f", and {verdict.gaps} times an unknown number" if verdict.gaps else ""
        out.print(
            f"{verdict.trimmed:,} entries{more} left their stream before they were read: see the table `trimmed`"
        )
    if verdict.uncommitted:
        out.print(f"{verdict.uncommitted:,} messages after the offset that the job has committed are not in a table yet: {GO_ON}",
                  soft_wrap=True)  # fmt: skip
    if verdict.waiting:
        out.print(
            f"{verdict.waiting:,} windows will hold their newest reports once the stream goes on: {GO_ON}",
            soft_wrap=True,
        )
    if not verdict.problems:
        out.print(f"every {'other ' if verdict.uncommitted else ''}message has exactly one fate")
