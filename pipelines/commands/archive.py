"""`kpiflow archive`: what Redis streams hold now, as an archive."""

import time
from pathlib import Path
from typing import Annotated

import redis as redis_py
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pipelines.assembly import connect_redis
from pipelines.console import err, out
from pipelines.failures import RunFailed, WrongUse
from schemas.readers.verdicts import Limits
from transforms.core.errors import DamagedFile, OutputFull
from transforms.redis.connection import RedisUnavailable
from transforms.redis.entry_ids import ZERO, parse_id
from transforms.sinks.archive.archive_files import REFUSED
from transforms.sinks.archive.archive_writer import ArchiveWriter
from transforms.sinks.archive.stream_archive import ArchiveSync
from transforms.sources.redis.entries import batches
from transforms.sources.redis.snapshot import Held, entries, lacks, look
from transforms.validation.quarantine_rows import quarantine_misfits

_AGAIN = "run the same command again: it goes on where the archive ends"


def archive(
    ctx: typer.Context,
    url: Annotated[
        str,
        typer.Option(
            "--redis", help="redis://HOST:PORT/DB, rediss:// for TLS, or unix:///PATH.", metavar="URL"
        ),
    ],
    streams: Annotated[
        list[str], typer.Option("--stream", help="Keys of the streams; several may follow.", metavar="KEY...")
    ],
    output: Annotated[
        Path, typer.Option("--output", help="Folder of the archive; made if it is not there.", metavar="DIR")
    ],
) -> None:
    """Keep what Redis streams hold now as envelopes, in a file for each hour, for `kpiflow backfill` to read.

    Running it again adds what has come since. Nothing is taken out of Redis. A stream's job may write the same archive (--archive).
    """
    if output.exists() and not output.is_dir():
        raise WrongUse(f"{output} is a file", "give --output a folder")
    connection = connect_redis(url, ctx.obj.settings())
    try:
        connection.check(streams)
        with connection.client() as client:
            for stream in dict.fromkeys(streams):
                _keep(client, stream, ArchiveWriter(output), output)
    except RedisUnavailable as error:
        raise WrongUse(str(error)) from error
    except redis_py.RedisError as error:
        raise RunFailed(f"Redis at {connection.public} failed: {error}", _AGAIN) from error
    except OutputFull as error:
        raise RunFailed(str(error)) from error
    except (DamagedFile, OSError) as error:
        raise RunFailed(f"cannot write {output}: {error}", _AGAIN) from error


def _keep(client: redis_py.Redis, stream: str, writer: ArchiveWriter, output: Path) -> None:
    """Archive one stream up to its end as of now."""
    held = look(client, stream)
    if held is None:
        raise WrongUse(
            f"there is no stream {stream}",
            "correct --stream, or --redis: a URL ends in the number of its database",
        )
    began = time.perf_counter()
    added = refused = 0
    after = writer.find_last(stream) or ZERO
    if lacks(client, stream, held, after):
        err.print(
            f"{stream} no longer has the entry {after}, the last in the archive: it is read from its beginning"
        )
        after = ZERO
    with Progress(*_columns(stream), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(stream, total=_left(held, after))
        for found in entries(client, stream, held.last, after):
            messages, bad = batches(stream, found)
            refused += writer.append(
                quarantine_misfits(bad, Limits()), REFUSED
            )  # first: the next run goes on after the last message
            added += writer.append(messages)
            bar.advance(task, len(found))
    ArchiveSync(output).sync([stream])
    without = f", {refused:,} of them without data" if refused else ""
    seconds = time.perf_counter() - began
    out.print(f"{added + refused:,} new entries of {stream}{without} -> {output} in {seconds:.1f} s")


def _columns(stream: str) -> tuple[TextColumn, BarColumn, MofNCompleteColumn]:
    return TextColumn(stream, markup=False), BarColumn(), MofNCompleteColumn()


def _left(held: Held, after: str) -> int | None:
    """How many entries there are after an id, where that is known."""
    if held.first is None or parse_id(held.last) <= parse_id(after):
        return 0
    return held.length if parse_id(after) < parse_id(held.first) else None
